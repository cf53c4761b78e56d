//! What names of native code cost: `cargo run --release -p profile --example native_symbols -- FILE [ADDRESS...]`.
//!
//! Opens a program, looks up a thousand addresses all over its functions, by the symbol table alone and with debug
//! information, and says time, heap and what was not used. With addresses, says what is there instead; `kernel` for FILE
//! reads the kernel's list.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement, for a person: it needs a clock and standard output"
)]

use std::{
    env, fs,
    path::Path,
    process::ExitCode,
    time::{Duration, Instant},
};

use profile::symbols::{
    gopclntab::Pc,
    kernel::KernelSymbols,
    native::{self, NativeSymbols},
};

/// Addresses looked up.
const LOOK_UPS: u64 = 1_000;
/// A stride that is no part of anything: the worst order for what is kept.
const STRIDE: u64 = 1_000_003;

type Outcome = Result<(), Box<dyn std::error::Error>>;

fn main() -> ExitCode {
    let mut arguments = env::args().skip(1);
    let Some(path) = arguments.next() else {
        println!("usage: native_symbols FILE|kernel [ADDRESS...]");
        return ExitCode::FAILURE;
    };
    let addresses: Vec<String> = arguments.collect();
    let outcome = match (&path[..], addresses.is_empty()) {
        ("kernel", _) => kernel(),
        (_, true) => measure(Path::new(&path)),
        (_, false) => name(Path::new(&path), &addresses),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            println!("{path}: {error}");
            ExitCode::FAILURE
        }
    }
}

fn measure(path: &Path) -> Outcome {
    let before = heap_kib()?;
    let began = Instant::now();
    let mut symbols = native::open(path)?;
    let separate = symbols.find_separate(Path::new("/"), path)?;
    println!("headers in {:.2?}; debug information of its own or in {separate:?}", began.elapsed());
    let began = Instant::now();
    let count = symbols.symbols();
    println!(
        "{count} functions in {:.2?}, {} KiB of heap",
        began.elapsed(),
        heap_kib()?.saturating_sub(before)
    );
    let code =
        symbols.elf().segments.iter().filter(|segment| segment.is_executable()).map(|segment| segment.span);
    let code = code.max_by_key(|span| span.length).ok_or("no code")?;
    let spread: Vec<u64> = (0..LOOK_UPS).map(|at| code.address + at * STRIDE % code.length).collect();
    let began = Instant::now();
    let mut named = 0;
    for address in &spread {
        named += u64::from(symbols.symbol(Pc::Sampled(*address))?.is_some());
    }
    println!("{LOOK_UPS} look-ups of symbols: {:.2?}, {named} named", began.elapsed());
    lines(&mut symbols, &spread, before)?;
    let mut sorted = spread;
    sorted.sort_unstable();
    lines(&mut symbols, &sorted, before)?;
    println!("{:?}", symbols.shortfalls());
    Ok(())
}

fn lines(symbols: &mut NativeSymbols<fs::File>, addresses: &[u64], before: u64) -> Outcome {
    let (began, mut frames, mut lines, mut slowest) = (Instant::now(), 0, 0, Duration::ZERO);
    for address in addresses {
        let one = Instant::now();
        let found = symbols.frames(Pc::Sampled(*address))?;
        frames += found.len();
        lines += found.iter().filter(|frame| frame.source.is_some()).count();
        slowest = slowest.max(one.elapsed());
    }
    let took = began.elapsed();
    let heap = heap_kib()?.saturating_sub(before);
    println!(
        "{} look-ups with debug information: {took:.2?} (slowest {slowest:.2?}), {frames} frames, {lines} lines, {heap} KiB of heap",
        addresses.len()
    );
    Ok(())
}

fn name(path: &Path, addresses: &[String]) -> Outcome {
    let mut symbols = native::open(path)?;
    symbols.find_separate(Path::new("/"), path)?;
    for address in addresses {
        let pc = u64::from_str_radix(address.trim_start_matches("0x"), 16)?;
        println!("{address}: {:?}", symbols.symbol(Pc::Sampled(pc))?);
        for frame in symbols.frames(Pc::Sampled(pc))? {
            println!("  {frame:?}");
        }
    }
    println!("{:?}", symbols.shortfalls());
    Ok(())
}

fn kernel() -> Outcome {
    let before = heap_kib()?;
    let began = Instant::now();
    let symbols = KernelSymbols::read()?;
    let took = began.elapsed();
    println!(
        "{} functions of the kernel in {took:.2?}, {} KiB of heap",
        symbols.len(),
        heap_kib()?.saturating_sub(before)
    );
    Ok(())
}

/// The program's own memory: what is not of a file.
fn heap_kib() -> Result<u64, Box<dyn std::error::Error>> {
    let status = fs::read_to_string("/proc/self/status")?;
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).ok_or("no RssAnon")?;
    Ok(line.trim().trim_end_matches(" kB").trim().parse()?)
}
