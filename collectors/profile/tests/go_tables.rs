//! What is read from Go's tables, held against what Go itself says: the runtime about a program built here, in each way
//! programs are linked; `debug/gosym` about every etcd of the set-up.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy sees only #[test] functions as tests, not what they share; what was counted is told"
)]

#[path = "shared/toolchain.rs"]
mod toolchain;

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    fmt::Write as _,
    fs::{self, File},
    io::{BufRead, BufReader, Write},
    path::{Path, PathBuf},
    process::{Command, Stdio},
    thread,
};

use profile::symbols::{
    elf::{Elf, ElfError},
    file::{self, ReadAt, ReadError, Windows},
    gopclntab::{self, Frame, GoError, GoSymbols, Pc, Role},
    identity,
};

use toolchain::{go, tools};

/// A sampled instruction every so many bytes of code, beside each function's first.
const EVERY: u64 = 61;
/// Disagreements that are shown.
const SHOWN: usize = 10;

fn go_minor() -> u32 {
    let output = Command::new(go())
        .args(["env", "GOVERSION"])
        .env("GOTOOLCHAIN", "local")
        .env("GOENV", "off")
        .env_remove("GOFLAGS")
        .output();
    let output = output.expect("no Go: `make tools` brings one where there is none");
    let version = String::from_utf8_lossy(&output.stdout).into_owned();
    let minor = version.trim().split('.').nth(1).unwrap_or_default();
    minor.parse().unwrap_or_else(|_| panic!("no minor version: {version:?}"))
}

/// Builds the oracle, stripped.
fn build(name: &str, arguments: &[&str], cgo: bool) -> PathBuf {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let program = folder.join(format!("oracle-{name}-{}", go_minor()));
    let unchecked = if go_minor() >= 23 { " -checklinkname=0" } else { "" };
    let status = Command::new(go())
        .args(["build", "-trimpath", &format!("-ldflags=-s -w{unchecked}")])
        .args(arguments)
        .arg("-o")
        .arg(&program)
        .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/oracle"))
        .env("GOTOOLCHAIN", "local")
        .env("GOENV", "off")
        .env_remove("GOFLAGS")
        .env("GOWORK", "off")
        .env("CGO_ENABLED", if cgo { "1" } else { "0" })
        .status()
        .expect("no Go: `make tools` brings one where there is none");
    assert!(status.success(), "the oracle does not build as {name}");
    program
}

fn etcd(version: &str) -> PathBuf {
    let named = env::var_os("ETCD_3_4").filter(|_| version == "3.4").map(PathBuf::from);
    let etcd = named.unwrap_or_else(|| tools().join("etcd").join(version).join("etcd"));
    assert!(etcd.exists(), "{} is missing: `make tools` brings it", etcd.display());
    etcd
}

/// Asks a program that takes addresses and answers with a line for each.
fn ask(command: &mut Command, addresses: &[u64], mut hear: impl FnMut(u64, &str)) {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let bytes: Vec<u8> = addresses.iter().flat_map(|address| address.to_le_bytes()).collect();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(&bytes));
    let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
    for address in addresses {
        hear(*address, &lines.next().expect("an answer to each question").unwrap());
    }
    writer.join().unwrap().unwrap();
    assert!(child.wait().unwrap().success());
}

/// Each function's first instruction and every so many bytes; but not the last byte of a function, of which Go's
/// runtime cannot be asked: it wants the address behind.
fn addresses(symbols: &GoSymbols<File>) -> (Vec<u64>, usize) {
    let entries: BTreeSet<u64> = symbols.entries().collect();
    let code = symbols.code();
    let sampled = (code.start..code.end).step_by(usize::try_from(EVERY).unwrap());
    let all: BTreeSet<u64> = entries.iter().copied().chain(sampled).collect();
    let asked = all.into_iter().filter(|pc| !entries.contains(&(pc + 1)) && pc + 1 < code.end);
    (asked.collect(), entries.len())
}

/// The words of Go's runtime for the same: wrappers that are inlined, or inline something, are left out.
fn told(frames: &[Frame], delta: Option<u32>, minor: u32) -> String {
    let mut line = delta.map_or("-1".to_owned(), |delta| delta.to_string());
    let mut callee = "";
    for (at, frame) in frames.iter().enumerate() {
        let is_kept_always = minor < 21 && at + 1 == frames.len();
        let shows_wrapper = ["runtime.gopanic", "runtime.sigpanic", "runtime.panicwrap"].contains(&callee);
        callee = &frame.function;
        if frame.wrapper && frames.len() > 1 && !shows_wrapper && !is_kept_always {
            continue;
        }
        let kind = if frame.inlined { "inlined" } else { "own" };
        let (file, number) = frame.source.as_ref().map_or(("?", 0), |source| (&source.file, source.line));
        let start = frame.start_line.unwrap_or(0);
        write!(line, "\t{kind}\t{}\t{file}\t{number}\t{start}", frame.function).unwrap();
    }
    line
}

#[derive(Default, Debug)]
struct Tally {
    functions: usize,
    asked: usize,
    frames: usize,
    inlined: usize,
    deltas: usize,
    /// Addresses behind a function's last instruction.
    uncovered: usize,
    /// Inlined calls whose callers Go forgot.
    circles: usize,
    wrong: Vec<String>,
}

impl Tally {
    fn count(&mut self, frames: &[Frame], delta: Option<u32>) {
        self.frames += frames.len();
        self.inlined += frames.iter().filter(|frame| frame.inlined).count();
        self.deltas += usize::from(delta.is_some());
    }

    fn hear(&mut self, pc: u64, ours: &str, theirs: &str) {
        self.asked += 1;
        if ours != theirs {
            self.wrong.push(format!("{pc:#x}\n  ours   {ours}\n  theirs {theirs}"));
        }
    }

    fn report(&self, name: &str) {
        let Tally { functions, asked, frames, inlined, deltas, uncovered, circles, wrong } = self;
        println!(
            "{name}: {functions} functions, {asked} addresses, {frames} frames, {inlined} of them inlined, {deltas} stack \
             pointers, {uncovered} in padding, {circles} circles, {} disagreements",
            wrong.len()
        );
        let shown: Vec<_> = wrong.iter().take(SHOWN).cloned().collect();
        assert!(wrong.is_empty(), "{name}: {} disagreements\n{}", wrong.len(), shown.join("\n"));
        assert!(*asked > 10_000 && functions < asked, "{name}: too few addresses to mean anything: {self:?}");
        assert!(inlined * 10 > *asked, "{name}: inlined calls were hardly looked at: {self:?}");
        assert!(
            uncovered * 10 < *asked && circles * 1_000 < *asked,
            "{name}: too few were held against it: {self:?}"
        );
    }

    /// Is this an address that Go's runtime can be asked about?
    ///
    /// Before Go 1.22 it ends when it is asked about padding behind a function, to which nothing leads; and where an
    /// inlined call's caller is forgotten, it goes in circles.
    fn may_ask(&mut self, frames: &[Frame]) -> bool {
        let is_covered = frames.first().is_some_and(|frame| frame.source.is_some());
        let is_whole = frames.last().is_some_and(|frame| frame.source.is_some());
        self.uncovered += usize::from(!is_covered);
        self.circles += usize::from(is_covered && !is_whole);
        is_covered && is_whole
    }
}

/// Held against what the program says of itself.
fn check_program(name: &str, arguments: &[&str], cgo: bool) {
    let (program, minor) = (build(name, arguments, cgo), go_minor());
    let mut symbols = gopclntab::open(&program).unwrap();
    let (mut asked, functions) = addresses(&symbols);
    let mut tally = Tally { functions, ..Tally::default() };
    asked.retain(|pc| tally.may_ask(&symbols.frames(Pc::Sampled(*pc)).unwrap()));
    let first = symbols.function(Pc::Sampled(symbols.code().start)).unwrap().unwrap();
    ask(&mut Command::new(&program), &asked, |pc, theirs| {
        let frames = symbols.frames(Pc::Sampled(pc)).unwrap();
        assert_eq!(frames, symbols.frames(Pc::Return(pc + 1)).unwrap());
        let switches =
            symbols.function(Pc::Sampled(pc)).unwrap().is_some_and(|function| function.switches_stack);
        let delta = symbols.frame_layout(Pc::Sampled(pc)).unwrap().and_then(|layout| layout.sp_delta);
        tally.count(&frames, delta);
        let mut ours = told(&frames, delta, minor);
        if pc < first.end {
            // The runtime takes the first place among the names for no name.
            ours = ours.replace(&first.name, "");
        }
        // We say nothing of functions that switch stacks, and of the one that pops its own return address.
        let is_known = !switches && !theirs.starts_with('-');
        let theirs = if is_known { theirs.to_owned() } else { replace_delta(theirs) };
        tally.hear(pc, &ours, &theirs);
    });
    tally.report(&format!("go1.{minor} {name}"));
}

fn replace_delta(line: &str) -> String {
    line.split_once('\t').map_or_else(|| line.to_owned(), |(_, rest)| format!("-1\t{rest}"))
}

#[test]
fn a_stripped_program_is_named_as_its_runtime_names_it() {
    check_program("plain", &[], false);
}

#[test]
fn a_position_independent_program_is_named_as_its_runtime_names_it() {
    check_program("pie", &["-buildmode=pie"], false);
}

#[test]
fn a_program_with_c_in_it_is_named_as_its_runtime_names_it() {
    check_program("cgo", &[], true);
}

#[test]
fn a_position_independent_program_with_c_in_it_is_named_as_its_runtime_names_it() {
    check_program("cgo-pie", &["-buildmode=pie"], true);
}

#[test]
fn each_etcd_is_named_as_go_reads_it() {
    let oracle = build("reader", &[], false);
    for version in ["3.4", "3.5", "3.6", "3.7"] {
        let etcd = etcd(version);
        let mut symbols = gopclntab::open(&etcd).unwrap();
        assert!(
            symbols.elf().section(".gopclntab").is_some(),
            "{version}: found by a search, not by its name"
        );
        let (asked, functions) = addresses(&symbols);
        let mut tally = Tally { functions, ..Tally::default() };
        ask(Command::new(&oracle).arg(&etcd), &asked, |pc, theirs| {
            let frames = symbols.frames(Pc::Sampled(pc)).unwrap();
            tally.may_ask(&frames);
            let layout = symbols.frame_layout(Pc::Sampled(pc)).unwrap();
            tally.count(&frames, layout.and_then(|layout| layout.sp_delta));
            // It knows no inlined calls: the line is the innermost function's, the name the outermost's.
            let (first, last) = (frames.first().unwrap(), frames.last().unwrap());
            let (file, line) = first.source.as_ref().map_or(("", 0), |source| (&source.file, source.line));
            tally.hear(pc, &format!("-1\town\t{}\t{file}\t{line}\t0", last.function), theirs);
        });
        tally.report(&format!("etcd {version}"));
    }
}

/// A few thousand answers, to hold others against.
fn answers<R: ReadAt>(symbols: &mut GoSymbols<R>) -> Vec<Result<Vec<Frame>, GoError>> {
    let code = symbols.code();
    let step = usize::try_from((code.end - code.start) / 2_000).unwrap();
    (code.start..code.end).step_by(step).map(|pc| symbols.frames(Pc::Sampled(pc))).collect()
}

#[test]
fn without_sections_or_with_others_names_the_answers_are_the_same() {
    for program in [etcd("3.4"), etcd("3.7"), build("hidden", &["-buildmode=pie"], false)] {
        let bytes = fs::read(&program).unwrap();
        let expected = answers(&mut GoSymbols::open(&bytes[..]).unwrap());
        assert!(expected.iter().flatten().flatten().filter(|frame| frame.inlined).count() > 200);
        let mut stripped = bytes.clone();
        // Where sections are, how many, and which has their names.
        stripped[40..48].fill(0);
        stripped[60..64].fill(0);
        assert!(answers(&mut GoSymbols::open(&stripped[..]).unwrap()) == expected, "{}", program.display());
        let mut renamed = bytes;
        for name in [&b".gopclntab\0"[..], b".go.module\0", b".go.buildinfo\0", b".note.go.buildid\0"] {
            let places: Vec<_> =
                renamed.windows(name.len()).enumerate().filter(|(_, here)| *here == name).collect();
            for at in places.into_iter().map(|(at, _)| at).collect::<Vec<_>>() {
                renamed[at + 1..at + name.len() - 1].fill(b'x');
            }
        }
        assert!(answers(&mut GoSymbols::open(&renamed[..]).unwrap()) == expected, "{}", program.display());
    }
}

#[test]
fn a_file_that_shrinks_under_us_gives_fewer_answers_and_no_other_ones() {
    let folder = Path::new(env!("CARGO_TARGET_TMPDIR"));
    let shrinking = folder.join("shrinking");
    let expected = answers(&mut gopclntab::open(&etcd("3.6")).unwrap());
    let length = fs::metadata(etcd("3.6")).unwrap().len();
    let mut lost = 0;
    for part in [1, 3, 5, 7] {
        fs::copy(etcd("3.6"), &shrinking).unwrap();
        let mut symbols = gopclntab::open(&shrinking).unwrap();
        File::options().write(true).open(&shrinking).unwrap().set_len(length / 8 * part).unwrap();
        for (now, before) in answers(&mut symbols).iter().zip(&expected) {
            assert!(now == before || *now == Err(GoError::Read(ReadError::Truncated)), "{now:?} {before:?}");
            lost += usize::from(now != before);
        }
        let again = gopclntab::open(&shrinking);
        assert!(
            again.is_err()
                || answers(&mut again.unwrap())
                    .iter()
                    .zip(&expected)
                    .all(|(now, before)| { now == before || now.is_err() })
        );
    }
    assert!(lost > 1_000, "only {lost} answers were lost");
}

#[test]
fn stacks_end_and_change_where_the_runtime_says() {
    for version in ["3.4", "3.5", "3.6", "3.7"] {
        let mut symbols = gopclntab::open(&etcd(version)).unwrap();
        let entries: Vec<u64> = symbols.entries().collect();
        let mut found = BTreeMap::new();
        let mut assembly = 0;
        for entry in entries {
            let function = symbols.function(Pc::Sampled(entry)).unwrap().unwrap();
            assembly += usize::from(function.is_assembly);
            if function.role != Role::Plain {
                found.insert(function.role, function);
            }
        }
        let mut names: BTreeSet<&str> = found.values().map(|function| &function.name[..]).collect();
        // Without C in the program, nothing calls back from there.
        names.remove("runtime.cgocallback");
        let expected = "asmcgocall asyncPreempt goexit gogo gopanic mcall morestack mstart panicwrap rt0_go \
                        sigpanic systemstack systemstack_switch";
        let expected: BTreeSet<String> = expected.split(' ').map(|name| format!("runtime.{name}")).collect();
        assert!(names.iter().eq(expected.iter()), "etcd {version}: {names:?}");
        for top in [Role::Goexit, Role::Mstart, Role::Rt0Go] {
            assert!(found[&top].is_top, "etcd {version}: {top:?}");
        }
        for switch in [Role::Mcall, Role::Systemstack] {
            assert!(found[&switch].switches_stack, "etcd {version}: {switch:?}");
        }
        let plain = &found[&Role::Gopanic];
        assert!(!plain.is_top && !plain.switches_stack && !plain.is_assembly, "etcd {version}: {plain:?}");
        assert!(assembly > 100, "etcd {version}: {assembly} functions in assembly");
    }
}

#[test]
fn a_file_says_which_it_is() {
    let identity = |version: &str| {
        let mut file = Windows::new(file::open(&etcd(version)).unwrap()).unwrap();
        let elf = Elf::read(&mut file).unwrap();
        let id = identity::build_id(&mut file, &elf).unwrap();
        let go = identity::go_build_id(&mut file, &elf).unwrap().unwrap();
        assert_eq!(go.split('/').count(), 4, "{go}");
        assert_eq!(identity::htlhash(&mut file).unwrap().len(), 32);
        (id.map(|id| id.len()), identity::go_version(&mut file, &elf).unwrap().unwrap())
    };
    let (id, go) = identity("3.4");
    assert_eq!(id, Some(20));
    assert!(go.starts_with("go1.1"), "{go}");
    for version in ["3.5", "3.6", "3.7"] {
        assert!(identity(version).1.starts_with("go1."));
    }
}

#[test]
fn a_program_in_another_language_is_none_of_ours() {
    let ours = env::current_exe().unwrap();
    assert_eq!(gopclntab::open(&ours).unwrap_err(), GoError::NotGo);
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("Cargo.toml");
    assert_eq!(gopclntab::open(&script).unwrap_err(), GoError::Elf(ElfError::NotElf));
}
