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
use std::{env, process::ExitCode, sync::mpsc};

use profile::dwarf::{Counts, Walker, Work};
use profile::perf::attr::{Hz, STACK_BYTES_DEEP, StackBytes};
use profile::perf::session::{Plan, Seen, Session};
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
    let stack = number(2)?.map_or(Some(STACK_BYTES_DEEP), StackBytes::new).ok_or("a multiple of 8, to 65,528")?;
    let hz = Hz::new(999).ok_or("no rate")?;
    let plan = Plan { length: Some(length), ..Plan::new(Target::Pids(vec![pid]), hz).with_stack(stack) };
    let (send, receive) = mpsc::channel();
    let mut walker = Walker::default();
    let sink = move |seen: &Seen<'_>| {
        let Some(process) = seen.process else { return };
        let before = walker.work().read;
        let began = Instant::now();
        let frames = walker.walk(process.pid, &process.mappings, &seen.sample).addresses.len();
        let time = began.elapsed();
        let took = Took { time, frames, read: walker.work().read - before };
        drop(send.send((took, walker.counts(), walker.work())));
    };
    let outcome = Session::start(&plan, sink)?.wait();
    let all: Vec<(Took, Counts, Work)> = receive.try_iter().collect();
    let Some((_, counts, work)) = all.last() else { return Err("it did not run".into()) };
    println!("{} samples, {} lost; rings of {} bytes", all.len(), outcome.statistics.lost, outcome.statistics.locked_bytes);
    println!("{counts:?}\n{work:?}");
    let (warm, cold): (Vec<Took>, Vec<Took>) =
        all.iter().map(|(took, ..)| *took).partition(|took| took.read == 0);
    print("warm", &warm);
    print("cold", &cold);
    let cpu = Duration::from_nanos(outcome.statistics.cpu_ns);
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
    println!("{what}: {count} walks, median {median:.2?}, mean {mean:.2?}, {frames} frames each, {read} rules read");
}
