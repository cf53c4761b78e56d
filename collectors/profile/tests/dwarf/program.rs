//! Builds a program, samples it, and holds each stack against the calls that it makes.

use std::collections::{BTreeMap, HashMap};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::{env, fs};

use profile::binaries::Binaries;
use profile::dwarf::{Counts, Walk, Walker, Work};
use profile::perf::attr::{Hz, STACK_BYTES_DEEP, StackBytes};
use profile::perf::session::{End, Plan, Seen, Session};
use profile::perf::target::Target;
use profile::symbols::elf::{Elf, Mapped};
use profile::symbols::file::{self, Windows};

use crate::sources::Source;

/// Where everything is built, before the number of the process that built it.
const FOLDER: &str = "dwarf-stories-";

/// A place for a program of a story. A test has no last moment at which to clean up after itself, so the next one does.
pub(crate) fn folder() -> &'static Path {
    static MADE: OnceLock<PathBuf> = OnceLock::new();
    MADE.get_or_init(|| {
        for entry in fs::read_dir(env::temp_dir()).into_iter().flatten().flatten() {
            let name = entry.file_name();
            let pid: Option<u32> = name.to_str().and_then(|name| name.strip_prefix(FOLDER)?.parse().ok());
            if pid.is_some_and(|pid| !Path::new(&format!("/proc/{pid}")).exists()) {
                drop(fs::remove_dir_all(entry.path()));
            }
        }
        let folder = env::temp_dir().join(format!("{FOLDER}{}", std::process::id()));
        fs::create_dir_all(&folder).unwrap();
        folder.canonicalize().unwrap()
    })
}

/// Runs a compiler.
pub(crate) fn compile(compiler: &str, text: &str, (source, output): (&str, &str), flags: &[&str]) -> PathBuf {
    let (source, output) = (folder().join(source), folder().join(output));
    fs::write(&source, text).unwrap();
    let built = Command::new(compiler).args(flags).arg("-o").arg(&output).arg(&source).output();
    let built = built.unwrap_or_else(|error| panic!("install a compiler, {compiler}: {error}"));
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    output
}

/// A child that does not outlive its test.
#[derive(Debug)]
pub(crate) struct Program(Child);

impl Program {
    pub(crate) fn run(path: &Path) -> Program {
        let quiet =
            |stream: &mut Command| stream.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Program(quiet(&mut Command::new(path)))
    }

    pub(crate) fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        drop(self.0.kill());
        drop(self.0.wait());
    }
}

/// Where one frame is: its module and the offset of the instruction that is meant.
pub(crate) type Frame = (PathBuf, u64);

/// One sample, walked both ways.
#[derive(Clone, Debug)]
pub(crate) struct Taken {
    pub(crate) walk: Walk,
    pub(crate) is_truncated: bool,
    pub(crate) by_tables: Vec<Frame>,
    pub(crate) by_kernel: Vec<Frame>,
}

/// What came of a session.
#[derive(Debug)]
pub(crate) struct Run {
    pub(crate) taken: Vec<Taken>,
    pub(crate) counts: Counts,
    pub(crate) work: Work,
}

fn frames(seen: &Seen<'_>, addresses: impl Iterator<Item = u64>) -> Vec<Frame> {
    let frame = |(at, address): (usize, u64)| {
        // Where a call returns to may be another function already.
        let address = if at == 0 { address } else { address.wrapping_sub(1) };
        let place = seen.process.and_then(|process| process.mappings.locate(address));
        place.map_or((PathBuf::new(), address), |place| (place.module.path.clone(), place.offset))
    };
    addresses.enumerate().map(frame).collect()
}

/// What a regular user may lock for rings is enough for one session with so much of the stack.
fn alone() -> Option<MutexGuard<'static, ()>> {
    static RINGS: Mutex<()> = Mutex::new(());
    let is_root = fs::metadata("/proc/self").unwrap().uid() == 0;
    (!is_root).then(|| RINGS.lock().unwrap_or_else(PoisonError::into_inner))
}

/// Samples a program until there are so many, with so much of the stack.
pub(crate) fn sample(pid: u32, stack: Option<StackBytes>, samples: usize) -> Run {
    let _alone = alone();
    let taken = Arc::new(Mutex::new((Vec::new(), Counts::default(), Work::default())));
    let into = Arc::clone(&taken);
    let mut walker = Walker::new(Binaries::default());
    let plan = Plan::new(Target::Pids(vec![pid]), Hz::new(999).unwrap());
    let plan = match stack {
        Some(bytes) => plan.with_stack(bytes),
        None => plan,
    };
    let sink = move |seen: &Seen<'_>| {
        let Some(process) = seen.process.filter(|process| process.pid == pid) else { return };
        if seen.sample.user.is_empty() {
            return;
        }
        let walked = walker.walk(pid, &process.mappings, &seen.sample);
        let (walk, is_truncated) = (walked.walk, walked.is_truncated);
        let by_tables = frames(seen, walked.addresses.iter().copied());
        let by_kernel = frames(seen, seen.sample.user.iter());
        let mut into = into.lock().unwrap();
        into.0.push(Taken { walk, is_truncated, by_tables, by_kernel });
        (into.1, into.2) = (walker.counts(), walker.work());
    };
    let session =
        Session::start(&plan, sink).unwrap_or_else(|refusal| panic!("{refusal}: {}", refusal.cure()));
    for _ in 0..6000 {
        if session.is_over() || taken.lock().unwrap().0.len() >= samples {
            break;
        }
        std::thread::sleep(std::time::Duration::from_millis(10));
    }
    let outcome = session.stop();
    assert_eq!((outcome.end, outcome.statistics.malformed), (End::Stopped, 0));
    println!("{} samples lost", outcome.statistics.lost);
    let (taken, counts, work) = taken.lock().unwrap().clone();
    assert!(taken.len() >= samples, "{} samples of {samples}", taken.len());
    Run { taken, counts, work }
}

/// As [`sample`] with the stack that is for programs without frame pointers.
pub(crate) fn sample_deep(pid: u32) -> Run {
    sample(pid, Some(STACK_BYTES_DEEP), 2500)
}

/// Functions of files by offset, as `nm` knows them.
#[derive(Debug, Default)]
pub(crate) struct Names(HashMap<PathBuf, Option<File>>);

#[derive(Debug)]
struct File {
    elf: Elf,
    functions: BTreeMap<u64, (u64, String)>,
}

impl Names {
    pub(crate) fn name(&mut self, frame: &Frame) -> Option<String> {
        let file = self.0.entry(frame.0.clone()).or_insert_with(|| File::read(&frame.0)).as_ref()?;
        let address = file.elf.code_address(Mapped { start: 0, offset: frame.1 }, 0)?;
        let (start, (size, name)) = file.functions.range(..=address).next_back()?;
        (address < start + size).then(|| name.clone())
    }
}

impl File {
    fn read(path: &Path) -> Option<File> {
        let elf = Elf::read(&mut Windows::new(file::open(path).ok()?).ok()?).ok()?;
        let output = Command::new("nm").args(["-S", "--defined-only"]).arg(path).output();
        let output = output.expect("install binutils: nm");
        let mut functions = BTreeMap::new();
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            let fields: Vec<&str> = line.split(' ').collect();
            let [start, size, kind, name] = fields[..] else { continue };
            if matches!(kind, "t" | "T" | "w" | "W") {
                let number = |text| u64::from_str_radix(text, 16).unwrap();
                // What a compiler has split off is the function's all the same.
                let name = name.split('.').next().unwrap().to_owned();
                functions.insert(number(start), (number(size), name));
            }
        }
        Some(File { elf, functions })
    }
}

/// How many samples are right, of how many.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    pub(crate) right: usize,
    pub(crate) of: usize,
}

impl Score {
    pub(crate) fn share(self) -> f64 {
        f64::from(u32::try_from(self.right).unwrap()) / f64::from(u32::try_from(self.of.max(1)).unwrap())
    }
}

/// Whether a stack shows calls that the program makes, all of them: from where it was to its first function.
pub(crate) fn is_right(source: &Source, names: &mut Names, stack: &[Frame], is_whole: bool) -> bool {
    let is_known = |name: &String| source.chains.iter().any(|chain| chain.contains(&name.as_str()));
    let named: Vec<Option<String>> = stack.iter().map(|frame| names.name(frame).filter(is_known)).collect();
    let leaf = named.first().cloned().flatten();
    let mut ours: Vec<String> = named.into_iter().flatten().collect();
    // What ends in a library before it comes to us has nothing wrong in it.
    let Some(first) = ours.first() else { return !is_whole };
    // A library's function at the leaf has been called by one that calls libraries.
    if leaf.is_none() && !source.callers.contains(&first.as_str()) {
        return false;
    }
    let depth = ours.iter().filter(|name| *name == "recurse").count();
    let is_at_its_depth = depth == 0 || depth == 41 || ours[0] == "recurse" || !is_whole;
    ours.dedup();
    let is_end =
        |chain: &&&[&str]| ours.len() <= chain.len() && chain[chain.len() - ours.len()..] == ours[..];
    let is_part = |chain: &&&[&str]| chain.windows(ours.len()).any(|part| part == ours);
    let is_made = if is_whole {
        source.chains.iter().any(|chain| is_end(&chain))
    } else {
        source.chains.iter().any(|chain| is_part(&chain))
    };
    is_at_its_depth && is_made
}

/// Both walks of all samples against the program, and how many of ours reach the end.
pub(crate) fn score(source: &Source, run: &Run) -> (Score, Score, Score) {
    let mut names = Names::default();
    let of = run.taken.len();
    let (mut tables, mut kernel, mut ends) =
        (Score { right: 0, of }, Score { right: 0, of }, Score { right: 0, of });
    let mut wrong: BTreeMap<String, usize> = BTreeMap::new();
    for taken in &run.taken {
        let is_whole = taken.walk != Walk::CutShort;
        let is_right_by_tables = is_right(source, &mut names, &taken.by_tables, true);
        tables.right += usize::from(is_right_by_tables);
        kernel.right += usize::from(is_right(source, &mut names, &taken.by_kernel, true));
        ends.right += usize::from(is_whole);
        if !is_right_by_tables || !is_whole {
            let stack: Vec<String> =
                taken.by_tables.iter().take(12).map(|frame| told(&mut names, frame)).collect();
            *wrong.entry(format!("{:?} {}", taken.walk, stack.join(" < "))).or_default() += 1;
        }
    }
    let mut wrong: Vec<_> = wrong.into_iter().collect();
    wrong.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    for (stack, count) in wrong.iter().take(8) {
        println!("  {count} x {stack}");
    }
    (tables, kernel, ends)
}

pub(crate) fn told(names: &mut Names, frame: &Frame) -> String {
    let file = frame.0.file_name().unwrap_or_default().to_string_lossy().into_owned();
    names.name(frame).unwrap_or_else(|| format!("{file}+{:x}", frame.1))
}
