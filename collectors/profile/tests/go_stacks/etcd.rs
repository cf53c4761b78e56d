//! A real etcd under load, and two profiles of it: Go's own, and ours.

use std::io::{Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;
use std::{env, fs, thread};

use model::profile::{ProfileKind, Stacks};
use model::time::Stamp;
use profile::binaries::Binaries;
use profile::gopprof;
use profile::names::{Capture, Names};
use profile::perf::attr::Hz;
use profile::perf::session::{Plan, Seen, Session, Sink};
use profile::perf::stacks;
use profile::perf::statistics;
use profile::perf::target::Target;
use profile::sampler::Sampler;
use profile::{names, unwind};

use crate::pairs::{Level, Share, pairs, stacks as named};

/// A child that does not outlive us.
#[derive(Debug)]
pub(crate) struct Program(pub(crate) Child);

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// One member with its data, gone when dropped.
#[derive(Debug)]
pub(crate) struct Etcd {
    process: Program,
    client: u16,
    folder: PathBuf,
}

pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools")
}

/// A port that nobody has at the moment.
fn port() -> u16 {
    TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap().local_addr().unwrap().port()
}

/// Keys that a read goes over.
const KEYS: usize = 30_000;
/// As many as etcd takes in one transaction.
const KEYS_A_TRANSACTION: usize = 128;
/// The newest of all keys: etcd collects and sorts them to answer with one, and the client has next to nothing to do.
const READ: [&str; 9] =
    ["get", "--prefix", "/keys/", "--sort-by", "MODIFY", "--order", "DESCEND", "--limit", "1"];
/// Who reads at the same time: enough for both CPUs to be etcd's.
const READERS: usize = 3;

fn etcdctl(client: u16) -> Command {
    let program = tools().join("etcd/3.6/etcdctl");
    assert!(program.exists(), "{} is missing: `make tools` brings it", program.display());
    let mut command = Command::new(program);
    command.args(["--endpoints", &format!("127.0.0.1:{client}")]);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    command
}

impl Etcd {
    pub(crate) fn start(version: &str) -> Etcd {
        let program = tools().join("etcd").join(version).join("etcd");
        assert!(program.exists(), "{} is missing: `make tools` brings it", program.display());
        let (client, peer) = (port(), port());
        let folder = env::temp_dir().join(format!("go-stacks-{}-{client}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        let (client_url, peer_url) =
            (format!("http://127.0.0.1:{client}"), format!("http://127.0.0.1:{peer}"));
        let child = Command::new(program)
            .arg("--data-dir")
            .arg(folder.join("data"))
            .args(["--enable-pprof", "--log-level", "error"])
            .args(["--listen-client-urls", &client_url, "--advertise-client-urls", &client_url])
            .args(["--listen-peer-urls", &peer_url, "--initial-advertise-peer-urls", &peer_url])
            .args(["--initial-cluster", &format!("default={peer_url}")])
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let etcd = Etcd { process: Program(child), client, folder };
        for _ in 0..600 {
            if etcd.get("/health").is_some_and(|body| body.windows(4).any(|part| part == b"true")) {
                return etcd;
            }
            thread::sleep(Duration::from_millis(100));
        }
        panic!("etcd {version} is not healthy after a minute");
    }

    pub(crate) fn pid(&self) -> u32 {
        self.process.0.id()
    }

    fn get(&self, path: &str) -> Option<Vec<u8>> {
        let mut stream = TcpStream::connect((Ipv4Addr::LOCALHOST, self.client)).ok()?;
        // An answer of HTTP/1.0 ends with its connection: no chunks to put together.
        write!(stream, "GET {path} HTTP/1.0\r\nHost: localhost\r\n\r\n").ok()?;
        let mut answer = Vec::new();
        stream.read_to_end(&mut answer).ok()?;
        let body = answer.windows(4).position(|end| end == b"\r\n\r\n")? + 4;
        answer.starts_with(b"HTTP/1.0 200").then(|| answer.split_off(body))
    }

    /// Go's own profile of the next seconds.
    pub(crate) fn own_profile(&self, seconds: u64) -> Stacks {
        let body = self.get(&format!("/debug/pprof/profile?seconds={seconds}")).expect("etcd's own profile");
        gopprof::decode(&body, ProfileKind::Cpu, Stamp::default()).unwrap().0
    }

    /// etcd's own load generator, again and again: `check perf` of that size writes for a minute. Or `reads`: an expensive
    /// range, three times at once.
    pub(crate) fn load(&self, size: &str) -> Load {
        let is_over = Arc::new(AtomicBool::new(false));
        let threads = if size == "reads" {
            self.fill();
            (0..READERS).map(|_| self.repeat(&is_over, |_| READ.map(str::to_owned).to_vec())).collect()
        } else {
            let check = ["check", "perf", "--load", size, "--prefix"].map(str::to_owned).to_vec();
            vec![self.repeat(&is_over, move |run| [check.clone(), vec![format!("/load-{run}/")]].concat())]
        };
        Load { is_over, threads }
    }

    /// Puts the keys that are read.
    fn fill(&self) {
        for begin in (0..KEYS).step_by(KEYS_A_TRANSACTION) {
            let puts = (begin..KEYS.min(begin + KEYS_A_TRANSACTION))
                .map(|key| format!("put /keys/{key:08} value-of-{key:032}\n"));
            let mut child = etcdctl(self.client).arg("txn").stdin(Stdio::piped()).spawn().unwrap();
            let text = format!("\n{}\n\n", puts.collect::<String>());
            child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
            assert!(child.wait().unwrap().success(), "keys from {begin} on");
        }
    }

    /// Calls the client with these arguments, each call's with its number, until it is over.
    fn repeat(
        &self,
        is_over: &Arc<AtomicBool>,
        arguments: impl Fn(u32) -> Vec<String> + Send + 'static,
    ) -> JoinHandle<()> {
        let (is_over, client) = (Arc::clone(is_over), self.client);
        thread::spawn(move || {
            for run in 0.. {
                let mut program = Program(etcdctl(client).args(arguments(run)).spawn().unwrap());
                while program.0.try_wait().unwrap().is_none() {
                    if is_over.load(Ordering::Relaxed) {
                        return;
                    }
                    thread::sleep(Duration::from_millis(20));
                }
            }
        })
    }
}

/// Ends when dropped.
#[derive(Debug)]
pub(crate) struct Load {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

impl Drop for Load {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
        self.threads.drain(..).for_each(|thread| drop(thread.join()));
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        drop(self.process.0.kill());
        drop(self.process.0.wait());
        drop(fs::remove_dir_all(&self.folder));
    }
}

/// The same samples twice: mended, and as frame pointers give them.
struct Both {
    sampler: Sampler,
    plain: Arc<Mutex<stacks::Stacks>>,
}

impl Sink for Both {
    fn sample(&mut self, seen: &Seen<'_>) {
        self.sampler.sample(seen);
        self.plain.lock().unwrap().add(seen);
    }
}

/// CPU time of this thread, up to its latest tick or switch.
fn thread_cpu_ns() -> u64 {
    let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    text.split(' ').next().unwrap().parse().unwrap()
}

/// One capture of ours.
#[derive(Debug)]
pub(crate) struct Ours {
    pub(crate) mended: Stacks,
    pub(crate) plain: Stacks,
    pub(crate) unwinding: unwind::Statistics,
    pub(crate) naming: names::Statistics,
    pub(crate) session: statistics::Statistics,
    /// CPU time.
    pub(crate) naming_ns: u64,
}

/// Takes captures of programs.
#[derive(Debug, Default)]
pub(crate) struct Profiler {
    binaries: Binaries,
    names: Names,
}

impl Profiler {
    pub(crate) fn new() -> Profiler {
        let binaries = Binaries::default();
        Profiler { names: Names::new(binaries.clone()), binaries }
    }

    pub(crate) fn capture(&mut self, pid: u32, hz: Hz, length: Duration) -> Ours {
        let (sampler, harvest) = Sampler::new(self.binaries.clone());
        let plain = Arc::default();
        let sink = Both { sampler, plain: Arc::clone(&plain) };
        let mut plan = Plan::new(Target::Pids(vec![pid]), hz);
        plan.length = Some(length);
        let session =
            Session::start(&plan, sink).unwrap_or_else(|refusal| panic!("{refusal}: {}", refusal.cure()));
        let outcome = session.wait();
        let counted = harvest.take();
        let capture = Capture {
            kind: ProfileKind::Cpu,
            at: Stamp::default(),
            duration_ns: outcome.statistics.wall_ns,
            period_ns: hz.period_ns(),
        };
        let began_ns = thread_cpu_ns();
        let (mended, naming) = self.names.name(&counted.stacks, &capture);
        let naming_ns = thread_cpu_ns() - began_ns;
        let (plain, _) = self.names.name(&plain.lock().unwrap(), &capture);
        Ours { mended, plain, unwinding: counted.unwinding, naming, session: outcome.statistics, naming_ns }
    }
}

/// How a comparison is made.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Comparison {
    /// Profiles of Go's, one before and one after each of ours.
    pub(crate) rounds: u32,
    pub(crate) theirs_s: u64,
    pub(crate) ours: Duration,
    pub(crate) hz: Hz,
}

/// Shares of samples whose leaf and caller occur in Go's own profiles.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Agreement {
    pub(crate) mended: Share,
    /// But for the runtime's monitor, whose thread Go's profiler does not interrupt: it runs no goroutine.
    pub(crate) without_sysmon: Share,
    pub(crate) plain: Share,
    /// Each of Go's profiles against the others: more than this cannot be expected.
    pub(crate) ceiling: Share,
}

/// What was seen of an etcd.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(crate) theirs: Vec<Stacks>,
    pub(crate) ours: Vec<Ours>,
}

impl Observed {
    /// Takes turns: Go's profiler and ours never look at the same moment, or each would see the other at work.
    pub(crate) fn of(etcd: &Etcd, size: &str, how: Comparison) -> Observed {
        let (mut seen, mut profiler) = (Observed::default(), Profiler::new());
        let _load = etcd.load(size);
        thread::sleep(Duration::from_secs(2));
        for round in 1..=how.rounds {
            seen.theirs.push(etcd.own_profile(how.theirs_s));
            if round < how.rounds {
                seen.ours.push(profiler.capture(etcd.pid(), how.hz, how.ours));
            }
        }
        seen
    }

    pub(crate) fn agreement(&self, level: Level) -> Agreement {
        let theirs: Vec<_> = self.theirs.iter().map(|profile| named(profile, level)).collect();
        let all = theirs.iter().flat_map(|stacks| pairs(stacks)).collect();
        let mut agreement = Agreement::default();
        for one in &self.ours {
            let mut ours = named(&one.mended, level);
            agreement.mended = agreement.mended.and(Share::of(&ours, &all));
            ours.retain(|stack| !stack.0.contains(&"runtime.sysmon"));
            agreement.without_sysmon = agreement.without_sysmon.and(Share::of(&ours, &all));
            agreement.plain = agreement.plain.and(Share::of(&named(&one.plain, level), &all));
        }
        for (at, one) in theirs.iter().enumerate() {
            let others = theirs.iter().enumerate().filter(|(other, _)| *other != at);
            let others = others.flat_map(|(_, stacks)| pairs(stacks)).collect();
            agreement.ceiling = agreement.ceiling.and(Share::of(one, &others));
        }
        agreement
    }

    /// Pairs of ours that Go's profiles have not, with how often, most first.
    pub(crate) fn strangers(&self, level: Level) -> Vec<(u64, String)> {
        let theirs: Vec<_> = self.theirs.iter().flat_map(|profile| named(profile, level)).collect();
        let all = pairs(&theirs);
        let mut counts = std::collections::BTreeMap::new();
        for one in self.ours.iter().flat_map(|one| named(&one.mended, level)) {
            let pair = crate::pairs::pair(&one);
            if !all.contains(&pair) {
                *counts.entry(format!("{} <- {}", pair.0, pair.1)).or_insert(0) += one.1;
            }
        }
        let mut sorted: Vec<_> = counts.into_iter().map(|(pair, count)| (count, pair)).collect();
        sorted.sort_by(|a, b| b.cmp(a));
        sorted
    }
}
