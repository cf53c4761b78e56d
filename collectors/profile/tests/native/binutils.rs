//! What `nm`, `addr2line` and `readelf` say.

use std::{
    collections::BTreeMap,
    io::Write,
    path::Path,
    process::{Command, Stdio},
    thread,
};

use profile::symbols::gopclntab::Frame;

/// A function at an address, as both sides can say it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Told {
    pub function: String,
    /// `file:line`, the file without its folders; empty where it is not known.
    pub place: String,
}

impl Told {
    pub(crate) fn of(frame: &Frame) -> Told {
        let place = frame.source.as_ref().map(|source| place(&format!("{}:{}", source.file, source.line)));
        Told { function: plain(&frame.function), place: place.unwrap_or_default() }
    }
}

/// What addr2line is known to say differently: the file of code that was optimized as a whole is `<artificial>`, and where
/// debug information has no mangled names the symbol of the whole function is said to be the innermost call. And what our
/// demangler is known to do: of a constructor that is a template it loses the first parameter.
pub(crate) fn forgive(ours: &mut [Told], theirs: &[Told]) {
    for (ours, theirs) in ours.iter_mut().zip(theirs) {
        if is_constructor(&ours.function) && bare(&ours.function) == bare(&theirs.function) {
            ours.function.clone_from(&theirs.function);
        }
        if let Some(line) = theirs.place.strip_prefix("<artificial>:")
            && ours.place.ends_with(&format!(":{line}"))
        {
            ours.place.clone_from(&theirs.place);
        }
    }
    if let [first, .., last] = ours
        && let [their_first, .., their_last] = theirs
        && last.function == their_first.function
    {
        first.function.clone_from(&their_first.function);
        last.function.clone_from(&their_last.function);
    }
}

/// Without what is between angles and brackets.
fn bare(name: &str) -> String {
    let mut depth = 0_i32;
    let outside = name.chars().filter(|letter| {
        depth += i32::from("<(".contains(*letter)) - i32::from(">)".contains(*letter));
        depth == 0 && !">)".contains(*letter)
    });
    outside.collect()
}

fn is_constructor(name: &str) -> bool {
    let bare = bare(name);
    let mut parts = bare.rsplit("::");
    parts.next() == parts.next()
}

/// Demanglers differ in blanks, and in how they spell the same thing; ours leaves the references out of packs of parameters.
fn plain(name: &str) -> String {
    name.replace(' ', "").replace("&&", "")
}

/// Without folders, which addr2line leaves with their `..` in them, and without discriminators.
fn place(text: &str) -> String {
    let text = text.split(" (discriminator").next().unwrap().trim();
    let name = text.rsplit('/').next().unwrap();
    let is_known = !name.ends_with(":?") && !name.ends_with(":0");
    if is_known { name.to_owned() } else { String::new() }
}

fn text(program: &str, arguments: &[&str], file: &Path) -> String {
    let output = Command::new(program).args(arguments).arg(file).output();
    let output = output.unwrap_or_else(|error| panic!("{program} is missing (install binutils): {error}"));
    String::from_utf8(output.stdout).unwrap()
}

/// Functions with a size: first address, size, all their names, demangled.
pub(crate) fn functions(file: &Path) -> BTreeMap<u64, (u64, Vec<String>)> {
    let mut functions: BTreeMap<u64, (u64, Vec<String>)> = BTreeMap::new();
    for line in text("nm", &["-S", "-C", "--defined-only"], file).lines() {
        let words: Vec<&str> = line.splitn(4, ' ').collect();
        let [address, size, kind, name] = words[..] else { continue };
        if "tTwWi".contains(kind) {
            let address = u64::from_str_radix(address, 16).unwrap();
            let size = u64::from_str_radix(size, 16).unwrap();
            let known = functions.entry(address).or_default();
            known.0 = known.0.max(size);
            known.1.push(without_hash(name));
        }
    }
    functions
}

/// Rust's older names end in a hash, which we leave out.
fn without_hash(name: &str) -> String {
    match name.rsplit_once("::h") {
        Some((name, hash)) if hash.len() == 16 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()) => {
            name.to_owned()
        }
        _ => name.to_owned(),
    }
}

/// All symbols in code, by name.
pub(crate) fn marks(file: &Path) -> BTreeMap<String, u64> {
    let mut marks = BTreeMap::new();
    for line in text("nm", &["--defined-only"], file).lines() {
        let words: Vec<&str> = line.split(' ').collect();
        if let [address, "t" | "T", name] = words[..] {
            marks.insert(name.to_owned(), u64::from_str_radix(address, 16).unwrap());
        }
    }
    marks
}

pub(crate) fn build_id(file: &Path) -> String {
    let notes = text("readelf", &["-n"], file);
    notes.lines().find_map(|line| line.trim().strip_prefix("Build ID: ")).expect("a build id").to_owned()
}

/// Functions and lines at addresses, innermost first; none where nothing is known.
pub(crate) fn lines(file: &Path, addresses: &[u64]) -> Vec<(u64, Vec<Told>)> {
    let mut child = Command::new("addr2line")
        .args(["-a", "-f", "-i", "-C", "-e"])
        .arg(file)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("addr2line is missing (install binutils)");
    let question: String = addresses.iter().map(|address| format!("{address:#x}\n")).collect();
    let mut stdin = child.stdin.take().unwrap();
    let writer = thread::spawn(move || stdin.write_all(question.as_bytes()));
    let output = child.wait_with_output().unwrap();
    writer.join().unwrap().unwrap();
    let mut answers: Vec<(u64, Vec<Told>)> = Vec::new();
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if let Some(address) = line.strip_prefix("0x") {
            answers.push((u64::from_str_radix(address, 16).unwrap(), Vec::new()));
            continue;
        }
        let place = place(lines.next().expect("a place behind each function"));
        if line != "??" {
            let function = plain(&without_hash(line));
            answers.last_mut().unwrap().1.push(Told { function, place });
        }
    }
    answers
}
