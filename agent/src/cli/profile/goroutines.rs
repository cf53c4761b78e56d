//! Goroutines of a member that serves its profiles, at both ends of the window.
//!
//! Owns what is asked for, and of how many goroutines how much: the member stands still while it lists them one by one.

use model::profile::Stacks;
use profile::fetch::{Endpoint, FetchError};
use profile::goroutines::text::{self, Group};
use profile::goroutines::{self, Moment, Row};

use super::gather::{self, Gatherer, Missing};

/// More goroutines are counted and not listed: a member stands still for 5 µs for each of ten frames, 27 ms for so many. Raft's
/// heartbeats come every 100 ms.
const LISTED_MAX: u64 = 5_000;

/// One look at them.
#[derive(Debug)]
pub(super) struct Look {
    counts: Result<Stacks, Missing>,
    listed: Result<Vec<Group>, Unlisted>,
    at_ns: u64,
    bytes: usize,
    took_ns: u64,
}

/// Why it is not known what goroutines wait for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Unlisted {
    /// It would stand still for too long.
    #[error("{0} goroutines are more than {LISTED_MAX}, and the member stands still while it lists them")]
    TooMany(u64),
    /// No list.
    #[error(transparent)]
    Missing(#[from] Missing),
}

impl Look {
    /// Counts them, and lists them where there are not too many.
    pub(super) async fn take(gatherer: &Gatherer<'_>) -> Look {
        let at = gatherer.clock.now();
        let counts = gatherer.fetch(Endpoint::Goroutine).await;
        let mut bytes = counts.as_ref().map_or(0, Vec::len);
        let counts = gather::decode(counts, Endpoint::Goroutine, at);
        let listed = match &counts {
            Err(missing) => Err(missing.clone().into()),
            Ok(counts) if total(counts) > LISTED_MAX => Err(Unlisted::TooMany(total(counts))),
            Ok(_) => {
                let list = gatherer.fetch(Endpoint::GoroutineText).await;
                bytes += list.as_ref().map_or(0, Vec::len);
                list.map(|list| text::parse(&list).0).map_err(Unlisted::Missing)
            }
        };
        let took_ns = gatherer.clock.now().since_ns(at);
        Look { counts, listed, at_ns: at.mono_ns, bytes, took_ns }
    }

    /// None, and why.
    pub(super) fn missing(missing: Missing) -> Look {
        Look { counts: Err(missing.clone()), listed: Err(missing.into()), at_ns: 0, bytes: 0, took_ns: 0 }
    }

    /// Whether nobody serves them, so that asking again is of no use.
    pub(super) fn has_no_endpoint(&self) -> bool {
        matches!(&self.counts, Err(Missing::NoAddress | Missing::Fetch(FetchError::NoEndpoint)))
    }

    /// Whether they were counted.
    pub(super) fn is_counted(&self) -> bool {
        self.counts.is_ok()
    }

    fn moment(&self) -> Option<Moment<'_>> {
        let counts = self.counts.as_ref().ok()?;
        Some(Moment { counts, text: self.listed.as_deref().ok() })
    }
}

/// What Go itself finds leaked: goroutines that nobody can ever wake. A search is a garbage collection.
#[derive(Debug)]
pub(super) enum Searched {
    /// This version of Go does not search, or was not asked.
    No,
    /// It was asked and did not answer.
    Failed(Missing),
    /// What it found, by stack; may be nothing.
    Found(Vec<Row>),
}

impl Searched {
    /// Asks for it.
    pub(super) async fn ask(gatherer: &Gatherer<'_>) -> Searched {
        let at = gatherer.clock.now();
        let found = gatherer.fetch(Endpoint::GoroutineLeak).await;
        match gather::decode(found, Endpoint::GoroutineLeak, at) {
            Ok(stacks) => {
                let rows = goroutines::join(None, Moment { counts: &stacks, text: None });
                Searched::Found(rows.into_iter().filter(|row| row.after > 0).collect())
            }
            Err(Missing::NoAddress | Missing::Fetch(FetchError::NoEndpoint)) => Searched::No,
            Err(missing) => Searched::Failed(missing),
        }
    }
}

/// Both looks, joined.
#[derive(Debug)]
pub(super) struct Goroutines {
    /// The later counts.
    pub(super) counts: Result<Stacks, Missing>,
    /// The earlier counts of the same process.
    pub(super) earlier: Option<Stacks>,
    /// From the earlier to the later ones, nanoseconds.
    pub(super) apart_ns: u64,
    /// By stack, most first.
    pub(super) rows: Vec<Row>,
    /// Why it is not known what they wait for.
    pub(super) unlisted: Option<Unlisted>,
    /// What Go itself says.
    pub(super) searched: Searched,
    /// Bytes of all answers.
    pub(super) bytes: usize,
    /// How long all calls took, nanoseconds.
    pub(super) took_ns: u64,
}

impl Goroutines {
    /// Joins them; a first look at a process that has gone since is none.
    pub(super) fn new(first: Option<Look>, last: Look, searched: Searched) -> Goroutines {
        let (bytes, took_ns) = match &first {
            Some(first) => (first.bytes + last.bytes, first.took_ns.saturating_add(last.took_ns)),
            None => (last.bytes, last.took_ns),
        };
        let apart_ns = first.as_ref().map_or(0, |first| last.at_ns.saturating_sub(first.at_ns));
        let earlier = first.filter(Look::is_counted);
        let rows = match last.moment() {
            Some(now) => goroutines::join(earlier.as_ref().and_then(Look::moment), now),
            None => Vec::new(),
        };
        let earlier = earlier.and_then(|look| look.counts.ok());
        let unlisted = last.listed.err();
        Goroutines { counts: last.counts, earlier, apart_ns, rows, unlisted, searched, bytes, took_ns }
    }
}

/// How many there are.
pub(super) fn total(counts: &Stacks) -> u64 {
    counts.samples.iter().map(|sample| u64::try_from(sample.value).unwrap_or(0)).fold(0, u64::saturating_add)
}
