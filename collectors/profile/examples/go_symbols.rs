//! What reading Go's tables costs: `cargo run --release -p profile --example go_symbols -- FILE [ADDRESS...]`.
//!
//! Loads the tables of a program twenty times and says the least time and the heap they take, then names instructions all
//! over it. With addresses, says what is there instead.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement, for a person: it needs a clock and standard output"
)]

use std::{
    env, fs, hint,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use profile::symbols::gopclntab::{self, Pc};

/// The least of so many is what it costs without the others on this machine.
const ROUNDS: usize = 20;
/// Instructions named.
const LOOK_UPS: u64 = 100_000;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(path) = arguments.next() else {
        println!("usage: go_symbols FILE [ADDRESS...]");
        return ExitCode::FAILURE;
    };
    let addresses: Vec<String> = arguments.collect();
    let path = Path::new(&path);
    let outcome = if addresses.is_empty() { measure(path) } else { name(path, &addresses) };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{}: {error}", path.display());
            ExitCode::FAILURE
        }
    }
}

fn measure(path: &Path) -> Outcome {
    let before = heap_kib()?;
    let mut kept = gopclntab::open(path)?;
    let after = heap_kib()?;
    let mut least = Duration::MAX;
    for _ in 0..ROUNDS {
        let began = Instant::now();
        hint::black_box(&gopclntab::open(path)?);
        least = least.min(began.elapsed());
    }
    let functions = kept.functions();
    println!("{functions} functions: loaded in {least:.2?}, {} KiB of heap", after.saturating_sub(before));
    let (code, mut frames) = (kept.code(), 0);
    let began = Instant::now();
    let mut pc = code.start;
    for _ in 0..LOOK_UPS {
        // A stride that is no multiple of anything: the worst order for windows.
        pc = code.start + (pc - code.start + 1_000_003) % (code.end - code.start);
        frames += kept.frames(Pc::Sampled(pc))?.len();
    }
    let each = began.elapsed() / u32::try_from(LOOK_UPS)?;
    println!("{LOOK_UPS} look-ups all over it: {each:.2?} each, {frames} frames");
    println!("{} KiB of heap after them", heap_kib()?.saturating_sub(before));
    Ok(())
}

fn name(path: &Path, addresses: &[String]) -> Outcome {
    let mut symbols = gopclntab::open(path)?;
    for address in addresses {
        let pc = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
        println!("{address}: {:?}", symbols.function(Pc::Sampled(pc))?);
        for frame in symbols.frames(Pc::Sampled(pc))? {
            println!("  {frame:?}");
        }
    }
    Ok(())
}

/// The program's own memory: what is not of a file.
fn heap_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
