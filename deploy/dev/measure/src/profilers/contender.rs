//! Who is compared: how each profiler is called, and by what it shows that it has begun.
//!
//! Owns the command lines. All sample 99 times a second of each CPU, but for what the agent does all day, which is 19.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};
use harness::agent;
use harness::daemon;
use harness::daemon::Seat;
use harness::etcd::tools;
use harness::process::Process;
use harness::sink::Sink;
use serde::Serialize;

use super::scene::{Load, Scene};
use super::watch::{Child, Watched};

/// Beside the usual hundred, so that nothing which happens a hundred times a second is always or never met.
pub(super) const HZ: &str = "99";

/// Where set-up is told which release of the eBPF profiler it is.
const EBPF_MODULE: &str = include_str!("../../../ebpf-profiler/go.mod");

/// Needs tracefs by its usual name; where the host has not mounted it, it is mounted for this process alone.
const WITH_TRACEFS: &str =
    "[ -e /sys/kernel/tracing/events ] || mount -t tracefs tracefs /sys/kernel/tracing && exec \"$0\" \"$@\"";

/// Where there are no hardware counters, as in most virtual machines, samply 0.13 asks this file whether it may go on, and
/// believes nothing above 1. The kernel's own answer to root is not changed by it.
const WITH_LEAVE: &str =
    "echo 1 >leave && mount --bind leave /proc/sys/kernel/perf_event_paranoid && exec \"$0\" \"$@\"";

/// One of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Contender {
    /// The base line.
    Nothing,
    /// `agent --profile -a`: everything named, encoded and written.
    Capture,
    /// `agent run` that samples nobody: what the other is held against.
    DaemonBlind,
    /// `agent run` that samples all day.
    Daemon,
    /// Not run: the difference of the two above.
    AllDay,
    /// `perf record -a -g`, then `perf script` for the names.
    Perf,
    /// `samply record -p`: it asks single processes, here the programs with known callers.
    Samply,
    /// The OpenTelemetry eBPF profiler, which sends what it sees.
    Ebpf,
}

impl Contender {
    /// Those that are run, in the order of the first round.
    pub(super) const RUN: [Contender; 7] = [
        Contender::Nothing,
        Contender::Capture,
        Contender::Perf,
        Contender::Ebpf,
        Contender::Samply,
        Contender::Daemon,
        Contender::DaemonBlind,
    ];

    /// For people.
    pub(super) fn name(self) -> &'static str {
        match self {
            Contender::Nothing => "nothing",
            Contender::Capture => "agent --profile -a, 99 Hz",
            Contender::DaemonBlind => "agent run, sampling off",
            Contender::Daemon => "agent run, 19 Hz",
            Contender::AllDay => "  difference: the 19 Hz alone",
            Contender::Perf => "perf record -a -g, 99 Hz",
            Contender::Samply => "samply, 99 Hz, single processes",
            Contender::Ebpf => "OTel eBPF profiler, 99 Hz",
        }
    }

    /// Whether it is started once and stays; else it is called when it is needed, and all that it takes is its price.
    pub(super) fn stays(self) -> bool {
        matches!(self, Contender::Daemon | Contender::DaemonBlind | Contender::Ebpf)
    }

    /// Whether it is another's: a run goes on without it.
    pub(super) fn is_foreign(self) -> bool {
        self.tool().is_some()
    }

    /// The piece of `deploy/dev/setup.sh` that brings it, which is also its name in `.tools/bin`.
    fn tool(self) -> Option<&'static str> {
        match self {
            Contender::Perf => Some("perf"),
            Contender::Samply => Some("samply"),
            Contender::Ebpf => Some("ebpf-profiler"),
            _ => None,
        }
    }

    /// Why it cannot take part, where that is known before.
    pub(super) fn missing(self, load: Load) -> Option<String> {
        if self == Contender::Samply && load == Load::Idle {
            return Some("it profiles single processes, and none works".to_owned());
        }
        let tool = self.tool()?;
        if tools().join("bin").join(tool).is_file() {
            return None;
        }
        // Set-up leaves the reason there.
        let reason = fs::read_to_string(tools().join("missing").join(tool)).unwrap_or_default();
        let reason = reason.trim().lines().next().unwrap_or_default().to_owned();
        Some(if reason.is_empty() { format!("no {tool} in .tools") } else { reason })
    }

    /// What it says of its version.
    pub(super) fn version(self) -> Option<String> {
        let binary = match self.tool() {
            // It is told its version when it is released, and not when it is built.
            Some("ebpf-profiler") => {
                let version = EBPF_MODULE.lines().find_map(|line| line.strip_prefix("require "))?;
                return version.split(' ').nth(1).map(str::to_owned);
            }
            Some(tool) => tools().join("bin").join(tool),
            None if self == Contender::Capture => agent::binary().ok()?,
            None => return None,
        };
        let said = Command::new(binary).arg("--version").output().ok()?;
        Some(String::from_utf8_lossy(&said.stdout).lines().next()?.trim().to_owned())
    }
}

/// A contender at work.
#[derive(Debug)]
pub(super) struct Running {
    /// Who.
    pub(super) contender: Contender,
    /// Its processes.
    pub(super) watched: Vec<Watched>,
    /// Where its files are.
    pub(super) dir: PathBuf,
    /// What it sends to.
    pub(super) sink: Option<Sink>,
}

impl Running {
    /// Starts it in a folder of its own, for a window of so many seconds.
    pub(super) fn start(
        contender: Contender,
        scene: &Scene<'_>,
        dir: &Path,
        seconds: u64,
    ) -> Result<Running> {
        fs::create_dir_all(dir).with_context(|| format!("create {}", dir.display()))?;
        let mut running = Running { contender, watched: Vec::new(), dir: dir.to_owned(), sink: None };
        match contender {
            Contender::Nothing | Contender::AllDay => {}
            Contender::Capture => running.capture(seconds)?,
            Contender::Daemon | Contender::DaemonBlind => running.daemon(scene)?,
            Contender::Perf => running.perf()?,
            Contender::Samply => running.samply(scene)?,
            Contender::Ebpf => running.ebpf()?,
        }
        Ok(running)
    }

    fn capture(&mut self, seconds: u64) -> Result<()> {
        let mut command = Command::new(agent::binary()?.canonicalize()?);
        command.args(["--profile", "-a", "--hz", HZ, "--for", &format!("{seconds}s"), "--out", "out"]);
        self.spawn("agent", command)
    }

    fn daemon(&mut self, scene: &Scene<'_>) -> Result<()> {
        let seat = Seat::kept(&self.dir, Path::new(crate::stage::SHIPPED))?;
        let members = scene.stage.map_or(String::new(), |stage| daemon::named(&stage.cluster, true));
        let profile = match self.contender {
            Contender::Daemon => "profile:\n  engine: perf\n",
            _ => "profile:\n  enabled: false\n",
        };
        seat.configure(&format!("{members}{profile}"))?;
        self.watched.push(Watched::new(Child::Daemon(seat.start(&[])?)));
        Ok(())
    }

    fn perf(&mut self) -> Result<()> {
        let mut command = tool("perf");
        // Without -B, perf 6.1 has aborted at the end of a recording, while it collected build ids.
        command.args(["record", "-a", "-g", "-B", "-F", HZ, "-o", "perf.data"]);
        self.spawn("perf", command)
    }

    fn samply(&mut self, scene: &Scene<'_>) -> Result<()> {
        for (at, program) in scene.programs.iter().enumerate() {
            let mut command = Command::new("unshare");
            command.args(["-m", "sh", "-c", WITH_LEAVE]).arg(tools().join("bin/samply"));
            command.args(["record", "--save-only", "--unstable-presymbolicate", "-r", HZ]);
            command.args(["-p", &program.pid().to_string(), "-o", &format!("{at}.json")]);
            self.spawn("samply", command)?;
        }
        Ok(())
    }

    fn ebpf(&mut self) -> Result<()> {
        let sink = Sink::start()?;
        let address = sink.grpc_endpoint().trim_start_matches("http://").to_owned();
        let mut command = Command::new("unshare");
        command.args(["-m", "sh", "-c", WITH_TRACEFS]).arg(tools().join("bin/ebpf-profiler"));
        command.args(["-collection-agent", &address, "-disable-tls"]);
        command.args(["-samples-per-second", HZ, "-reporter-interval", "5s"]);
        self.sink = Some(sink);
        self.spawn("ebpf-profiler", command)
    }

    fn spawn(&mut self, name: &str, mut command: Command) -> Result<()> {
        let open = |ending: &str| {
            let path = self.dir.join(format!("{}.{ending}", self.watched.len()));
            File::create(&path).with_context(|| format!("create {}", path.display()))
        };
        command.current_dir(&self.dir).stdin(Stdio::null()).stdout(open("out")?).stderr(open("err")?);
        self.watched.push(Watched::new(Child::Process(Process::spawn(name, command)?)));
        Ok(())
    }

    /// What its processes wrote on standard error.
    pub(super) fn said(&self) -> String {
        let files = (0..self.watched.len()).map(|at| self.dir.join(format!("{at}.err")));
        files.map(|file| String::from_utf8_lossy(&fs::read(file).unwrap_or_default()).into_owned()).collect()
    }

    /// Whether it samples.
    pub(super) fn has_begun(&mut self) -> Result<bool> {
        let ended = self.watched.iter_mut().map(Watched::ended).collect::<Result<Vec<_>>>()?;
        if let Some(ended) = ended.into_iter().flatten().next() {
            bail!("{} ended with {}: {}", self.contender.name(), ended.status, last_line(&self.said()));
        }
        Ok(match self.contender {
            Contender::Ebpf => self.said().contains("Attached sched monitor"),
            Contender::Capture | Contender::Perf | Contender::Samply => {
                self.watched.iter().all(Watched::has_ring)
            }
            // The daemon is ready when it has been started.
            _ => true,
        })
    }
}

/// One of those in `.tools`.
pub(super) fn tool(name: &str) -> Command {
    Command::new(tools().join("bin").join(name))
}

/// The last line that says something.
pub(super) fn last_line(text: &str) -> &str {
    text.lines().rev().map(str::trim).find(|line| !line.is_empty()).unwrap_or("it said nothing")
}
