//! A profile of any process, container, command or the whole node. Owns what is told of it: the answer first, on-CPU and
//! waiting told apart, then the functions.

use std::ffi::OsString;
use std::future::pending;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::anyhow;
use collectors::host::{self, Host};
use model::host::HostFact;
use model::ledger::Ledger;
use model::profile::{ProfileSet, Stacks};
use model::time::{Clock, Stamp};
use profile::counts;
use profile::goheap::HeapError;
use profile::kernel::{Kernel, Sampled, Wish};
use profile::perf::attr::STACK_BYTES_DEEP;
use profile::perf::refusal::Refusal;
use profile::perf::target::Target;
use tokio::process::{Child, Command};
use tokio::sync::watch;

use super::against::{self, Whose};
use super::bar::Bar;
use super::decide::{self, Signs};
use super::heap::{Heap, Heaps};
use super::hot::{self, Work};
use super::out::Out;
use super::report::{self, Spent, seconds};
use super::sampling::{self, Ended, Sampling};
use super::subject::{self, Subject};
use super::{Wanted, recent, waiting};
use crate::cli::{Exit, Failure, again};

/// A command takes as long as it takes; a day bounds a forgotten one.
const COMMAND_MAX: Duration = Duration::from_hours(24);
/// Of a process's name, the kernel keeps so much.
const COMM_BYTES_MAX: usize = 15;
/// What a shell gives for a command that cannot be run.
const CANNOT_RUN: u8 = 127;

/// What is profiled, in the kernel's terms and in people's.
struct Object {
    name: String,
    target: Target,
    pids: Vec<u32>,
    command: Option<Vec<OsString>>,
}

impl Object {
    fn of(subject: Subject) -> Object {
        let (name, target, pids, command) = match subject {
            Subject::Processes(pids, name) => (name, Target::Pids(pids.clone()), pids, None),
            // What we start is followed from its first instruction, because we are followed; we ourselves are left out.
            Subject::Command(command) => {
                let name =
                    command.first().map_or_else(String::new, |word| word.to_string_lossy().into_owned());
                (name, Target::Pids(vec![std::process::id()]), Vec::new(), Some(command))
            }
            Subject::Node | Subject::Member(_) => ("node".to_owned(), Target::Node, Vec::new(), None),
        };
        Object { name, target, pids, command }
    }

    /// Whose samples these would be in the daemon's ring: a command's bear its name, those of a container its numbers alone.
    fn whose(&self, base: &str) -> Whose {
        let process = match (&self.command, self.pids.as_slice()) {
            (Some(_), _) => Some(base.chars().take(COMM_BYTES_MAX).collect()),
            (None, []) => return Whose::Everybody,
            (None, [pid]) => Some(subject::called(*pid)),
            (None, _) => None,
        };
        Whose::Of { pids: self.pids.clone(), process }
    }
}

/// What one window showed.
struct Seen {
    at: Stamp,
    window_ns: u64,
    nodes: (Option<HostFact>, Option<HostFact>),
    /// How long its threads could run and had no CPU, nanoseconds.
    waited_ns: Option<u64>,
    sampled: Sampled,
    heap: Option<Result<Heaps, HeapError>>,
    interrupted: bool,
    /// The command's, when there was one and it has ended.
    code: Option<u8>,
}

/// Profiles it, tells of it, writes the files.
pub(super) async fn run(subject: Subject, wanted: &Wanted<'_>, clock: &Clock) -> crate::cli::Ended {
    let object = Object::of(subject);
    let base = object.name.rsplit('/').next().unwrap_or("command").to_owned();
    let earlier = wanted.earlier(&object.whose(&base), clock)?;
    let out = Out::prepare(wanted.out, &base, clock.now())?;
    let seen = match look(&object, wanted, clock).await {
        Ok(seen) => seen,
        Err(failure) => {
            out.give_up();
            return Err(failure);
        }
    };
    let mut lines = told(&object, &seen);
    let code = seen.code;
    let (in_use, allocated) = match seen.heap {
        Some(Ok(heaps)) => (Some(heaps.in_use), heaps.allocated),
        Some(Err(_)) | None => (None, None),
    };
    let kinds = [Some(seen.sampled.cpu), seen.sampled.off_cpu, in_use, allocated];
    let stacks: Vec<Stacks> = kinds.into_iter().flatten().collect();
    let counts = stacks.iter().map(counts::of).collect();
    let set = ProfileSet::new("perf", seen.at, counts, stacks);
    let held = against::hold(earlier, &set, wanted.rules);
    lines.extend(held.lines);
    let files = out.write((held.before.as_ref(), &set), &object.name, &lines)?;
    if !files.is_empty() {
        lines.push(format!("files: {}", files.join(" ")));
    }
    lines.iter().for_each(|line| out.tell(line));
    Ok(match code {
        Some(code) if code != 0 || !held.is_failed => Exit::Command(code),
        _ if held.is_failed => Exit::Failed,
        _ => Exit::Ok,
    })
}

async fn look(object: &Object, wanted: &Wanted<'_>, clock: &Clock) -> Result<Seen, Failure> {
    let (_, watched) = watch::channel(Vec::new());
    let root = PathBuf::from("/");
    let mut node = Host::new(root, host::Config::default(), watched, clock.clone(), Ledger::default());
    let waited = || object.pids.iter().filter_map(|pid| waiting::total_ns(*pid)).reduce(|sum, one| sum + one);
    let (first, waited_before) = (node.read().await.ok(), waited());
    let heap = match object.pids.as_slice() {
        [pid] if wanted.sampling.heap => Some(Heap::begin(*pid, clock).await),
        _ => None,
    };
    let at = clock.now();
    let kernel = begin(object, wanted.sampling, at).await?;
    let mut child = match &object.command {
        Some(command) => Some(spawn(command)?),
        None => None,
    };
    let bar = Bar::on_terminal(&object.name).filter(|_| child.is_none());
    let length = match (wanted.length, &child) {
        (Some(length), _) => length,
        (None, Some(_)) => COMMAND_MAX,
        (None, None) => super::LENGTH,
    };
    let until = async {
        match &mut child {
            Some(child) => child.wait().await,
            None => pending().await,
        }
    };
    let ended = sampling::watch(&kernel, length, (clock, at), bar, until).await;
    let window_ns = clock.now().since_ns(at);
    let (waited_after, last) = (waited(), node.read().await.ok());
    let sampled = sampling::end(kernel, clock.now()).await.map_err(|refusal| refused(&refusal))?;
    let (interrupted, code) = match ended {
        Ended::Over => (false, None),
        Ended::Interrupted => (true, None),
        Ended::Happened(status) => (false, Some(code(status?))),
    };
    let waited_ns = waited_after.zip(waited_before).map(|(after, before)| after.saturating_sub(before));
    let heap = match heap {
        Some(heap) => Some(heap.end(clock).await),
        None => None,
    };
    Ok(Seen { at, window_ns, nodes: (first, last), waited_ns, sampled, heap, interrupted, code })
}

async fn begin(object: &Object, sampling: Sampling, at: Stamp) -> Result<Kernel, Failure> {
    // Whatever it is, it may have been built without frame pointers.
    let wish = sampling.wish(object.target.clone(), STACK_BYTES_DEEP);
    let left_out = object.command.as_ref().map(|_| std::process::id());
    let wish = Wish { left_out, ..wish };
    sampling::start(wish, at).await.map_err(|refusal| refused(&refusal))
}

fn refused(refusal: &Refusal) -> Failure {
    let asked: Vec<String> = std::env::args().collect();
    let command = again::words(&asked).join(" ");
    let error =
        anyhow!("it may not be profiled: {refusal}\ncure: {}\nor run: sudo {command}", refusal.cure());
    let exit = if matches!(refusal, Refusal::Gone { .. }) { Exit::TargetDown } else { Exit::Privilege };
    Failure::new(exit, error)
}

fn spawn(command: &[OsString]) -> Result<Child, Failure> {
    let (program, arguments) = command.split_first().ok_or_else(|| anyhow!("no command"))?;
    Command::new(program).args(arguments).kill_on_drop(true).spawn().map_err(|error| {
        let error = anyhow!("run {}: {error}", program.to_string_lossy());
        Failure::new(Exit::Command(CANNOT_RUN), error)
    })
}

/// As a shell has it: 128 and the signal for what a signal ended.
fn code(status: std::process::ExitStatus) -> u8 {
    use std::os::unix::process::ExitStatusExt;
    let code = status.code().or_else(|| Some(128 + status.signal()?)).unwrap_or(1);
    u8::try_from(code).unwrap_or(1)
}

fn told(object: &Object, seen: &Seen) -> Vec<String> {
    let cpu = &seen.sampled.cpu;
    let spent = seen.nodes.0.as_ref().zip(seen.nodes.1.as_ref());
    let spent = spent.and_then(|(before, after)| Spent::between(before, after));
    let window_s = seconds(seen.window_ns).max(0.001);
    let total: i64 = cpu.samples.iter().map(|sample| sample.value).fold(0, i64::saturating_add);
    let used = seconds(u64::try_from(total).unwrap_or(0)) / window_s;
    let garbage = hot::share(cpu, Work::Garbage);
    let signs = Signs {
        who: object.name.clone(),
        window_s,
        cores: seen.nodes.1.as_ref().map(|fact| f64::from(fact.cpus)),
        used: Some(used),
        steal: spent.as_ref().map(|spent| spent.steal),
        node_busy: spent.as_ref().map(|spent| spent.busy),
        waited: seen.waited_ns.map(|waited| seconds(waited) / window_s),
        memory_available: seen.nodes.1.as_ref().map(|fact| fact.memory_available_bytes),
        garbage: garbage.clone(),
        ..Signs::default()
    };
    let decision = decide::decide(&signs);
    let mut lines = vec![decision.line];
    lines.extend(decision.also.iter().map(|also| format!("also: {also}")));
    lines.push(who(object, seen, &signs));
    lines.extend(report::node((seen.nodes.0.as_ref(), seen.nodes.1.as_ref()), seen.window_ns));
    lines.extend(report::processes(cpu));
    lines.extend(report::cpu(cpu, garbage.map(|hot| hot.share), Some(&seen.sampled.account)));
    lines.extend(
        seen.sampled
            .off_cpu
            .iter()
            .flat_map(|waits| report::off_cpu(waits, seen.window_ns, Some(&seen.sampled.account))),
    );
    match &seen.heap {
        Some(Ok(heaps)) => {
            lines.extend(report::heap(&heaps.in_use));
            lines.extend(heaps.allocated.iter().flat_map(report::allocated));
        }
        Some(Err(error)) => lines.push(format!("heap: not read from memory: {error}")),
        None => {}
    }
    lines.extend(report::account(&seen.sampled.account));
    lines.extend(recent::line());
    lines
}

fn who(object: &Object, seen: &Seen, signs: &Signs) -> String {
    let what = match (&object.command, object.pids.as_slice()) {
        (Some(_), _) => format!("command {}", object.name),
        (None, []) => "the whole node".to_owned(),
        (None, [pid]) => format!("process {} (pid {pid})", object.name),
        (None, pids) => format!("{} ({} processes)", object.name, pids.len()),
    };
    let cut = if seen.interrupted { ", interrupted" } else { "" };
    let code = seen.code.map_or(String::new(), |code| format!(", exit code {code}"));
    let waited =
        signs.waited.map_or(String::new(), |waited| format!(", waited for a CPU: {}", decide::cores(waited)));
    let used = signs.used.map_or(String::new(), |used| format!("; on CPU {}{waited}", decide::cores(used)));
    format!("{what}, {:.1} s{cut}{code}{used}", signs.window_s)
}
