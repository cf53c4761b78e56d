//! `agent replay`: the conclusions of a recording, drawn again and held against what the recording run said, byte for byte.

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use model::finding::{Burn, Conclusion, Finding, Lane, Outcome};
use model::mark::MarkKind;
use model::record::{Fact, Record};
use processors::Engine;

use super::{Ended, Exit, Failure, say, tell};
use crate::config::parse_duration;
use crate::recording::{Entry, Reader, said};

/// Differences printed before the rest is only counted.
const DIFFERENCES_MAX: u64 = 10;
/// Probes and ticks kept to be looped; the quiet part of a demo has some thousands.
const PROBED_MAX: usize = 200_000;

/// Arguments of `agent replay`.
#[derive(Debug, Args)]
pub(super) struct Replay {
    /// The recording.
    file: PathBuf,
    /// Begin with that much clean history: the probes from before the first rollout marker, looped. Shows what the
    /// conclusions would have been on a node that had run for so long; nothing is held against the recording then.
    #[arg(long, value_name = "DURATION", value_parser = lead_in)]
    lead_in: Option<Duration>,
    /// With a lead-in: leave the put-back out, and loop what was probed between the last rollout and it for up to an hour
    /// or until a page tier fires. Shows what the shipped tiers alone would have seen.
    #[arg(long, requires = "lead_in")]
    no_put_back: bool,
    /// Print the records too, as JSON lines: what was seen, beside what was said.
    #[arg(long)]
    records: bool,
}

fn lead_in(text: &str) -> Result<Duration, String> {
    parse_duration(text).ok_or_else(|| "a duration such as 1h".to_owned())
}

/// Prints findings and decisions as JSON lines; exit code 1 when they are not the recorded ones, 65 for a damaged file.
pub(super) fn replay(replay: &Replay) -> Ended {
    let damaged = |error| Failure::new(Exit::Data, error);
    // What is said of a damaged recording is not to be believed: it is read to its end before a line is printed.
    let sketch = sketch(&replay.file).map_err(damaged)?;
    let mut reader = open(&replay.file).map_err(damaged)?;
    let mut engine = start(&mut reader).map_err(damaged)?;
    if sketch.torn {
        tell("the recording is torn: replayed to its last whole block");
    }
    match replay.lead_in {
        Some(lead_in) => {
            let put_back = sketch.put_back.filter(|_| replay.no_put_back);
            lead(&mut engine, &mut reader, &Lead { lead_in, put_back, quiet: sketch.quiet })
                .map_err(damaged)?;
            Ok(Exit::Ok)
        }
        None => held_against(&mut engine, &mut reader, replay.records).map_err(damaged),
    }
}

fn open(file: &Path) -> anyhow::Result<Reader> {
    Reader::open(file).with_context(|| format!("open {}", file.display()))
}

fn next(reader: &mut Reader) -> anyhow::Result<Option<Entry>> {
    reader.next().context("read the recording")
}

fn start(reader: &mut Reader) -> anyhow::Result<Engine> {
    let Some(Entry::Start { engine, version }) = next(reader)? else {
        return Err(anyhow!("the recording does not begin with the engine's state"));
    };
    postcard::from_bytes(&engine).with_context(|| format!("restore the engine of agent {version}"))
}

/// What is known of a recording once it has been read through.
struct Sketch {
    torn: bool,
    /// What was probed before the first rollout.
    quiet: Vec<Record>,
    /// Which record is the first put-back.
    put_back: Option<u64>,
}

/// Reads the whole file and keeps probes and ticks of its beginning alone.
fn sketch(file: &Path) -> anyhow::Result<Sketch> {
    let mut reader = open(file)?;
    let (mut quiet, mut put_back, mut is_quiet, mut count) = (Vec::new(), None, true, 0);
    while let Some(entry) = next(&mut reader)? {
        let Entry::Record(record) = entry else { continue };
        is_quiet = is_quiet && !is_rollout(&record);
        if is_put_back(&record) {
            put_back.get_or_insert(count);
        }
        if is_quiet && is_probed(&record) && quiet.len() < PROBED_MAX {
            quiet.push(record);
        }
        count += 1;
    }
    Ok(Sketch { torn: reader.torn(), quiet, put_back })
}

/// How a replay and its recording compare.
#[derive(Debug, Default)]
struct Tally {
    lines: u64,
    differ: u64,
    /// Recorded lines that were not said again.
    unsaid: u64,
    missing: u64,
}

impl Tally {
    /// Compares what was said of one record with what was recorded of it.
    fn compare(&mut self, replayed: &[String], recorded: &[String]) {
        for (index, line) in replayed.iter().enumerate() {
            let recorded = recorded.get(index);
            if recorded != Some(line) {
                self.differ += 1;
                if self.differ <= DIFFERENCES_MAX {
                    let recorded = recorded.map_or("nothing", String::as_str);
                    tell(&format!("differs:\n  recorded {recorded}\n  replayed {line}"));
                }
            }
            say(line);
        }
        self.lines += count(replayed.len());
        self.unsaid += count(recorded.len().saturating_sub(replayed.len()));
    }

    fn end(&self) -> Exit {
        let Tally { lines, differ, unsaid, missing } = self;
        if *missing > 0 {
            tell(&format!(
                "the recording is incomplete: {missing} records could not be written down in time"
            ));
        }
        if differ + unsaid > 0 {
            tell(&format!("{differ} of {lines} lines differ, {unsaid} recorded lines were not said again"));
            return Exit::Failed;
        }
        tell(&format!("{lines} lines, all as recorded"));
        Exit::Ok
    }
}

fn count(n: usize) -> u64 {
    u64::try_from(n).unwrap_or(u64::MAX)
}

/// Applies every record and compares line by line: what was recorded of a record stands between it and the next.
fn held_against(engine: &mut Engine, reader: &mut Reader, records: bool) -> anyhow::Result<Exit> {
    let mut tally = Tally::default();
    let (mut replayed, mut recorded) = (Vec::new(), Vec::new());
    while let Some(entry) = next(reader)? {
        match entry {
            Entry::Record(record) => {
                tally.compare(&replayed, &recorded);
                recorded.clear();
                if records && let Ok(json) = serde_json::to_string(&record) {
                    say(&format!("{{\"record\":{json}}}"));
                }
                replayed = said(&engine.apply(&record));
            }
            Entry::Said(line) => recorded.push(line),
            Entry::Missing(records) => tally.missing += records,
            Entry::Start { .. } | Entry::Layout(..) => {}
        }
    }
    tally.compare(&replayed, &recorded);
    Ok(tally.end())
}

/// How long an incident is looped when its put-back is left out.
const INCIDENT_MAX: Duration = Duration::from_secs(3_600);

/// What is put before a recording, and where it is cut.
struct Lead {
    lead_in: Duration,
    /// The record from which on it is left out.
    put_back: Option<u64>,
    quiet: Vec<Record>,
}

/// Loops the quiet probes up to the recording's own beginning, then applies it.
fn lead(engine: &mut Engine, reader: &mut Reader, lead: &Lead) -> anyhow::Result<()> {
    let lead_ns = u64::try_from(lead.lead_in.as_nanos()).unwrap_or(u64::MAX);
    looped(engine, &lead.quiet, lead_ns);
    let mut left = lead.put_back.unwrap_or(u64::MAX);
    // What was probed since the last rollout; all of it where there was none.
    let mut bad = Vec::new();
    while left > 0
        && let Some(entry) = next(reader)?
    {
        let Entry::Record(record) = entry else { continue };
        left -= 1;
        tell_all(&engine.apply(&later(&record, lead_ns)));
        if is_rollout(&record) {
            bad.clear();
        }
        if lead.put_back.is_some() && is_probed(&record) && bad.len() < PROBED_MAX {
            bad.push(record);
        }
    }
    if lead.put_back.is_some() {
        incident(engine, &bad, lead_ns);
    }
    tell(&format!("after {:?} of clean history; all times are that much later than recorded", lead.lead_in));
    Ok(())
}

/// Goes on with what was probed since the last rollout, again and again, until a page tier fires or an hour is over.
fn incident(engine: &mut Engine, bad: &[Record], lead_ns: u64) {
    let Some(length_ns) = length_ns(bad) else { return };
    let rounds = u64::try_from(INCIDENT_MAX.as_nanos()).unwrap_or(u64::MAX) / length_ns;
    for round in 1..=rounds {
        for record in bad {
            let outcome = engine.apply(&later(record, lead_ns + round * length_ns));
            tell_all(&outcome);
            if outcome.findings.iter().any(is_page) {
                return;
            }
        }
    }
}

/// From the first of some records to the last; `None` where there are none.
fn length_ns(records: &[Record]) -> Option<u64> {
    Some(records.last()?.at.since_ns(records.first()?.at).max(1))
}

fn later(record: &Record, ns: u64) -> Record {
    Record { at: record.at.plus_ns(ns), ..record.clone() }
}

fn tell_all(outcome: &Outcome) {
    for line in said(outcome) {
        say(&line);
    }
}

fn is_rollout(record: &Record) -> bool {
    matches!(&record.fact, Fact::Mark(mark) if mark.kind == MarkKind::Rollout && mark.rollback_of.is_none())
}

fn is_put_back(record: &Record) -> bool {
    matches!(&record.fact, Fact::Mark(mark) if mark.rollback_of.is_some())
}

fn is_page(finding: &Finding) -> bool {
    matches!(
        &finding.conclusion,
        Conclusion::Burn(Burn { firing: true, votes: true, lane: Lane::Tier { .. }, .. })
    )
}

/// Probes and ticks alone: what the objectives count.
fn is_probed(record: &Record) -> bool {
    matches!(record.fact, Fact::Probe(_) | Fact::Tick(_))
}

/// Applies the quiet records again and again, each round later than the last, until `lead_ns` is filled.
fn looped(engine: &mut Engine, quiet: &[Record], lead_ns: u64) {
    let Some(round_ns) = length_ns(quiet) else { return };
    let rounds = lead_ns / round_ns;
    // The last round ends where the recording begins, so that there is no gap before it.
    let gap_ns = lead_ns - rounds * round_ns;
    for round in 0..rounds {
        for record in quiet {
            engine.apply(&later(record, gap_ns + round * round_ns));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{Exit, Tally};

    fn check(pairs: &[(&[&str], &[&str])], (differ, unsaid): (u64, u64)) {
        let mut tally = Tally::default();
        let owned = |lines: &[&str]| lines.iter().map(|line| (*line).to_owned()).collect::<Vec<_>>();
        for (replayed, recorded) in pairs {
            tally.compare(&owned(replayed), &owned(recorded));
        }
        assert_eq!((tally.differ, tally.unsaid), (differ, unsaid), "{pairs:?}");
        let exit = if differ + unsaid == 0 { Exit::Ok } else { Exit::Failed };
        assert_eq!(tally.end(), exit);
    }

    #[test]
    fn lines_are_held_against_those_of_the_same_record() {
        check(&[], (0, 0));
        check(&[(&["a", "b"], &["a", "b"]), (&[], &[]), (&["c"], &["c"])], (0, 0));
        check(&[(&["a"], &["b"])], (1, 0));
        check(&[(&["a", "b"], &["a"])], (1, 0));
        check(&[(&[], &["a"]), (&["b"], &["b"])], (0, 1));
        // A line that moved to another record is not as recorded.
        check(&[(&["a"], &[]), (&[], &["a"])], (1, 1));
    }
}
