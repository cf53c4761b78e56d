//! `agent replay`: the conclusions of a recording, drawn again and held against what the recording run said, byte for byte.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
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
            lead(&mut engine, &entries, lead_in);
            Ok(Exit::Ok)
        }
        None => Ok(held_against(&mut engine, &entries)),
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
fn held_against(engine: &mut Engine, entries: &[Entry]) -> Exit {
    let mut expected = entries.iter().filter_map(|entry| match entry {
        Entry::Said(line) => Some(line.as_str()),
        _ => None,
    });
    let (mut lines, mut differ, mut missing) = (0_u64, 0_usize, 0_u64);
    for entry in entries {
        match entry {
            Entry::Record(record) => {
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

/// Loops the quiet probes up to the recording's own beginning, then applies it.
fn lead(engine: &mut Engine, entries: &[Entry], lead_in: Duration) {
    let records: Vec<&Record> = entries
        .iter()
        .filter_map(|entry| match entry {
            Entry::Record(record) => Some(record),
            _ => None,
        })
        .collect();
    let quiet: Vec<&Record> = records
        .iter()
        .take_while(|record| !matches!(&record.fact, Fact::Mark(mark) if mark.kind == MarkKind::Rollout))
        .filter(|record| matches!(record.fact, Fact::Probe(_) | Fact::Tick(_)))
        .take(QUIET_MAX)
        .copied()
        .collect();
    let lead_ns = u64::try_from(lead_in.as_nanos()).unwrap_or(u64::MAX);
    for record in looped(&quiet, lead_ns) {
        engine.apply(&record);
    }
    for record in records {
        let later = Record { at: record.at.plus_ns(lead_ns), ..record.clone() };
        for line in said(&engine.apply(&later)) {
            say(&line);
        }
    }
    tell(&format!("after {lead_in:?} of clean history; all times are that much later than recorded"));
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
