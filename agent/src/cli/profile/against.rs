//! `--against FILE|last`: what was before, a file or what the daemon has kept, and what has changed since.
//!
//! Owns whose part of the ring is looked at. Refuses to compare with what it does not have: it says so, and a rule of
//! `--fail-on` is then not passed but missing its other half.

use std::convert::Infallible;
use std::path::{Path, PathBuf};
use std::str::FromStr;

use anyhow::anyhow;
use model::profile::{ProfileSet, Stacks};
use model::time::{SECOND_NS, Stamp};
use profile::history::Boot;
use profile::history::reader::Reader;
use profile::history::selection::{Filter, Range};

use crate::cli::diff::{self, Rule};
use crate::cli::opened::{self, Opened, Side};
use crate::cli::{Exit, Failure};

/// The word for what the daemon has kept.
const LAST: &str = "last";

/// What a capture is held against.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Against {
    /// The daemon's ring.
    Last,
    /// A pprof file, or a capture's folder.
    File(PathBuf),
}

impl FromStr for Against {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Against, Infallible> {
        Ok(if text == LAST { Against::Last } else { Against::File(PathBuf::from(text)) })
    }
}

/// Whose samples are looked for in the ring.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Whose {
    /// All there are.
    Everybody,
    /// These processes, else those of that name: what is looked at now may have been started since.
    Of {
        /// Numbers.
        pids: Vec<u32>,
        /// As the kernel has it.
        process: Option<String>,
    },
}

/// What was before.
#[derive(Debug)]
pub(super) struct Earlier {
    profiles: Vec<Opened>,
    /// Where it is from, for people.
    told: String,
}

/// Finds it, before anybody waits for a capture. The inner error is a sentence: there is nothing, which is an error of its own
/// where a rule needs it.
pub(super) fn find(
    against: &Against,
    rules: &[Rule],
    history: &Path,
    (whose, now): (&Whose, Stamp),
) -> Result<Result<Earlier, String>, Failure> {
    let found = match against {
        Against::File(path) => {
            let profiles = opened::open(path, Side::Capture, None)?;
            Ok(Earlier { profiles, told: path.display().to_string() })
        }
        Against::Last => kept(history, whose, now)?,
    };
    match found {
        Err(why) if !rules.is_empty() => Err(Failure::new(Exit::Data, anyhow!("--fail-on: {why}"))),
        found => Ok(found),
    }
}

fn kept(history: &Path, whose: &Whose, now: Stamp) -> Result<Result<Earlier, String>, Failure> {
    let reader = Reader::open(history).map_err(|error| Failure::new(Exit::Data, error))?;
    // The daemon's monotonic clock goes on over restarts of the machine, ours does not: as from another boot that has just
    // begun, windows are chosen by the wall clock.
    let chosen = reader.choose_baseline(Stamp { mono_ns: 0, ..now }, Boot::default(), None);
    let found = chosen.range.and_then(|range| of(&reader, range, whose));
    let Some(profile) = found else {
        let there = reader.windows().len();
        return Ok(Err(format!(
            "no earlier profile of it in {} ({there} windows there): the daemon keeps one wherever it may sample",
            history.display()
        )));
    };
    let minutes = |ns: u64| ns as f64 / (60 * SECOND_NS) as f64;
    let told = format!(
        "{:.1} min that the daemon kept, until {:.1} min ago",
        minutes(profile.counts.duration_ns),
        minutes(chosen.age_ns)
    );
    Ok(Ok(Earlier { profiles: vec![profile], told }))
}

fn of(reader: &Reader, range: Range, whose: &Whose) -> Option<Opened> {
    let select = |filter: Filter| {
        let selection = reader.select(range, &filter);
        let counts = selection.joined()?;
        (counts.samples > 0).then_some(Opened { stacks: selection.stacks, counts })
    };
    let (pids, process) = match whose {
        Whose::Everybody => return select(Filter::default()),
        Whose::Of { pids, process } => (pids.clone(), process.clone()),
    };
    // By both: the number of one that has ended may be another's now.
    let by_number = if pids.is_empty() {
        None
    } else {
        select(Filter { pids, process: process.clone(), ..Filter::default() })
    };
    by_number.or_else(|| process.and_then(|name| select(Filter { process: Some(name), ..Filter::default() })))
}

/// What the comparison came to.
#[derive(Debug, Default)]
pub(super) struct Held {
    /// For people.
    pub(super) lines: Vec<String>,
    /// What was before, for the files.
    pub(super) before: Option<ProfileSet>,
    /// Whether a rule was hit.
    pub(super) is_failed: bool,
}

/// Holds a capture against it.
pub(super) fn hold(earlier: Option<Result<Earlier, String>>, set: &ProfileSet, rules: &[Rule]) -> Held {
    let Earlier { profiles, told } = match earlier {
        None => return Held::default(),
        Some(Err(why)) => return Held { lines: vec![why], ..Held::default() },
        Some(Ok(earlier)) => earlier,
    };
    let stacks: Vec<Stacks> = profiles.iter().map(|opened| opened.stacks.clone()).collect();
    let at = stacks.first().map(|stacks| stacks.at).unwrap_or_default();
    let counts = profiles.iter().map(|opened| opened.counts.clone()).collect();
    let before = ProfileSet::new("", at, counts, stacks);
    let now = set.stacks.iter().zip(&set.counts);
    let now = now.map(|(stacks, counts)| Opened { stacks: stacks.clone(), counts: counts.clone() }).collect();
    let Some((lines, is_failed)) = diff::held(profiles, now, rules) else {
        let lines = vec![format!("against {told}: no kind of profile in common")];
        return Held { lines, before: None, is_failed: !rules.is_empty() };
    };
    let lines = [format!("against {told}:")].into_iter().chain(lines).collect();
    Held { lines, before: Some(before), is_failed }
}

#[cfg(test)]
mod tests {
    use model::profile::{Frame, Function, Losses, Owner, ProfileKind, StackSample};
    use profile::history::writer::Writer;
    use profile::history::{Limits, Window};

    use super::*;

    /// A window in which one process was in one function.
    fn window(at_s: u64, (pid, process): (u32, &str), function: &str) -> Window {
        let owner = Owner { pid, process: process.to_owned(), ..Owner::default() };
        let function = Function { name: function.to_owned(), ..Function::default() };
        let sample = StackSample { frames: vec![0], value: 1_000_000_000, count: 19, owner: 0 };
        let at = Stamp::default().plus_ns(at_s * SECOND_NS);
        let stacks = Stacks {
            kind: ProfileKind::Cpu,
            at,
            duration_ns: 10 * SECOND_NS,
            period: SECOND_NS / 19,
            mappings: Vec::new(),
            functions: vec![function],
            frames: vec![Frame { mapping: u32::MAX, ..Frame::default() }],
            owners: vec![owner],
            samples: vec![sample],
            losses: Losses::default(),
            pprof: Vec::new(),
        };
        Window { stacks, lost: 0 }
    }

    fn found(whose: &Whose) -> Result<Vec<String>, String> {
        let folder = tempfile::tempdir().unwrap();
        let mut writer = Writer::open(folder.path(), Limits::default(), Boot([7; 16])).unwrap();
        for (at_s, process, function) in
            [(1_000, (7, "etcd"), "read"), (1_010, (9, "cron"), "tick"), (1_020, (7, "etcd"), "apply")]
        {
            writer.append(&window(at_s, process, function));
        }
        writer.flush();
        // The wall says ten minutes, whatever our monotonic clock says.
        let now = Stamp { mono_ns: 90_000 * SECOND_NS, wall_ns: 1_630 * SECOND_NS };
        let found = find(&Against::Last, &[], folder.path(), (whose, now)).unwrap();
        found.map(|earlier| {
            assert!(earlier.told.ends_with("until 10.0 min ago"), "{}", earlier.told);
            let functions = &earlier.profiles[0].counts.functions;
            functions.iter().map(|function| function.name.clone()).collect()
        })
    }

    #[test]
    fn the_ring_is_asked_for_the_process_or_else_for_its_name() {
        let whose = |pids: &[u32], process: Option<&str>| Whose::Of {
            pids: pids.to_vec(),
            process: process.map(str::to_owned),
        };
        assert_eq!(found(&whose(&[7], Some("etcd"))).unwrap(), ["apply", "read"]);
        assert_eq!(found(&whose(&[8], Some("cron"))).unwrap(), ["tick"], "it was restarted");
        assert_eq!(found(&Whose::Everybody).unwrap(), ["apply", "read", "tick"]);
        assert!(found(&whose(&[], None)).is_err(), "of a member elsewhere nothing is kept here");
        let nobody = found(&whose(&[8], Some("nobody"))).unwrap_err();
        assert!(
            nobody.starts_with("no earlier profile of it in ") && nobody.contains("3 windows"),
            "{nobody}"
        );
    }

    #[test]
    fn a_rule_is_not_passed_where_there_is_nothing_to_compare_with() {
        let folder = tempfile::tempdir().unwrap();
        let rule: Rule = "*>+5%".parse().unwrap();
        let find = |rules: &[Rule]| {
            find(&Against::Last, rules, folder.path(), (&Whose::Everybody, Stamp::default()))
        };
        assert!(find(&[]).unwrap().is_err());
        assert_eq!(find(&[rule]).unwrap_err().exit, Exit::Data);
    }
}
