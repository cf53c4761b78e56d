//! A process's samples by window, with Go's names: the recorder.
//!
//! Owns the session and the slicing. Frames of the kernel are one frame, `[kernel]`: its names are not the subject here.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use profile::perf::attr::Hz;
use profile::perf::session::{Plan, Seen, Session, Sink};
use profile::perf::stacks::{self, Stack, Stacks};
use profile::perf::target::Target;
use profile::symbols::elf::Mapped;
use profile::symbols::file;
use profile::symbols::gopclntab::{GoSymbols, Pc};

use crate::recording::{Recorder, Run, Window};

/// As the issue has it: long beside a garbage collection, short beside a regression.
pub(crate) const WINDOW: Duration = Duration::from_secs(10);

/// What is recorded.
#[derive(Clone, Debug)]
pub(crate) struct Subject<'a> {
    /// `etcd`, `program`.
    pub(crate) name: &'a str,
    /// What is asked of it.
    pub(crate) load: &'a str,
    /// Process.
    pub(crate) pid: u32,
    /// Rate.
    pub(crate) hz: u32,
    /// How many windows.
    pub(crate) windows: usize,
    /// Answered so far.
    pub(crate) requests: &'a AtomicU64,
}

/// One set of stacks a window, by the time of the samples.
#[derive(Debug, Default)]
struct Sliced {
    first_ns: u64,
    windows: Vec<Stacks>,
}

impl Sink for Sliced {
    fn sample(&mut self, seen: &Seen<'_>) {
        if self.first_ns == 0 {
            self.first_ns = seen.meta.time_ns;
        }
        let since = Duration::from_nanos(seen.meta.time_ns.saturating_sub(self.first_ns));
        let at = usize::try_from(since.as_nanos() / WINDOW.as_nanos()).unwrap_or(usize::MAX);
        if at < 1_000 {
            while self.windows.len() <= at {
                self.windows.push(Stacks::default());
            }
            if let Some(stacks) = self.windows.get_mut(at) {
                stacks.add(seen);
            }
        }
    }
}

/// Records one run to its end.
pub(crate) fn record(subject: &Subject<'_>, recorder: &mut Recorder) -> Result<Run> {
    let hz = Hz::new(subject.hz).context("a rate that no kernel has")?;
    let session = Session::start(&Plan::new(Target::Pids(vec![subject.pid]), hz), Sliced::default())?;
    let began = Instant::now();
    let mut answered = vec![subject.requests.load(Ordering::Relaxed)];
    for window in 1..=subject.windows {
        let until = began + WINDOW * u32::try_from(window)?;
        thread::sleep(until.saturating_duration_since(Instant::now()));
        answered.push(subject.requests.load(Ordering::Relaxed));
    }
    // Read while it runs: its file is opened below its root.
    let mut names = Names::of(subject.pid)?;
    let outcome = session.stop();
    let lost = outcome.statistics.lost;
    let sliced = outcome.sink.context("the session died")?;
    ensure!(lost * 100 <= outcome.statistics.samples, "{lost} samples lost");
    let requests = answered.windows(2).map(|pair| pair.last().zip(pair.first()).map_or(0, |(b, a)| b - a));
    let windows = sliced
        .windows
        .iter()
        .zip(requests)
        .map(|(stacks, requests)| Window { requests, stacks: names.stacks(stacks, recorder) })
        .collect();
    Ok(Run {
        subject: subject.name.to_owned(),
        load: subject.load.to_owned(),
        hz: subject.hz,
        window_ns: u64::try_from(WINDOW.as_nanos())?,
        windows,
    })
}

/// Names of one program's code.
struct Names {
    symbols: GoSymbols<File>,
    known: HashMap<(bool, u64), Vec<String>>,
}

impl Names {
    fn of(pid: u32) -> Result<Names> {
        let file = file::open(format!("/proc/{pid}/exe").as_ref()).context("open the program")?;
        let symbols = GoSymbols::open(file).map_err(|error| anyhow::anyhow!("read its symbols: {error}"))?;
        Ok(Names { symbols, known: HashMap::new() })
    }

    fn stacks(&mut self, stacks: &Stacks, recorder: &mut Recorder) -> Vec<(u32, u32)> {
        let mut counts: BTreeMap<u32, u32> = BTreeMap::new();
        for stack in stacks.iter() {
            let path = self.path(stacks, &stack);
            if let Some(leaf) = recorder.leaf(&path) {
                *counts.entry(leaf).or_default() += u32::try_from(stack.count).unwrap_or(u32::MAX);
            }
        }
        counts.into_iter().collect()
    }

    fn path(&mut self, stacks: &Stacks, stack: &Stack<'_>) -> Vec<String> {
        let mut path: Vec<String> = Vec::new();
        for frame in stack.frames() {
            if frame.module == stacks::KERNEL {
                if path.is_empty() {
                    path.push("[kernel]".to_owned());
                }
                continue;
            }
            let is_program = stacks.module(frame.module).is_some_and(|module| module.path.is_absolute());
            if !is_program {
                path.push("[unknown]".to_owned());
                continue;
            }
            let is_leaf = path.is_empty();
            path.extend_from_slice(self.code(frame.offset, is_leaf));
        }
        path
    }

    /// Functions at an offset of the file, innermost first.
    fn code(&mut self, offset: u64, is_leaf: bool) -> &[String] {
        let symbols = &mut self.symbols;
        self.known.entry((is_leaf, offset)).or_insert_with(|| {
            let address = symbols.elf().code_address(Mapped { start: 0, offset: 0 }, offset);
            let pc = address.map(|address| if is_leaf { Pc::Sampled(address) } else { Pc::Return(address) });
            let frames = pc.and_then(|pc| symbols.frames(pc).ok()).unwrap_or_default();
            if frames.is_empty() {
                return vec!["[unknown]".to_owned()];
            }
            // What the compiler made up is left out, as Go does.
            frames.into_iter().filter(|frame| !frame.wrapper).map(|frame| frame.function).collect()
        })
    }
}
