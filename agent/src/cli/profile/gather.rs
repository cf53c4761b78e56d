//! One window of a member: CPU profile, two pages, two readings of the node, its slow lines, goroutines twice, then the heap.
//!
//! Owns the order: heap and goroutines come before and after the CPU profile, which would show them, and Go's search for leaks
//! last, as it collects garbage. Refuses to fail for a part that is missing: each says why instead.

use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use collectors::host::{self, Host, Watched};
use collectors::target::Target;
use model::host::{HostFact, Process};
use model::ledger::Ledger;
use model::profile::Stacks;
use model::record::Fact;
use model::scrape::{Scrape, ScrapeOutcome};
use model::time::{Clock, Stamp};
use profile::fetch::{self, FetchError};
use profile::goheap::HeapError;
use profile::gopprof;
use profile::kernel::Account;
use profile::perf::attr::STACK_BYTES;
use profile::perf::refusal::Refusal;
use profile::perf::target::Target as Sampled;
use tokio::sync::watch;

use super::bar::Bar;
use super::choose::Endpoint;
use super::goroutines::{Goroutines, Look, Searched};
use super::heap::Heap;
use super::sampling::{self, Ended, Engine, Sampling};
use super::slow::{Slow, Tail};
use super::waiting;

/// How often the bar is drawn.
pub(super) const DRAW_EVERY: Duration = Duration::from_millis(200);

/// What the window showed.
#[derive(Debug)]
pub(super) struct Gathered {
    /// When it began.
    pub(super) at: Stamp,
    /// How long it was, by the two pages, nanoseconds: the CPU profile and the first look at goroutines.
    pub(super) window_ns: u64,
    /// Ended by Ctrl-C.
    pub(super) interrupted: bool,
    /// Pages at its beginning and end.
    pub(super) pages: (Option<Scrape>, Option<Scrape>),
    /// The node at its beginning and end; `None` for a member elsewhere.
    pub(super) node: (Option<HostFact>, Option<HostFact>),
    /// How long etcd's threads could run and had no CPU, nanoseconds.
    pub(super) waited_ns: Option<u64>,
    /// CPU.
    pub(super) cpu: Result<Stacks, Missing>,
    /// What waited, where that was asked for.
    pub(super) off_cpu: Option<Stacks>,
    /// How sure both are, where the kernel's events gave them.
    pub(super) account: Option<Box<Account>>,
    /// Why the kernel's events did not.
    pub(super) refused: Option<Refusal>,
    /// Live heap.
    pub(super) heap: Result<Stacks, Missing>,
    /// What was allocated in the window, where the heap was read from memory.
    pub(super) allocated: Option<Stacks>,
    /// Goroutines.
    pub(super) goroutines: Goroutines,
    /// Bytes of all profiles as sent.
    pub(super) bytes: usize,
    /// How long the heap call took, nanoseconds.
    pub(super) heap_ns: u64,
    /// Slow lines; `None` when the log is not known or not readable.
    pub(super) slow: Option<Slow>,
    /// CPU time that this process took, nanoseconds.
    pub(super) own_cpu_ns: Option<u64>,
}

/// Why a profile is missing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Missing {
    /// No address to ask.
    #[error("no pprof endpoint; etcd serves one with --enable-pprof")]
    NoAddress,
    /// The member's answer.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// Not what it should be.
    #[error("bad profile: {0}")]
    Bad(#[from] gopprof::DecodeError),
    /// Its memory does not tell.
    #[error("read from memory: {0}")]
    Memory(#[from] HeapError),
    /// Ctrl-C.
    #[error("interrupted")]
    Interrupted,
}

/// Takes the window.
pub(super) struct Gatherer<'a> {
    /// The member.
    pub(super) target: &'a Target,
    /// Its profiles.
    pub(super) endpoint: Option<&'a Endpoint>,
    /// By what its stacks are taken.
    pub(super) sampling: Sampling,
    /// Its metrics.
    pub(super) scraper: Option<collectors::scrape::Scraper>,
    /// Time.
    pub(super) clock: &'a Clock,
}

impl Gatherer<'_> {
    /// All of it; takes the window's length and a few seconds at most.
    pub(super) async fn gather(mut self, length: Duration) -> Gathered {
        let mut host = self.host();
        let tail = self.target.log_file.as_deref().and_then(Tail::begin);
        let (first_page, first_node) = self.look(&mut host).await;
        let waited = self.target.pid.and_then(waiting::total_ns);
        let read = match self.target.pid.filter(|_| self.sampling.heap && self.target.local) {
            Some(pid) => Some(Heap::begin(pid, self.clock).await),
            None => None,
        };
        let began = self.clock.now();
        let first = if is_silent(first_page.as_ref()) { None } else { Some(Look::take(&self).await) };
        let at = self.clock.now();
        let (seen, refused) = self.sampled(length, at).await;
        let seen = match seen {
            Some(seen) => seen,
            None => self.fetched(length, at, is_up(first_page.as_ref())).await,
        };
        let interrupted = seen.interrupted;
        let window_ns = self.clock.now().since_ns(began);
        let waited_end = self.target.pid.and_then(waiting::total_ns);
        let (last_page, last_node) = self.look(&mut host).await;
        let before = self.clock.now();
        let heap = self.snapshot(fetch::Endpoint::Heap, &seen).await;
        let heap_ns = self.clock.now().since_ns(before);
        let bytes = heap.as_ref().map_or(0, Vec::len);
        let heap = decode(heap, fetch::Endpoint::Heap, before);
        let (heap, allocated) = self.with_memory(heap, read).await;
        let is_same = last_page.as_ref().is_none_or(|page| !page.restarted);
        let goroutines = self.goroutines(first.filter(|_| is_same), &seen).await;
        let end = self.clock.now();
        let own = |fact: &Option<HostFact>| Some(process(fact.as_ref()?, std::process::id())?.cpu_ns);
        let own_end = own(&host.read().await.ok());
        let own_cpu_ns = own_end.zip(own(&first_node)).map(|(end, begin)| end.saturating_sub(begin));
        let (first_node, last_node) = if self.target.local { (first_node, last_node) } else { (None, None) };
        Gathered {
            at,
            window_ns,
            interrupted,
            // Threads that ended took their account along: at worst too little.
            waited_ns: waited_end.zip(waited).map(|(end, begin)| end.saturating_sub(begin)),
            pages: (first_page, last_page),
            node: (first_node, last_node),
            cpu: seen.cpu,
            off_cpu: seen.off_cpu,
            account: seen.account,
            refused,
            heap,
            allocated,
            bytes: bytes + seen.bytes + goroutines.bytes,
            goroutines,
            heap_ns,
            slow: tail.and_then(|tail| tail.end(end.wall_ns)),
            own_cpu_ns,
        }
    }

    /// What its memory tells, where that was asked for: it needs no endpoint, and knows what was allocated.
    async fn with_memory(
        &self,
        fetched: Result<Stacks, Missing>,
        read: Option<Heap>,
    ) -> (Result<Stacks, Missing>, Option<Stacks>) {
        let Some(read) = read else { return (fetched, None) };
        match read.end(self.clock).await {
            Ok(heaps) => (Ok(heaps.in_use), heaps.allocated),
            Err(error) => (fetched.map_err(|_| error.into()), None),
        }
    }

    fn host(&self) -> Host {
        let pids = self.target.pid.into_iter().chain([std::process::id()]);
        let watched = pids.map(|pid| Watched { pid, role: None }).collect();
        let (_, watched) = watch::channel(watched);
        Host::new(PathBuf::from("/"), host::Config::default(), watched, self.clock.clone(), Ledger::default())
    }

    async fn look(&mut self, host: &mut Host) -> (Option<Scrape>, Option<HostFact>) {
        let page = async {
            match self.scraper.as_mut()?.scrape().await.fact {
                Fact::Scrape(page) => Some(page),
                _ => None,
            }
        };
        let (page, node) = tokio::join!(page, host.read());
        (page, node.ok())
    }

    /// The stacks by the kernel's events; `None` where there are none, with the reason unless none were wanted.
    async fn sampled(&self, length: Duration, at: Stamp) -> (Option<Window>, Option<Refusal>) {
        let pid = self.target.pid.filter(|_| self.target.local && self.sampling.engine != Engine::Pprof);
        let Some(pid) = pid else { return (None, None) };
        let wish = self.sampling.wish(Sampled::Pids(vec![pid]), STACK_BYTES);
        let kernel = match sampling::start(wish, at).await {
            Ok(kernel) => kernel,
            Err(refusal) => return (None, Some(refusal)),
        };
        let bar = Bar::on_terminal(&self.target.name);
        let ended = sampling::watch(&kernel, length, (self.clock, at), bar, pending::<()>()).await;
        match sampling::end(kernel, self.clock.now()).await {
            Ok(sampled) => {
                let window = Window {
                    cpu: Ok(sampled.cpu),
                    off_cpu: sampled.off_cpu,
                    account: Some(Box::new(sampled.account)),
                    bytes: 0,
                    interrupted: ended == Ended::Interrupted,
                };
                (Some(window), None)
            }
            Err(refusal) => (None, Some(refusal)),
        }
    }

    /// The CPU profile of the endpoint; where there is none the whole window all the same, for the pages' sake.
    async fn fetched(&self, length: Duration, at: Stamp, up: bool) -> Window {
        let mut bar = Bar::on_terminal(&self.target.name);
        let seconds = u32::try_from(length.as_secs()).unwrap_or(1).max(1);
        let profile = async {
            let cpu = self.fetch(fetch::Endpoint::Cpu { seconds }).await;
            let passed = Duration::from_nanos(self.clock.now().since_ns(at));
            // A member that answers nothing, or refuses us, has nothing to show at the window's end either.
            if up
                && cpu.as_ref().is_err_and(|why| !matches!(why, Missing::Fetch(FetchError::NotPermitted(_))))
            {
                tokio::time::sleep(length.saturating_sub(passed)).await;
            }
            cpu
        };
        tokio::pin!(profile);
        let stop = tokio::signal::ctrl_c();
        tokio::pin!(stop);
        let mut draw = tokio::time::interval(DRAW_EVERY);
        let (cpu, interrupted) = loop {
            tokio::select! {
                cpu = &mut profile => break (cpu, false),
                _ = &mut stop => break (Err(Missing::Interrupted), true),
                _ = draw.tick() => if let Some(bar) = &mut bar {
                    bar.draw(Duration::from_nanos(self.clock.now().since_ns(at)), length, None);
                },
            }
        };
        let bytes = cpu.as_ref().map_or(0, Vec::len);
        let cpu = decode(cpu, fetch::Endpoint::Cpu { seconds: 0 }, at);
        Window { cpu, off_cpu: None, account: None, bytes, interrupted }
    }

    /// One answer of the endpoint.
    pub(super) async fn fetch(&self, what: fetch::Endpoint) -> Result<Vec<u8>, Missing> {
        let endpoint = self.endpoint.ok_or(Missing::NoAddress)?;
        let body = fetch::get(&endpoint.pprof.client, &endpoint.pprof.base_url, what).await;
        body.map_err(|error| match error {
            FetchError::NotPermitted(_) | FetchError::AnotherProfileRunning => error.into(),
            // Not where etcd said that it serves them: whatever answers there, it is not pprof.
            _ if endpoint.guessed => FetchError::NoEndpoint.into(),
            error => error.into(),
        })
    }

    async fn snapshot(&self, what: fetch::Endpoint, seen: &Window) -> Result<Vec<u8>, Missing> {
        match seen.why_not() {
            None => self.fetch(what).await,
            Some(why) => Err(why),
        }
    }

    async fn goroutines(&self, first: Option<Look>, seen: &Window) -> Goroutines {
        let (first, last) = match (seen.why_not(), first) {
            (Some(why), first) => return Goroutines::new(first, Look::missing(why), Searched::No),
            (None, Some(first)) if first.has_no_endpoint() => {
                return Goroutines::new(None, first, Searched::No);
            }
            (None, first) => (first, Look::take(self).await),
        };
        let searched = if last.is_counted() { Searched::ask(self).await } else { Searched::No };
        Goroutines::new(first, last, searched)
    }
}

/// The stacks of the window.
struct Window {
    cpu: Result<Stacks, Missing>,
    off_cpu: Option<Stacks>,
    account: Option<Box<Account>>,
    /// Fetched for it.
    bytes: usize,
    interrupted: bool,
}

impl Window {
    /// Why heap and goroutines are not asked for: the CPU's answer says that nobody serves them.
    fn why_not(&self) -> Option<Missing> {
        match &self.cpu {
            _ if self.interrupted => Some(Missing::Interrupted),
            Ok(_) | Err(Missing::Fetch(FetchError::AnotherProfileRunning | FetchError::Torn(_))) => None,
            Err(why) => Some(why.clone()),
        }
    }
}

/// The stacks of an answer.
pub(super) fn decode(
    body: Result<Vec<u8>, Missing>,
    endpoint: fetch::Endpoint,
    at: Stamp,
) -> Result<Stacks, Missing> {
    body.and_then(|body| Ok(gopprof::decode(&body, endpoint.kind(), at)?.0))
}

fn is_up(page: Option<&Scrape>) -> bool {
    page.is_some_and(|page| page.outcome == ScrapeOutcome::Up)
}

/// One that accepts and does not answer is waited for once, for its CPU profile.
fn is_silent(page: Option<&Scrape>) -> bool {
    let outcome = page.map(|page| &page.outcome);
    matches!(outcome, Some(ScrapeOutcome::Down { reason, .. }) if reason == "timeout")
}

/// One process of a reading.
pub(super) fn process(fact: &HostFact, pid: u32) -> Option<&Process> {
    fact.processes.iter().find(|process| process.pid == pid)
}
