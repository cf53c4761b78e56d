//! The labelled set for the diff: pairs of profiles with known answers, and how well they are told apart.
//!
//! `diffset record` records windows of real etcd, and of a program whose costs are known, with the agent's own sampler;
//! `diffset score` makes pairs of what was recorded and lets the diff judge them. Scoring needs no etcd and no privileges,
//! and gives the same figures each time. `DIFFSET_SHOW=1` names each miss and each false alarm.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "progress and tables are this program's output, it records with a clock of its own, and the numbers that it \
              indexes with are its own recording's"
)]

mod capture;
mod change;
mod dice;
mod load;
mod recording;
mod report;
mod score;
mod set;
mod side;
mod subjects;
mod variance;

use std::fs;
use std::path::Path;
use std::process::ExitCode;

use anyhow::{Result, bail};

use crate::recording::{FILE, Recorder, Recording};

fn main() -> Result<ExitCode> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["record"] => record(None, Recorder::default(), FILE),
        // One more run of those that `record` makes, added to the file.
        ["record", number, file] => {
            let before =
                if Path::new(file).exists() { Recording::read(file.as_ref())? } else { Recording::default() };
            record(Some(number.parse()?), Recorder::resume(before), file)
        }
        ["score"] => score(FILE, 1),
        // Another file, and only a part of the set: for a look.
        ["score", file, part] => score(file, part.parse()?),
        _ => bail!("say `diffset record`, `diffset record NUMBER FILE` or `diffset score`"),
    }
}

/// The exit code is 0 only if the figures are as promised.
fn score(file: &str, part: usize) -> Result<ExitCode> {
    let report = report::report(&Recording::read(file.as_ref())?, part.max(1));
    println!("{}", report.table());
    fs::create_dir_all("target/diffset")?;
    fs::write("target/diffset/report.json", serde_json::to_string_pretty(&report)?)?;
    let missed = report.missed();
    missed.iter().for_each(|what| println!("  NOT REACHED: {what}"));
    Ok(if missed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn record(only: Option<usize>, mut recorder: Recorder, file: &str) -> Result<ExitCode> {
    subjects::record_all(only, &mut recorder)?;
    let bytes = recorder.recording.write(Path::new(file))?;
    println!("{file}: {bytes} bytes");
    Ok(ExitCode::SUCCESS)
}
