//! One window of one contender: what it takes, what the others get done meanwhile, and what it knows at the end.

use std::collections::BTreeMap;
use std::fs::{self, File};
use std::ops::Range;
use std::path::Path;
use std::process::Stdio;
use std::thread::sleep;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, ensure};
use harness::process::{Process, Signal, wait_until};
use serde::Serialize;

use super::contender::{Contender, Running, last_line, tool};
use super::figure::Figure;
use super::read;
use super::scene::{Done, Scene, each_us, rate};
use super::stacks::{Heard, Part};
use super::watch::{Child, Watched};
use crate::cost::percent;
use crate::fsync::timed;

/// An eBPF profiler loads its programs for some seconds on busy CPUs.
const BEGIN_MAX: Duration = Duration::from_secs(60);

/// Who stays looks at everybody once when it starts, and knows nothing of whom it has not yet looked at.
const SETTLES: Duration = Duration::from_secs(10);

/// Between two looks at memory; nothing else is done meanwhile.
const LOOK: Duration = Duration::from_millis(500);

/// The eBPF profiler sends every five seconds what it has seen.
const SENDS_WITHIN: Duration = Duration::from_secs(7);

/// What one window showed.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Window {
    /// Which round, from 0.
    pub(super) round: usize,
    /// Whose.
    pub(super) contender: Contender,
    /// What was measured.
    pub(super) figures: BTreeMap<Figure, f64>,
    /// What it knew, as counts.
    pub(super) heard: Option<Heard>,
}

struct Opening {
    at: Instant,
    wall_ns: u64,
    done: Vec<Done>,
    cpu: Duration,
    lost: Option<f64>,
}

/// Runs the contender beside the scene for so many seconds.
pub(super) fn measure(
    contender: Contender,
    scene: &Scene<'_>,
    dir: &Path,
    (round, seconds): (usize, u64),
) -> Result<Window> {
    let mut running = Running::start(contender, scene, dir, seconds)?;
    wait_until(&format!("{} to begin", contender.name()), BEGIN_MAX, || {
        Ok(Some(running.has_begun()).filter(|begun| !matches!(begun, Ok(false))))
    })??;
    let mut figures = BTreeMap::new();
    if contender.stays() {
        sleep(SETTLES);
        figures.insert(Figure::StartS, running.cpu()?.as_secs_f64());
    }
    let length = Duration::from_secs(seconds);
    let opening = open(scene, &running)?;
    while opening.at.elapsed() < length {
        sleep(LOOK.min(length.saturating_sub(opening.at.elapsed())));
        running.watched.iter_mut().for_each(Watched::look);
        if opening.at.elapsed() * 2 > length && opening.at.elapsed() < length {
            running.watched.iter_mut().for_each(Watched::weigh);
        }
    }
    let window_ns = close(scene, &running, &opening, &mut figures)?;
    if let Some((after, before)) = running.lost()?.zip(opening.lost) {
        figures.insert(Figure::Lost, after - before);
    }
    let whole = running.end()?;
    memory(&running, &mut figures);
    if !contender.stays() && !running.watched.is_empty() {
        figures.insert(Figure::CpuWhole, percent(whole.as_secs_f64(), seconds as f64));
    }
    if let Some(naming) = running.name()? {
        figures.insert(Figure::CpuNaming, percent(naming.as_secs_f64(), seconds as f64));
    }
    let heard = running.heard(scene, &window_ns)?;
    if let Some(heard) = &heard {
        knowledge(heard, &mut figures);
    }
    Ok(Window { round, contender, figures, heard })
}

fn open(scene: &Scene<'_>, running: &Running) -> Result<Opening> {
    let (done, cpu, lost) = (scene.done()?, running.cpu()?, running.lost()?);
    if let Some(stage) = scene.stage {
        stage.workload.take_puts();
    }
    Ok(Opening { at: Instant::now(), wall_ns: wall_ns(), done, cpu, lost })
}

/// Gives the window by the wall clock.
fn close(
    scene: &Scene<'_>,
    running: &Running,
    opening: &Opening,
    figures: &mut BTreeMap<Figure, f64>,
) -> Result<Range<u64>> {
    let seconds = opening.at.elapsed().as_secs_f64();
    if let Some(puts) = scene.stage.and_then(|stage| timed(&stage.workload.take_puts())) {
        figures.insert(Figure::PutMs, puts.p99_ms);
    }
    let done = scene.done()?;
    let pairs = || opening.done.iter().copied().zip(done.iter().copied());
    let spawns: Option<f64> = pairs().find_map(|(before, after)| each_us(before, after));
    match spawns {
        Some(spawn_us) => {
            figures.insert(Figure::SpawnUs, spawn_us);
        }
        None if !done.is_empty() => {
            let each = pairs().filter_map(|(before, after)| rate(before, after));
            figures.insert(Figure::Iterations, each.sum());
        }
        None => {}
    }
    if !running.watched.is_empty() {
        let used = running.cpu()?.saturating_sub(opening.cpu);
        figures.insert(Figure::CpuWindow, percent(used.as_secs_f64(), seconds));
    }
    Ok(opening.wall_ns..wall_ns())
}

fn memory(running: &Running, figures: &mut BTreeMap<Figure, f64>) {
    if !running.watched.is_empty() {
        let sum = |of: fn(&Watched) -> f64| running.watched.iter().map(of).sum();
        figures.insert(Figure::PssMib, sum(|watched| watched.pss_peak_mib));
        figures.insert(Figure::HeldMib, sum(|watched| watched.held_peak_mib));
    }
}

fn knowledge(heard: &Heard, figures: &mut BTreeMap<Figure, f64>) {
    let callers = |at: usize| heard.callers.get(at).copied().and_then(Part::percent);
    let known = [
        (Figure::Samples, Some(heard.samples as f64)),
        (Figure::Lost, heard.lost.map(|lost| lost as f64)),
        (Figure::Named, heard.named.percent()),
        (Figure::CallersOfGo, callers(0)),
        (Figure::CallersOfNative, callers(1)),
    ];
    figures.extend(known.into_iter().filter_map(|(figure, value)| Some((figure, value?))));
}

fn wall_ns() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_nanos()).unwrap_or(u64::MAX)
}

impl Running {
    fn cpu(&self) -> Result<Duration> {
        self.watched.iter().map(Watched::cpu).sum()
    }

    /// Samples that the daemon says it has lost so far.
    fn lost(&self) -> Result<Option<f64>> {
        match self.watched.first().map(Watched::child) {
            Some(Child::Daemon(daemon)) if self.contender == Contender::Daemon => {
                daemon.metric("agent_profiler_lost_samples_total", "").map(Some)
            }
            _ => Ok(None),
        }
    }

    /// Ends it; gives all CPU time from its start to its end.
    fn end(&mut self) -> Result<Duration> {
        let signal = match self.contender {
            Contender::Capture => None,
            Contender::Daemon | Contender::DaemonBlind => Some(Signal::Term),
            _ => Some(Signal::Int),
        };
        if self.contender == Contender::Ebpf {
            sleep(SENDS_WITHIN);
        }
        for watched in &mut self.watched {
            if let Some(signal) = signal {
                watched.signal(signal)?;
            }
        }
        let ended = self.watched.iter_mut().map(Watched::wait);
        ended.map(|ended| Ok(ended?.cpu)).sum()
    }

    /// What names afterwards, with its CPU time: perf's stacks are addresses until `perf script`.
    fn name(&self) -> Result<Option<Duration>> {
        if self.contender != Contender::Perf {
            return Ok(None);
        }
        let mut command = tool("perf");
        command.args(["script", "-i", "perf.data", "-F", "pid,ip,sym,dso", "--show-lost-events"]);
        // Inlined calls by way of addr2line, a process for each file, would take minutes.
        command.arg("--no-inline").current_dir(&self.dir).stdin(Stdio::null());
        command.stdout(File::create(self.dir.join("script.txt"))?);
        command.stderr(File::create(self.dir.join("script.err"))?);
        let mut script = Watched::new(Child::Process(Process::spawn("perf script", command)?));
        let ended = script.wait()?;
        let said = fs::read_to_string(self.dir.join("script.err")).unwrap_or_default();
        ensure!(ended.status.success(), "perf script ended with {}: {}", ended.status, last_line(&said));
        Ok(Some(ended.cpu))
    }

    fn heard(&self, scene: &Scene<'_>, window_ns: &Range<u64>) -> Result<Option<Heard>> {
        let known = scene.known()?;
        let heard = match self.contender {
            Contender::Capture => read::pprof::read(&self.dir.join("out/cpu.pb.gz"), &known)?,
            Contender::Perf => read::perf::read(&self.dir.join("script.txt"), &known)?,
            Contender::Ebpf => {
                let sink = self.sink.as_ref().context("no sink")?;
                ensure!(sink.refused() == 0, "what it sent was not understood");
                read::otlp::read(&sink.received(), window_ns, &known)
            }
            Contender::Samply => {
                let said = self.said();
                let mut heard = Heard::new(&known);
                for at in 0..self.watched.len() {
                    let file = |ending: &str| self.dir.join(format!("{at}.{ending}"));
                    heard.join(&read::samply::read(&file("json"), &file("syms.json"), &known)?);
                }
                heard.lost = Some(read::samply::lost(&said));
                heard
            }
            Contender::Nothing | Contender::AllDay | Contender::Daemon | Contender::DaemonBlind => {
                return Ok(None);
            }
        };
        Ok(Some(heard))
    }
}
