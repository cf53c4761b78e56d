//! What the ring on disk costs: `cargo run --release -p profile --example history -- [--hours H] [--samples N] PROFILE...`.
//!
//! Takes CPU profiles of Go's endpoint, draws windows of ten seconds from what is in them, writes H hours of them (48 when
//! not said) with time in the records, and says what a window takes on disk and of a CPU, what memory the ring takes, and
//! what it takes to read ten minutes of it again.
//!
//! A profile of half a minute does not have the stacks that appear once in an hour. How often a new one appears is estimated
//! from those that are in it once (Good and Turing), and so many get a leaf, and now and then a branch, that was not there.
//! Every tenth window has thirty processes that live a moment.

#![expect(
    clippy::disallowed_methods,
    clippy::print_stdout,
    reason = "a measurement, for a person: it needs a clock and standard output"
)]

use std::collections::BTreeMap;
use std::error::Error;
use std::path::Path;
use std::time::{Duration, Instant};
use std::{env, fs};

use model::profile::{Frame, Mapping, Owner, ProfileKind, StackSample, Stacks};
use model::time::{SECOND_NS, Stamp};
use profile::gopprof;
use profile::history::reader::Reader;
use profile::history::selection::Filter;
use profile::history::writer::Writer;
use profile::history::{Boot, Limits, Window};

type Outcome<T> = Result<T, Box<dyn Error>>;

/// 19 Hz.
const PERIOD: u64 = SECOND_NS / 19;
/// Two busy CPUs at 19 Hz for ten seconds.
const SAMPLES: usize = 380;
const HOURS: u64 = 48;

/// A generator of numbers, the same in each run (xorshift).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 11) % u64::try_from(end.max(1)).unwrap_or(1)).unwrap_or(0)
    }

    /// True in so many of a million.
    fn happens(&mut self, in_a_million: usize) -> bool {
        self.below(1_000_000) < in_a_million
    }
}

/// What windows are drawn from.
struct Source {
    whole: Stacks,
    /// The place of each sample as often as it was taken.
    tickets: Vec<usize>,
    /// New stacks among a million samples.
    new: usize,
}

impl Source {
    fn read(paths: &[String]) -> Outcome<Source> {
        let mut whole = gopprof::decode(
            &fs::read(paths.first().ok_or("no profile")?)?,
            ProfileKind::Cpu,
            Stamp::default(),
        )?
        .0;
        for path in paths.iter().skip(1) {
            join(&mut whole, gopprof::decode(&fs::read(path)?, ProfileKind::Cpu, Stamp::default())?.0);
        }
        let mut tickets = Vec::new();
        for (at, sample) in whole.samples.iter().enumerate() {
            tickets.extend(std::iter::repeat_n(at, usize::try_from(sample.count).unwrap_or(0)));
        }
        let once = whole.samples.iter().filter(|sample| sample.count == 1).count();
        let new = once * 1_000_000 / tickets.len().max(1);
        println!(
            "from {} profiles: {} samples, {} stacks, {} functions, {:.1} frames a stack; {:.1} % of samples are stacks seen once",
            paths.len(),
            tickets.len(),
            whole.samples.len(),
            whole.functions.len(),
            ratio(whole.samples.iter().map(|sample| sample.frames.len()).sum(), whole.samples.len()),
            ratio(new, 10_000),
        );
        Ok(Source { whole, tickets, new })
    }

    /// One window: `count` samples of five long-lived processes, and at times of short-lived ones.
    fn window(&self, number: u64, count: usize, random: &mut Numbers) -> Window {
        let mut stacks =
            Stacks { samples: Vec::new(), pprof: Vec::new(), owners: owners(number), ..self.whole.clone() };
        stacks.at =
            Stamp { mono_ns: number * 10 * SECOND_NS, wall_ns: (1_790_000_000 + number * 10) * SECOND_NS };
        (stacks.duration_ns, stacks.period) = (10 * SECOND_NS, PERIOD);
        let mut seen: BTreeMap<(Vec<u32>, u32), i64> = BTreeMap::new();
        for _ in 0..count {
            let Some(sample) = self.tickets.get(random.below(self.tickets.len())) else { continue };
            let mut frames =
                self.whole.samples.get(*sample).map(|sample| sample.frames.clone()).unwrap_or_default();
            if random.happens(self.new) {
                change(&mut stacks.frames, &mut frames, random);
            }
            // Seven in ten are etcd's, the rest of four others; the short-lived have a few each.
            let owner = match random.below(100) {
                0..70 => 0,
                70..95 => 1 + random.below(4),
                _ => 5 + random.below(stacks.owners.len().saturating_sub(5).max(1)),
            };
            let owner = u32::try_from(owner.min(stacks.owners.len() - 1)).unwrap_or(0);
            *seen.entry((frames, owner)).or_default() += 1;
        }
        let sample = |((frames, owner), count): ((Vec<u32>, u32), i64)| StackSample {
            frames,
            owner,
            count,
            value: count * PERIOD.cast_signed(),
        };
        stacks.samples = seen.into_iter().map(sample).collect();
        Window { stacks, lost: 0 }
    }
}

/// A stack that was not there: another instruction of its leaf, and one time in four of a frame in the middle too.
fn change(frames: &mut Vec<Frame>, stack: &mut [u32], random: &mut Numbers) {
    let places = [Some(0), (random.below(4) == 0).then(|| random.below(stack.len()))];
    for place in places.into_iter().flatten() {
        let Some(slot) = stack.get_mut(place) else { continue };
        let Some(mut frame) = usize::try_from(*slot).ok().and_then(|at| frames.get(at)).copied() else {
            continue;
        };
        let shift = u64::try_from(random.below(512)).unwrap_or(0);
        frame.address = frame.address.wrapping_add(shift);
        frame.line = frame.line.wrapping_add(shift.cast_signed() / 8);
        *slot = u32::try_from(frames.len()).unwrap_or(0);
        frames.push(frame);
    }
}

fn owners(number: u64) -> Vec<Owner> {
    let owner = |pid: u64, process: &str, container: &str| Owner {
        pid: u32::try_from(pid).unwrap_or(0),
        process: process.to_owned(),
        thread: process.to_owned(),
        container: container.repeat(64),
        ..Owner::default()
    };
    let lived = ["etcd", "kube-apiserver", "containerd", "node_exporter", "kubelet"];
    let mut owners: Vec<Owner> = (1_000..).zip(lived).map(|(pid, name)| owner(pid, name, "a")).collect();
    if number.is_multiple_of(10) {
        owners.extend((0..30).map(|at| owner(2_000 + number * 30 + at, "sh", "")));
    }
    owners
}

/// Adds the samples of another profile, with numbers of its own.
fn join(whole: &mut Stacks, other: Stacks) {
    let [functions, mappings, frames] = [whole.functions.len(), whole.mappings.len(), whole.frames.len()]
        .map(|length| u32::try_from(length).unwrap_or(u32::MAX));
    whole.functions.extend(other.functions);
    whole.mappings.extend::<Vec<Mapping>>(other.mappings);
    whole.frames.extend(other.frames.into_iter().map(|frame| Frame {
        function: frame.function.saturating_add(functions),
        mapping: frame.mapping.saturating_add(mappings),
        ..frame
    }));
    whole.samples.extend(other.samples.into_iter().map(|sample| StackSample {
        frames: sample.frames.iter().map(|frame| frame.saturating_add(frames)).collect(),
        ..sample
    }));
}

#[expect(clippy::cast_precision_loss, reason = "for a person to read")]
fn ratio(a: usize, b: usize) -> f64 {
    a as f64 / b.max(1) as f64
}

/// Resident memory, KiB.
fn resident(field: &str) -> usize {
    let text = fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = text.lines().find_map(|line| line.strip_prefix(field)).unwrap_or_default();
    line.split_whitespace().find_map(|word| word.parse().ok()).unwrap_or(0)
}

fn on_disk(path: &Path) -> Outcome<(usize, usize)> {
    let mut sum = (0, 0);
    for entry in fs::read_dir(path)? {
        sum = (sum.0 + usize::try_from(entry?.metadata()?.len())?, sum.1 + 1);
    }
    Ok(sum)
}

fn median(mut times: Vec<Duration>) -> Duration {
    times.sort_unstable();
    times.get(times.len() / 2).copied().unwrap_or_default()
}

fn writes(path: &Path, source: &Source, (hours, samples): (u64, usize)) -> Outcome<()> {
    let mut random = Numbers(0x9e37_79b9_7f4a_7c15);
    let mut writer = Writer::open(path, Limits::default(), Boot::default())?;
    let (mut times, mut sum, mut most, mut memory) = (Vec::new(), Duration::ZERO, 0, 0);
    let (mut stacks, mut depth) = (0, 0);
    for number in 0..hours * 360 {
        let window = source.window(number, samples, &mut random);
        stacks += window.stacks.samples.len();
        depth += window.stacks.samples.iter().map(|sample| sample.frames.len()).sum::<usize>();
        let begun = Instant::now();
        writer.append(&window);
        times.push(begun.elapsed());
        sum += begun.elapsed();
        memory = memory.max(writer.memory_bytes());
        if number % 36 == 0 {
            most = most.max(on_disk(path)?.0);
        }
    }
    writer.flush();
    let windows = times.len();
    let (bytes, files) = on_disk(path)?;
    let slowest = times.iter().max().copied().unwrap_or_default();
    println!(
        "{windows} windows, {:.0} stacks each, {:.0} frames",
        ratio(stacks, windows),
        ratio(depth, windows)
    );
    println!(
        "written {:.0} bytes a window; append {:?} in the middle, {:?} at most, {:?} on average",
        ratio(usize::try_from(writer.account().bytes)?, windows),
        median(times),
        slowest,
        sum / u32::try_from(windows)?
    );
    println!(
        "on disk {bytes} bytes in {files} files, {most} at most; in use {memory} bytes of memory at most"
    );
    println!("{:?}", writer.account());
    Ok(())
}

fn reads(path: &Path) -> Outcome<()> {
    let before = resident("VmRSS:");
    let mut times = [Vec::new(), Vec::new(), Vec::new()];
    let mut last = None;
    for _ in 0..20 {
        let begun = Instant::now();
        let reader = Reader::open(path)?;
        let opened = begun.elapsed();
        let selection = reader.select(reader.last(600 * SECOND_NS).ok_or("no window")?, &Filter::default());
        let selected = begun.elapsed() - opened;
        let counts = selection.counts();
        let counted = begun.elapsed() - opened - selected;
        for (list, time) in times.iter_mut().zip([opened, selected, counted]) {
            list.push(time);
        }
        last = Some((reader.windows().len(), selection, counts));
    }
    let (windows, selection, counts) = last.ok_or("nothing read")?;
    let [opened, selected, counted] = times.map(median);
    println!(
        "ring of {windows} windows ({:.1} h): listed in {opened:?}; ten minutes ({} windows, {} stacks, {} functions) added up in {selected:?}; {} counts in {counted:?}; {} KiB more resident",
        ratio(windows, 360),
        selection.parts.len(),
        selection.stacks.samples.len(),
        selection.stacks.functions.len(),
        counts.len(),
        resident("VmRSS:").saturating_sub(before)
    );
    println!("loss {:?}, gaps {}", selection.loss, selection.gaps.len());
    Ok(())
}

fn main() -> Outcome<()> {
    let (mut hours, mut samples, mut paths) = (HOURS, SAMPLES, Vec::new());
    let mut arguments = env::args().skip(1);
    while let Some(argument) = arguments.next() {
        match argument.as_str() {
            "--hours" => hours = arguments.next().ok_or("--hours H")?.parse()?,
            "--samples" => samples = arguments.next().ok_or("--samples N")?.parse()?,
            _ => paths.push(argument),
        }
    }
    let source = Source::read(&paths)?;
    let dir = tempfile::tempdir()?;
    let before = resident("VmRSS:");
    writes(dir.path(), &source, (hours, samples))?;
    println!("resident {before} KiB before, {} at most", resident("VmHWM:"));
    reads(dir.path())
}
