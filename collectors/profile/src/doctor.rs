//! What of profiling works here, what each missing privilege or setting costs, and how to get it.
//!
//! Owns the attempts and the findings. Refuses to change anything, and to believe settings where it can try: what the
//! kernel grants is the finding, what the machine says of itself is only the cause.

use std::fs::{self, File};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::perf::attr::{Abilities, Hz, Measure};
use crate::perf::events::{Events, Sizes};
use crate::perf::refusal::Refusal;
use crate::perf::target::Target;
use crate::perf::tracepoint::Way;
use crate::symbols::kernel;

use self::machine::Machine;

pub mod findings;
pub mod machine;

/// Processes whose maps are tried. Who may read these may read the others.
const PROCESSES_MAX: usize = 128;

/// What a finding is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Part {
    /// CPU samples of every process.
    NodeCpu,
    /// CPU samples of one's own processes.
    OwnCpu,
    /// Names of the kernel's functions.
    KernelNames,
    /// Which files other users' processes have mapped, and where.
    OtherProcesses,
    /// Names from executables that other users keep to themselves.
    OtherFiles,
    /// Processes outside this pid namespace.
    HostPids,
    /// Rings as large as they should be.
    LockedMemory,
    /// What the kernel is too old for.
    Kernel,
    /// The container of a sample.
    Containers,
    /// Time off the CPU.
    OffCpu,
    /// The heap of Go processes without an endpoint.
    Heap,
}

impl Part {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Part::NodeCpu => "node_cpu",
            Part::OwnCpu => "own_cpu",
            Part::KernelNames => "kernel_names",
            Part::OtherProcesses => "other_processes",
            Part::OtherFiles => "other_files",
            Part::HostPids => "host_pids",
            Part::LockedMemory => "locked_memory",
            Part::Kernel => "kernel",
            Part::Containers => "containers",
            Part::OffCpu => "off_cpu",
            Part::Heap => "heap",
        }
    }

    /// Whether the daemon uses it unless it is told otherwise. The others are for those who ask, or nice to have.
    #[must_use]
    pub fn is_default(self) -> bool {
        !matches!(self, Part::OwnCpu | Part::Containers | Part::OffCpu | Part::Heap)
    }
}

/// How much of it works.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum State {
    /// All.
    Ok,
    /// Less than there could be.
    Degraded,
    /// Nothing.
    Missing,
}

impl State {
    /// Its name in tables and JSON.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            State::Ok => "ok",
            State::Degraded => "degraded",
            State::Missing => "missing",
        }
    }
}

/// One part, and how it is with it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// Which.
    pub part: Part,
    /// How much.
    pub state: State,
    /// What is so, and what that costs; where all works, what was seen.
    pub cause: String,
    /// What to do about it; empty where all works.
    pub cure: String,
}

/// What came of trying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tried {
    /// Sampling the whole node.
    pub node: Result<Abilities, Refusal>,
    /// Sampling this process.
    pub own: Result<Abilities, Refusal>,
    /// Seeing this process wait.
    pub waiting: Result<Abilities, Refusal>,
    /// Whether the kernel says where its functions are.
    pub is_kernel_named: bool,
    /// Processes whose maps may not be read, and all that were tried.
    pub unread: (usize, usize),
}

impl Tried {
    /// Opens each kind of event for a moment, and reads what is to be read. Takes some milliseconds.
    #[must_use]
    pub fn now() -> Tried {
        let own = || Target::Pids(vec![std::process::id()]);
        let is_kernel_named = kernel::is_shown(Path::new(kernel::LIST));
        let way = Way::of(is_kernel_named);
        let open = |target: &Target, measure: Measure| {
            let events = Events::open_by(target, (measure, Hz::STEADY), Sizes::default(), way);
            events.map(|events| events.abilities())
        };
        Tried {
            node: open(&Target::Node, Measure::Running),
            own: open(&own(), Measure::Running),
            waiting: open(&own(), Measure::Waiting),
            is_kernel_named,
            unread: unread(Path::new("/proc")),
        }
    }
}

/// Everything about this machine and this process.
#[must_use]
pub fn examine() -> Vec<Finding> {
    findings::of(&Machine::read(Path::new("/")), &Tried::now())
}

/// Whether everything that the daemon's defaults need is there.
#[must_use]
pub fn is_well(findings: &[Finding]) -> bool {
    findings.iter().all(|finding| finding.state == State::Ok || !finding.part.is_default())
}

/// Other users' processes come first: one's own say nothing.
fn unread(proc: &Path) -> (usize, usize) {
    let own_uid = fs::metadata(proc.join("self")).map(|metadata| metadata.uid()).ok();
    let entries = fs::read_dir(proc).into_iter().flatten().flatten();
    let processes = entries.filter(|entry| entry.file_name().to_str().is_some_and(is_number));
    let mut processes: Vec<_> = processes.take(PROCESSES_MAX * PROCESSES_MAX).collect();
    processes.sort_by_key(|entry| entry.metadata().map(|metadata| metadata.uid()).ok() == own_uid);
    processes.truncate(PROCESSES_MAX);
    let is_unread = |entry: &&fs::DirEntry| match File::open(entry.path().join("maps")) {
        // Opening asks for the right; a process that has ended meanwhile is no refusal.
        Err(error) => error.kind() == std::io::ErrorKind::PermissionDenied,
        Ok(_) => false,
    };
    (processes.iter().filter(is_unread).count(), processes.len())
}

fn is_number(name: &str) -> bool {
    name.bytes().all(|byte| byte.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::{Part, State, examine, is_well, unread};

    #[test]
    fn this_machine_is_examined_whole() {
        let findings = examine();
        for finding in &findings {
            println!("{finding:?}");
            assert_eq!(finding.cure.is_empty(), finding.state == State::Ok, "{finding:?}");
            assert!(!finding.cause.is_empty() && !finding.part.label().is_empty());
        }
        let mut parts: Vec<Part> = findings.iter().map(|finding| finding.part).collect();
        assert_eq!(parts.len(), 11);
        parts.sort();
        parts.dedup();
        assert_eq!(parts.len(), 11);
        let worst = findings.iter().filter(|finding| finding.part.is_default()).map(|finding| finding.state);
        assert_eq!(is_well(&findings), worst.max() == Some(State::Ok));
    }

    #[test]
    fn a_process_that_ended_meanwhile_is_unread() {
        let folder = std::env::temp_dir().join(format!("doctor-{}", std::process::id()));
        std::fs::create_dir_all(folder.join("7")).unwrap();
        assert_eq!(unread(&folder), (0, 1));
        std::fs::remove_dir_all(folder).unwrap();
    }
}
