//! `agent --profile` on real members: an answer in line one, files that others can read, and exit codes that say why not.
//!
//! The machine may be busy with other stories: no story counts on an idle node, or on a quick one.

use std::{
    fs,
    io::Read,
    net::{Ipv4Addr, TcpListener},
    os::unix::fs::PermissionsExt,
    path::Path,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::Duration,
};

use anyhow::{Context, Result, anyhow, bail, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use flate2::read::GzDecoder;
use harness::{
    agent::{Agent, Finished},
    daemon::{self, Folder},
    etcd::{Cluster, Member, Options, Version},
    http,
    process::wait_until,
};
use model::{
    profile::{ProfileKind, Stacks},
    time::Stamp,
};
use profile::gopprof;

/// Two seconds of profile, and the patience that a busy host asks for.
const SOON: Duration = Duration::from_secs(40);

/// What each folder and each tar holds, and what is counted in it.
const PROFILES: [(&str, ProfileKind); 3] = [
    ("cpu.pb.gz", ProfileKind::Cpu),
    ("heap.pb.gz", ProfileKind::Heap),
    ("goroutine.pb.gz", ProfileKind::Goroutine),
];

/// Keys that each request of the load reads; some 30 ms of a core.
const KEYS: usize = 30_000;

/// Requests of the load that are under way at any time: more than there are cores on a small machine.
const CALLERS: usize = 4;

/// A member, a configuration that names it, and where the command's output goes.
struct Bench {
    cluster: Cluster,
    folder: Folder,
}

impl Bench {
    fn new(name: &str, version: Version, options: Options) -> Result<Bench> {
        let folder = Folder::new(name)?;
        // One transaction may fill in thousands of keys.
        let args = vec![format!("--max-txn-ops={KEYS}")];
        let cluster = Cluster::start(version, 1, &Options { args, ..options })?;
        folder.write("agent.yaml", &daemon::named(&cluster, true))?;
        Ok(Bench { cluster, folder })
    }

    fn member(&self) -> Result<&Member> {
        self.cluster.member(1)
    }

    /// `agent --profile` at the endpoint for two seconds with these arguments beside.
    fn profile(&self, args: &[&str]) -> Result<Finished> {
        let config = self.folder.path().join("agent.yaml");
        let mut all = vec![
            "--profile",
            "--engine",
            "pprof",
            "--for",
            "2s",
            "--config",
            config.to_str().context("path")?,
        ];
        all.extend(args);
        Agent::run(self.folder.path(), &all, &[], SOON)
    }

    fn fill(&self) -> Result<()> {
        const AT_ONCE: usize = 5_000;
        let put = |key: usize| {
            let (key, value) = (STANDARD.encode(format!("/load/{key:06}")), STANDARD.encode([b'x'; 40]));
            format!(r#"{{"request_put":{{"key":"{key}","value":"{value}"}}}}"#)
        };
        for from in (0..KEYS).step_by(AT_ONCE) {
            let puts: Vec<String> = (from..from + AT_ONCE).map(put).collect();
            self.member()?.call("/v3/kv/txn", &format!(r#"{{"success":[{}]}}"#, puts.join(",")))?;
        }
        Ok(())
    }

    /// Runs `story` while callers read all keys, each request so many times over, and get one of them back.
    fn loaded<T>(&self, times: usize, story: impl FnOnce() -> Result<T>) -> Result<T> {
        let (from, to) = (STANDARD.encode("/load/"), STANDARD.encode("/load0"));
        // The newest of all: etcd reads them all to find it, and its answer is short.
        let range = format!(
            r#"{{"key":"{from}","range_end":"{to}","sort_order":"DESCEND","sort_target":"MOD","limit":"1"}}"#
        );
        let ranges = vec![format!(r#"{{"request_range":{range}}}"#); times].join(",");
        let request = format!(r#"{{"success":[{ranges}]}}"#);
        let (member, over) = (self.member()?, AtomicBool::new(false));
        // On a busy host a request may take longer than the harness waits: it loads etcd all the same.
        let call = || {
            while !over.load(Ordering::Relaxed) {
                if times > 1 {
                    member.call("/v3/kv/txn", &request).ok();
                } else {
                    member.call("/v3/kv/range", &range).ok();
                }
            }
        };
        thread::scope(|scope| {
            for _ in 0..CALLERS {
                scope.spawn(call);
            }
            let told = story();
            over.store(true, Ordering::Relaxed);
            told
        })
    }
}

fn code(finished: &Finished) -> Option<i32> {
    finished.status.code()
}

fn has_figure(line: &str) -> bool {
    line.contains(|c: char| c.is_ascii_digit())
}

fn decoded(bytes: &[u8], kind: ProfileKind) -> Result<Stacks> {
    Ok(gopprof::decode(bytes, kind, Stamp::default())?.0)
}

fn names_etcd(stacks: &Stacks) -> bool {
    stacks.functions.iter().any(|function| function.name.starts_with("go.etcd.io/"))
}

/// The page needs nobody beside itself.
fn is_whole_page(page: &[u8]) -> bool {
    let page = String::from_utf8_lossy(page).to_ascii_lowercase();
    let asks_elsewhere =
        ["src=\"http", "href=\"http", "<link", "@import"].iter().any(|sign| page.contains(sign));
    page.contains("<html") && page.contains("</html>") && page.contains("etcd") && !asks_elsewhere
}

/// Only the node may be to blame at a member that does nothing.
fn an_idle_member_is_not_blamed(bench: &Bench) -> Result<()> {
    let idle = bench.profile(&["--out", "-"])?;
    ensure!(code(&idle) == Some(0), "{}", idle.stderr);
    let answer = idle.stderr.lines().next().context("no answer")?;
    let node = ["steal: the hypervisor took", "available on the node", "others fill the node"];
    let blamed = answer.starts_with("not CPU: ") && answer.contains("of a core used")
        || node.iter().any(|words| answer.contains(words));
    ensure!(blamed && has_figure(answer), "{answer}");
    is_the_whole_tar(&idle)
}

/// Nothing but the tar is on standard output: it is read to its last byte.
fn is_the_whole_tar(finished: &Finished) -> Result<()> {
    let mut archive = tar::Archive::new(finished.bytes.as_slice());
    let mut names = Vec::new();
    for entry in archive.entries()? {
        let mut entry = entry?;
        let name = entry.path()?.display().to_string();
        ensure!(entry.header().mode()? == 0o600, "{name} has mode {:o}", entry.header().mode()?);
        let mut bytes = Vec::new();
        entry.read_to_end(&mut bytes)?;
        if let Some((_, kind)) = PROFILES.iter().find(|(known, _)| *known == name) {
            decoded(&bytes, *kind)?;
        }
        match name.as_str() {
            "flame.html" => ensure!(is_whole_page(&bytes), "not a page"),
            "report.txt" => {
                let report = String::from_utf8(bytes)?;
                ensure!(finished.stderr.starts_with(report.lines().next().context("empty")?), "{report}");
            }
            _ => {}
        }
        names.push(name);
    }
    for (name, _) in PROFILES {
        ensure!(names.iter().any(|known| known == name), "no {name} among {names:?}");
    }
    ensure!(names.iter().any(|name| name == "flame.html"), "no flame.html among {names:?}");
    let bytes = archive.into_inner();
    ensure!(bytes.iter().all(|byte| *byte == 0), "{} bytes follow the tar", bytes.len());
    Ok(())
}

fn a_loaded_member_is_told(bench: &Bench, version: Version) -> Result<()> {
    bench.fill()?;
    let out = bench.folder.path().join("loaded");
    let told = bench.loaded(1, || bench.profile(&["--out", out.to_str().context("path")?]))?;
    ensure!(code(&told) == Some(0), "{}", told.stderr);
    let answer = told.stdout.lines().next().context("no answer")?;
    ensure!(answer.starts_with("likely bottleneck: ") && has_figure(answer), "{answer}");
    // A neighbour on the node may be worse; the range is told all the same.
    let range = told.stdout.lines().take_while(|line| !line.starts_with("member ")).find(|line| {
        line.contains("an expensive range: ") && line.contains("% of etcd's CPU") && line.contains("ange")
    });
    ensure!(range.is_some(), "{}", told.stdout);
    let numbers = version.name();
    for wanted in
        [&format!(", etcd {numbers}"), "CPU profile: samples ", "heap in use: ", "goroutines: ", "cost: "]
    {
        ensure!(told.stdout.contains(wanted), "no {wanted:?} in {}", told.stdout);
    }
    are_the_files(&out)
}

fn are_the_files(out: &Path) -> Result<()> {
    let private = |path: &Path| -> Result<Vec<u8>> {
        let bytes = fs::read(path).with_context(|| format!("read {}", path.display()))?;
        let mode = fs::metadata(path)?.permissions().mode() & 0o777;
        ensure!(mode == 0o600, "{} has mode {mode:o}", path.display());
        Ok(bytes)
    };
    for (name, kind) in PROFILES {
        let bytes = private(&out.join(name))?;
        // As `go tool pprof` takes it.
        let mut raw = Vec::new();
        GzDecoder::new(bytes.as_slice()).read_to_end(&mut raw).with_context(|| format!("inflate {name}"))?;
        ensure!(names_etcd(&decoded(&bytes, kind)?), "{name} names no function of etcd");
    }
    ensure!(is_whole_page(&private(&out.join("flame.html"))?), "not a page");
    ensure!(fs::metadata(out)?.permissions().mode() & 0o077 == 0, "the folder is open to others");
    Ok(())
}

fn idle_and_loaded(version: Version) -> Result<()> {
    let options = Options { pprof: true, ..Options::default() };
    let bench = Bench::new(&format!("profile-{version}"), version, options)?;
    an_idle_member_is_not_blamed(&bench)?;
    a_loaded_member_is_told(&bench, version)
}

/// What is told without a CPU profile: all that metrics, the node and the log know.
fn the_rest_is_told(report: &str) -> Result<()> {
    let line = |begin: &str| {
        let found = report.lines().find(|line| line.starts_with(begin));
        found.filter(|line| has_figure(line)).with_context(|| format!("no figure in {begin:?}: {report}"))
    };
    let cpu = line("CPU ")?;
    ensure!(cpu.contains("RSS ") && cpu.contains("MiB") && cpu.contains("GC cycles "), "{cpu}");
    let disk = line("WAL fsync p99 ")?;
    ensure!(disk.contains("s (n ") && disk.contains("backend commit p99 "), "{disk}");
    ensure!(line("slow lines: ")?.contains("(longest "), "{report}");
    line("goroutines: ")?;
    line("node: ")?;
    Ok(())
}

fn without_an_endpoint() -> Result<()> {
    let bench = Bench::new("profile-none", Version::V3_5, Options::default())?;
    bench.fill()?;
    let member = bench.member()?;
    let over = AtomicBool::new(false);
    let told = thread::scope(|scope| {
        // Something to sync and to commit.
        scope.spawn(|| {
            while !over.load(Ordering::Relaxed) {
                bench.cluster.put("/written", "again").ok();
            }
        });
        // On a busy host none of these requests may come to its end within two seconds.
        let told = bench.loaded(12, || {
            wait_until("a slow line in the window", SOON, || {
                let told = bench.profile(&[])?;
                Ok((!told.stdout.contains("slow lines: none")).then_some(told))
            })
        });
        over.store(true, Ordering::Relaxed);
        told
    })?;
    ensure!(code(&told) == Some(0), "{}", told.stderr);
    let answer = told.stdout.lines().next().context("no answer")?;
    ensure!(answer.starts_with("no CPU profile: no pprof endpoint"), "{answer}");
    ensure!(answer.contains("--enable-pprof"), "{answer}");
    the_rest_is_told(&told.stdout)?;
    ensure!(!told.stdout.contains("files: "), "{}", told.stdout);
    let left: Vec<_> = dated_folders(bench.folder.path(), member.name())?;
    ensure!(left.is_empty(), "an empty folder is left: {left:?}");
    Ok(())
}

/// Folders named after a member and the time.
fn dated_folders(dir: &Path, member: &str) -> Result<Vec<String>> {
    let begin = format!("profile-{member}-20");
    let names = fs::read_dir(dir)?.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    Ok(names.filter(|name| name.starts_with(&begin)).collect())
}

fn beside_another_profile() -> Result<()> {
    let options = Options { pprof: true, ..Options::default() };
    let bench = Bench::new("profile-another", Version::V3_6, options)?;
    let member = bench.member()?;
    let address = member.client_address();
    let told = thread::scope(|scope| {
        let other = scope.spawn(|| http::get(address, "/debug/pprof/profile?seconds=20", SOON));
        // A second one would show it too, and might be the first.
        wait_until("the other profile", SOON, || {
            let stacks = http::get(address, "/debug/pprof/goroutine?debug=1", SOON)?.body;
            Ok(stacks.contains("runtime/pprof.profileWriter").then_some(()))
        })?;
        let told = bench.profile(&[]);
        // Go ends a profile whose reader is gone; the member's end is quicker.
        member.kill()?;
        drop(other.join());
        told
    })?;
    ensure!(code(&told) == Some(0), "{}", told.stderr);
    let answer = told.stdout.lines().next().context("no answer")?;
    ensure!(answer.starts_with("no CPU profile: another cpu profile is running; "), "{answer}");
    for wanted in
        ["RSS ", "GC cycles ", "WAL fsync p99 ", "backend commit p99 ", "slow lines: ", "goroutines: "]
    {
        ensure!(told.stdout.contains(wanted), "no {wanted:?} in {}", told.stdout);
    }
    // Without `--out` the files lie in a dated folder where the command was given; what there is is written.
    let [folder] =
        dated_folders(bench.folder.path(), member.name())?.try_into().map_err(|all| anyhow!("{all:?}"))?;
    let folder = bench.folder.path().join(folder);
    for name in ["heap.pb.gz", "goroutine.pb.gz"] {
        ensure!(told.stdout.contains(name) && folder.join(name).is_file(), "no {name}: {}", told.stdout);
    }
    ensure!(!folder.join("cpu.pb.gz").exists());
    Ok(())
}

fn nobody_to_profile() -> Result<()> {
    let folder = Folder::new("profile-nobody")?;
    let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port();
    let silent = format!("etcd: {{ members: [ {{ name: m1, client: \"http://127.0.0.1:{port}\" }} ] }}\n");
    let cases = [
        ("off.yaml", "etcd: { discovery: false }\n".to_owned(), "etcd.discovery"),
        ("silent.yaml", silent, "m1 does not answer"),
    ];
    for (name, text, wanted) in cases {
        let config = folder.write(name, &text)?;
        let config = config.to_str().context("path")?;
        let told = Agent::run(folder.path(), &["--profile", "--for", "1s", "--config", config], &[], SOON)?;
        ensure!(code(&told) == Some(69), "{name}: {told:?}");
        ensure!(told.stderr.contains(wanted) && told.stdout.is_empty(), "{name}: {told:?}");
        ensure!(dated_folders(folder.path(), "m1")?.is_empty(), "a folder for nothing");
    }
    // A node without any etcd, where namespaces can be had; elsewhere the cases above are all that can be shown.
    if let Some(told) = Agent::run_alone(folder.path(), &["--profile"], SOON)? {
        ensure!(code(&told) == Some(69), "{told:?}");
        for place in
            ["/proc", "/etc/kubernetes/pki/etcd", "127.0.0.1:2379", "ETCDCTL_ENDPOINTS", "no etcd member"]
        {
            ensure!(told.stderr.contains(place), "{place} is not told: {}", told.stderr);
        }
    }
    Ok(())
}

/// The command behind `run: `, and nothing behind it.
fn cure(told: &Finished) -> Result<&str> {
    ensure!(code(told) == Some(77), "{told:?}");
    let last = told.stderr.lines().last().context("nothing said")?;
    last.strip_prefix("run: ").with_context(|| format!("no command: {}", told.stderr))
}

fn not_permitted() -> Result<()> {
    let options = Options { pprof: true, mutual_tls: true, ..Options::default() };
    let cluster = Cluster::start(Version::V3_5, 1, &options)?;
    let folder = Folder::new("profile-barred")?;
    let (member, certs) = (cluster.member(1)?, cluster.certs().context("no certificates")?);
    let (ca, cert, key) = (certs.cacert.display(), certs.cert.display(), certs.key.display());
    let (client, log) = (member.client_url(), member.log_path());
    let log = log.display();
    let text = format!(
        "etcd: {{ members: [ {{ name: m1, client: \"{client}\", pprof: \"{client}\", ca: \"{ca}\", cert: \"{cert}\", key: \"{key}\", log: \"{log}\" }} ] }}\n"
    );
    let config = folder.write("agent.yaml", &text)?;
    let config = config.to_str().context("path")?;
    let asked = ["--profile", "--for", "1s", "--out", "-", "--config", config];

    // Another user may read the certificate, and not its key.
    fs::set_permissions(&certs.key, fs::Permissions::from_mode(0o000))?;
    let told = Agent::run_as_stranger(folder.path(), &asked, &[], SOON)?;
    let wanted = format!("{} --name m1", asked.join(" "));
    let command = cure(&told)?;
    ensure!(command.starts_with("sudo /") && command.ends_with(&wanted), "{command}");
    ensure!(told.stderr.contains("client.key") && told.bytes.is_empty(), "{}", told.stderr);
    fs::set_permissions(&certs.key, fs::Permissions::from_mode(0o600))?;

    // A folder that cannot be made is told before the capture, with the way around it.
    let sealed = folder.path().join("agent.yaml/out");
    let sealed = sealed.to_str().context("path")?;
    let asked_for_a_folder = ["--profile", "--config", config, "--out", sealed];
    let told = Agent::run(folder.path(), &asked_for_a_folder, &[], SOON)?;
    let around = format!("--profile --config {config} --out - > profile.tar");
    ensure!(!told.status.success() && told.stderr.trim_end().ends_with(&around), "{told:?}");

    // What sudo would do.
    let done = Agent::run(folder.path(), &asked, &[], SOON)?;
    ensure!(code(&done) == Some(0), "{}", done.stderr);
    is_the_whole_tar(&done)?;

    // A log that is another user's takes its lines away and nothing else.
    fs::set_permissions(&certs.key, fs::Permissions::from_mode(0o644))?;
    fs::set_permissions(member.log_path(), fs::Permissions::from_mode(0o000))?;
    let done = Agent::run_as_stranger(folder.path(), &asked, &[], SOON)?;
    ensure!(code(&done) == Some(0), "{}", done.stderr);
    let unread = format!("slow lines: the member's log {log} is not readable");
    ensure!(done.stderr.contains(&unread), "{}", done.stderr);

    // Found on the node, by a user with no certificate at all: root would have none either.
    let address = member.client_address().to_string();
    let asked = ["profile", "--for", "1s", "--out", "-", "--name", &address];
    let told = Agent::run_as_stranger(folder.path(), &asked, &[], SOON)?;
    let command = cure(&told)?;
    let variables = "ETCDCTL_CACERT=CA.crt ETCDCTL_CERT=CLIENT.crt ETCDCTL_KEY=CLIENT.key ";
    ensure!(command.starts_with(variables) && command.ends_with(&asked.join(" ")), "{command}");

    // With it the command does what it says.
    let path = |path: &Path| path.to_str().map(str::to_owned).context("path");
    let (ca, cert, key) = (path(&certs.cacert)?, path(&certs.cert)?, path(&certs.key)?);
    let variables = [("ETCDCTL_CACERT", ca.as_str()), ("ETCDCTL_CERT", &cert), ("ETCDCTL_KEY", &key)];
    let done = Agent::run(folder.path(), &asked, &variables, SOON)?;
    ensure!(code(&done) == Some(0), "{}", done.stderr);
    is_the_whole_tar(&done)?;

    // And where the variables name what another user may not read, sudo is told to keep them.
    fs::set_permissions(&certs.key, fs::Permissions::from_mode(0o000))?;
    let told = Agent::run_as_stranger(folder.path(), &asked, &variables, SOON)?;
    let command = cure(&told)?;
    ensure!(
        command.starts_with("sudo --preserve-env=ETCDCTL_CACERT,ETCDCTL_CERT,ETCDCTL_KEY /"),
        "{command}"
    );
    if told.stderr.contains("-----BEGIN") {
        bail!("a key is printed");
    }
    Ok(())
}

#[test]
fn a_member_of_3_4_is_answered_for_idle_and_loaded() {
    idle_and_loaded(Version::V3_4).unwrap();
}

#[test]
fn a_member_of_3_5_is_answered_for_idle_and_loaded() {
    idle_and_loaded(Version::V3_5).unwrap();
}

#[test]
fn a_member_of_3_7_is_answered_for_idle_and_loaded() {
    idle_and_loaded(Version::V3_7).unwrap();
}

#[test]
fn without_a_pprof_endpoint_all_else_is_told() {
    without_an_endpoint().unwrap();
}

#[test]
fn beside_another_cpu_profile_all_else_is_told() {
    beside_another_profile().unwrap();
}

#[test]
fn where_nobody_is_it_says_where_it_looked() {
    nobody_to_profile().unwrap();
}

#[test]
fn who_is_not_permitted_gets_the_command_that_is() {
    not_permitted().unwrap();
}
