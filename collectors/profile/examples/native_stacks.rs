//! What walking stacks by unwinding tables costs and gives, on a program that runs:
//! `cargo run --release -p profile --example native_stacks -- PID [SECONDS] [STACK_BYTES]`.
//!
//! Samples the process at 999 Hz, walks each stack as it comes, and says how the stacks were made, what a walk took while
//! rules were read for it and when all of them were known, and what is held.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement, for a person: it needs a clock and standard output"
)]

use std::time::{Duration, Instant};
use std::{env, process::ExitCode};

use profile::binaries::Binaries;
use profile::dwarf::Walker;
use profile::perf::attr::{Hz, STACK_BYTES_DEEP, StackBytes};
use profile::perf::session::{Plan, Seen, Session, Sink};
use profile::perf::target::Target;

type Outcome = Result<(), Box<dyn std::error::Error>>;

/// One walk.
#[derive(Clone, Copy)]
struct Took {
    time: Duration,
    frames: usize,
    /// Rules that were read from files for it.
    read: u64,
}

/// Walks what comes, and keeps the time.
struct Meter {
    walker: Walker,
    took: Vec<Took>,
}

impl Sink for Meter {
    fn sample(&mut self, seen: &Seen<'_>) {
        let Some(process) = seen.process else { return };
        let before = self.walker.work().read;
        let began = Instant::now();
        let frames = self.walker.walk(process.pid, &process.mappings, &seen.sample).addresses.len();
        let time = began.elapsed();
        self.took.push(Took { time, frames, read: self.walker.work().read - before });
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    if arguments.is_empty() {
        println!("usage: native_stacks PID [SECONDS] [STACK_BYTES]");
        return ExitCode::FAILURE;
    }
    match measure(&arguments) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(arguments: &[String]) -> Outcome {
    let number = |at: usize| arguments.get(at).map(|text| text.parse::<u32>()).transpose();
    let pid = number(0)?.ok_or("which process?")?;
    let length = Duration::from_secs(u64::from(number(1)?.unwrap_or(5)));
    let stack =
        number(2)?.map_or(Some(STACK_BYTES_DEEP), StackBytes::new).ok_or("a multiple of 8, to 65,528")?;
    let hz = Hz::new(999).ok_or("no rate")?;
    let plan = Plan { length: Some(length), ..Plan::new(Target::Pids(vec![pid]), hz).with_stack(stack) };
    let meter = Meter { walker: Walker::new(Binaries::default()), took: Vec::new() };
    let outcome = Session::start(&plan, meter)?.wait();
    let meter = outcome.sink.ok_or("the reading thread has died")?;
    if meter.took.is_empty() {
        return Err("it did not run".into());
    }
    let of = outcome.statistics;
    println!("{} samples, {} lost; rings of {} bytes", meter.took.len(), of.lost, of.locked_bytes);
    println!("{:?}\n{:?}", meter.walker.counts(), meter.walker.work());
    let (warm, cold): (Vec<Took>, Vec<Took>) = meter.took.into_iter().partition(|took| took.read == 0);
    print("warm", &warm);
    print("cold", &cold);
    let cpu = Duration::from_nanos(of.cpu_ns);
    println!("the reading thread took {cpu:.2?} of CPU time in {length:?}, walks included");
    Ok(())
}

fn print(what: &str, walks: &[Took]) {
    let mut times: Vec<Duration> = walks.iter().map(|took| took.time).collect();
    times.sort_unstable();
    let Some(median) = times.get(times.len() / 2) else { return println!("{what}: none") };
    let count = u32::try_from(times.len()).unwrap_or(u32::MAX);
    let mean = times.iter().sum::<Duration>() / count;
    let frames = walks.iter().map(|took| took.frames).sum::<usize>() / walks.len();
    let read: u64 = walks.iter().map(|took| took.read).sum();
    println!(
        "{what}: {count} walks, median {median:.2?}, mean {mean:.2?}, {frames} frames each, {read} rules read"
    );
}
