//! `agent replay`: the conclusions of a recording, drawn again and held against what the recording run said, byte for byte.

use std::path::PathBuf;
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
const DIFFERENCES_MAX: usize = 10;
/// Records kept for a lead-in; the quiet part of a demo has some thousands.
const QUIET_MAX: usize = 200_000;

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
    let mut reader = Reader::open(&replay.file)
        .with_context(|| format!("open {}", replay.file.display()))
        .map_err(|error| Failure::new(Exit::Data, error))?;
    let entries = read_all(&mut reader).map_err(|error| Failure::new(Exit::Data, error))?;
    let mut engine = start(&entries).map_err(|error| Failure::new(Exit::Data, error))?;
    if reader.torn() {
        tell("the recording is torn: replayed to its last whole block");
    }
    match replay.lead_in {
        Some(lead_in) => {
            lead(&mut engine, &entries, lead_in, replay.no_put_back);
            Ok(Exit::Ok)
        }
        None => Ok(held_against(&mut engine, &entries, replay.records)),
    }
}

fn read_all(reader: &mut Reader) -> anyhow::Result<Vec<Entry>> {
    let mut entries = Vec::new();
    while let Some(entry) = reader.next().context("read the recording")? {
        entries.push(entry);
    }
    Ok(entries)
}

fn start(entries: &[Entry]) -> anyhow::Result<Engine> {
    let Some(Entry::Start { engine, version }) = entries.first() else {
        return Err(anyhow!("the recording does not begin with the engine's state"));
    };
    postcard::from_bytes(engine).with_context(|| format!("restore the engine of agent {version}"))
}

/// Applies every record and compares line by line.
fn held_against(engine: &mut Engine, entries: &[Entry], records: bool) -> Exit {
    let mut expected = entries.iter().filter_map(|entry| match entry {
        Entry::Said(line) => Some(line.as_str()),
        _ => None,
    });
    let (mut lines, mut differ, mut missing) = (0_u64, 0_usize, 0_u64);
    for entry in entries {
        match entry {
            Entry::Record(record) => {
                if records && let Ok(json) = serde_json::to_string(record) {
                    say(&format!("{{\"record\":{json}}}"));
                }
                for line in said(&engine.apply(record)) {
                    let recorded = expected.next();
                    lines += 1;
                    if recorded != Some(line.as_str()) {
                        differ += 1;
                        if differ <= DIFFERENCES_MAX {
                            tell(&format!(
                                "differs:\n  recorded {}\n  replayed {line}",
                                recorded.unwrap_or("nothing")
                            ));
                        }
                    }
                    say(&line);
                }
            }
            Entry::Missing(records) => missing += records,
            _ => {}
        }
    }
    let unsaid = expected.count();
    if missing > 0 {
        tell(&format!("the recording is incomplete: {missing} records could not be written down in time"));
    }
    if differ + unsaid > 0 {
        tell(&format!("{differ} of {lines} lines differ, {unsaid} recorded lines were not said again"));
        return Exit::Failed;
    }
    tell(&format!("{lines} lines, all as recorded"));
    Exit::Ok
}

/// How long an incident is looped when its put-back is left out.
const INCIDENT_MAX: Duration = Duration::from_secs(3_600);

/// Loops the quiet probes up to the recording's own beginning, then applies it.
fn lead(engine: &mut Engine, entries: &[Entry], lead_in: Duration, no_put_back: bool) {
    let records: Vec<&Record> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Record(record) => Some(record),
            _ => None,
        })
        .collect();
    let first_rollout = records.iter().position(|record| is_rollout(record)).unwrap_or(records.len());
    let quiet = probed(records.get(..first_rollout).unwrap_or_default());
    let lead_ns = u64::try_from(lead_in.as_nanos()).unwrap_or(u64::MAX);
    for record in looped(&quiet, lead_ns) {
        engine.apply(&record);
    }
    let put_back = records.iter().position(|record| is_put_back(record)).filter(|_| no_put_back);
    let applied = records.get(..put_back.unwrap_or(records.len())).unwrap_or_default();
    for record in applied {
        let later = Record { at: record.at.plus_ns(lead_ns), ..(*record).clone() };
        tell_all(&engine.apply(&later));
    }
    if put_back.is_some() {
        incident(engine, applied, lead_ns);
    }
    tell(&format!("after {lead_in:?} of clean history; all times are that much later than recorded"));
}

/// Goes on with what was probed since the last rollout, again and again, until a page tier fires or an hour is over.
fn incident(engine: &mut Engine, applied: &[&Record], lead_ns: u64) {
    let last_rollout = applied.iter().rposition(|record| is_rollout(record)).unwrap_or(0);
    let bad = probed(applied.get(last_rollout..).unwrap_or_default());
    let length_ns = match (bad.first(), bad.last()) {
        (Some(first), Some(last)) => last.at.since_ns(first.at).max(1),
        _ => return,
    };
    let rounds = u64::try_from(INCIDENT_MAX.as_nanos()).unwrap_or(u64::MAX) / length_ns;
    for round in 1..=rounds {
        for record in &bad {
            let later = Record { at: record.at.plus_ns(lead_ns + round * length_ns), ..(*record).clone() };
            let outcome = engine.apply(&later);
            tell_all(&outcome);
            if outcome.findings.iter().any(is_page) {
                return;
            }
        }
    }
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
fn probed<'r>(records: &[&'r Record]) -> Vec<&'r Record> {
    records
        .iter()
        .filter(|record| matches!(record.fact, Fact::Probe(_) | Fact::Tick(_)))
        .take(QUIET_MAX)
        .copied()
        .collect()
}

/// The quiet records again and again, each round later than the last, until `lead_ns` is filled.
fn looped(quiet: &[&Record], lead_ns: u64) -> Vec<Record> {
    let (Some(first), Some(last)) = (quiet.first(), quiet.last()) else { return Vec::new() };
    let round_ns = last.at.since_ns(first.at).max(1);
    let rounds = lead_ns / round_ns;
    // The last round ends where the recording begins, so that there is no gap before it.
    let gap_ns = lead_ns - rounds * round_ns;
    (0..rounds)
        .flat_map(|round| {
            quiet.iter().map(move |record| Record {
                at: record.at.plus_ns(gap_ns + round * round_ns),
                ..(*record).clone()
            })
        })
        .collect()
}
