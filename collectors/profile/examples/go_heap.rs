//! The heap of running Go programs: `cargo run --release -p profile --example go_heap -- PID...`.
//!
//! Reads each, says what it took, how much is in use, and where most of it was allocated. Nothing is asked of the programs.

#![expect(clippy::print_stdout, reason = "for a person")]

use std::{env, process::ExitCode};

use model::{profile::Stacks, time::Stamp};
use profile::goheap::{self, Reading};

/// Stacks that are shown.
const SHOWN: usize = 5;

fn main() -> ExitCode {
    let pids: Vec<u32> = env::args().skip(1).filter_map(|pid| pid.parse().ok()).collect();
    if pids.is_empty() {
        println!("usage: go_heap PID...");
        return ExitCode::FAILURE;
    }
    let mut code = ExitCode::SUCCESS;
    for pid in pids {
        match goheap::read(pid, Stamp::default()) {
            Ok(reading) => tell(pid, &reading),
            Err(error) => {
                println!("{pid}: {error}");
                code = ExitCode::FAILURE;
            }
        }
    }
    code
}

fn tell(pid: u32, reading: &Reading) {
    let Reading { cycle, rate, version, cost, .. } = reading;
    println!("{pid}: {version}, {cycle} collections, {rate:?}, {} sites", reading.sites().count());
    let (cpu_us, kib, attempts) = (cost.cpu_ns / 1_000, cost.bytes / 1_024, cost.attempts);
    println!("  read in {cpu_us} us of CPU, {kib} KiB, {attempts} attempts");
    println!("  sampled: {:?}", reading.totals());
    let stacks = reading.stacks();
    let bytes: i64 = stacks.samples.iter().map(|sample| sample.value).sum();
    println!("  in use: {bytes} bytes");
    let mut samples: Vec<_> = stacks.samples.iter().collect();
    samples.sort_by_key(|sample| std::cmp::Reverse(sample.value));
    for sample in samples.into_iter().take(SHOWN) {
        println!("  {} bytes in {} objects", sample.value, sample.count);
        for line in sample.frames.iter().filter_map(|frame| line(&stacks, *frame)) {
            println!("    {line}");
        }
    }
}

fn line(stacks: &Stacks, frame: u32) -> Option<String> {
    let frame = stacks.frames.get(usize::try_from(frame).ok()?)?;
    let function = stacks.functions.get(usize::try_from(frame.function).ok()?)?;
    Some(format!("{} {}:{}", function.name, function.file, frame.line))
}
