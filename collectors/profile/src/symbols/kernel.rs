//! Names of kernel code, from the kernel's own list (`/proc/kallsyms`), from the kernel where it is asked, and from what it
//! says when code comes and goes.
//!
//! Owns one compact copy of the functions in that list. It has no sizes: a function reaches up to the next one, within the
//! kernel's text or the module it belongs to, and no further than a function can be long. Refuses a list whose addresses
//! are hidden, with the cure.

mod around;
mod asked;
mod list;
mod sys;

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::{self, BufReader},
    path::Path,
};

use around::Around;
use list::Line;

/// The kernel's own list.
pub const LIST: &str = "/proc/kallsyms";
/// A distribution's kernel with its modules has 150,000 functions; 16 bytes each, and as much again for the name.
const FUNCTIONS_MAX: usize = 1 << 20;
/// All their names.
const NAMES_BYTES_MAX: usize = 32 << 20;
/// BPF programs and trampolines. A node with a service mesh has some hundred.
const MADE_MAX: usize = 16 << 10;
/// A name that the kernel reports has at most 512 bytes.
const NAME_BYTES_MAX: usize = 512;
/// No function is longer. What is further behind one is not its code.
const FUNCTION_BYTES_MAX: u64 = 1 << 20;
/// What a function is taken to fill where nothing of its own kind follows.
const PAGE_BYTES: u64 = 4 << 10;

/// Why there are no names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KernelError {
    /// The list cannot be read.
    #[error("read /proc/kallsyms: {0}")]
    Io(io::ErrorKind),
    /// All addresses are zero.
    #[error("the kernel hides its addresses: {}", cure(.restrict))]
    Hidden {
        /// `kernel.kptr_restrict`, where it can be read.
        restrict: Option<u8>,
    },
    /// There are no functions in it.
    #[error("/proc/kallsyms lists no functions")]
    Empty,
    /// More functions than the kernel can have.
    #[error("/proc/kallsyms lists more than a million functions")]
    TooMany,
}

fn cure(restrict: &Option<u8>) -> &'static str {
    match *restrict {
        Some(2..) => {
            "kernel.kptr_restrict is 2, which hides them from everybody; set it to 1 and grant CAP_SYSLOG"
        }
        Some(1) => {
            "grant CAP_SYSLOG, or set kernel.kptr_restrict to 0 and kernel.perf_event_paranoid to at most 1"
        }
        _ => "grant CAP_SYSLOG, or set kernel.perf_event_paranoid to at most 1",
    }
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    start: u64,
    size: u32,
    /// Among the names, up to a zero byte.
    name: u32,
}

/// A function that may go away.
#[derive(Clone, Debug)]
struct Made {
    end: u64,
    name: Box<str>,
}

/// The functions of the kernel that runs.
#[derive(Clone, Debug, Default)]
pub struct KernelSymbols {
    entries: Vec<Entry>,
    names: Vec<u8>,
    made: BTreeMap<u64, Made>,
    refused: u64,
}

/// Where the list says that code begins and ends.
#[derive(Debug, Default)]
struct Bounds {
    text: (u64, u64),
    start_up: (u64, u64),
}

/// A function while the list is read.
#[derive(Clone, Copy, Debug)]
struct Raw {
    start: u64,
    name: u32,
    rank: u8,
    module: u16,
}

impl KernelSymbols {
    /// Reads the list of the kernel that runs.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn read() -> Result<KernelSymbols, KernelError> {
        with_the_list(KernelSymbols::parse)
    }

    /// The same, for these addresses alone, in order and each once: without a copy of the whole list. What others are
    /// called is not known then.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn read_around(addresses: &[u64]) -> Result<KernelSymbols, KernelError> {
        with_the_list(|list| KernelSymbols::parse_around(list, addresses))
    }

    /// What the kernel itself says of these addresses, in order and each once; nothing about any other. Names are the list's;
    /// some that are in the list alone are missing. `None` where only the list will do: for more than a few thousand, where
    /// code that was made while the kernel ran is among them, where the kernel may not be asked, or is older than 5.14.
    #[must_use]
    pub fn asked(addresses: &[u64]) -> Option<KernelSymbols> {
        let mut symbols = KernelSymbols::default();
        let mut last = 0;
        asked::each(addresses, |start, name| {
            let known = symbols.names.get(last..).and_then(|rest| rest.strip_suffix(b"\0"));
            if known != Some(name.as_bytes()) {
                last = symbols.names.len();
                symbols.names.extend_from_slice(name.as_bytes());
                symbols.names.push(0);
            }
            let name = u32::try_from(last).unwrap_or(u32::MAX);
            symbols.entries.push(Entry { start, size: 1, name });
        })
        .then_some(symbols)
    }

    /// Reads a list in the form of `/proc/kallsyms`.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn parse(list: impl io::BufRead) -> Result<KernelSymbols, KernelError> {
        let mut reading = Reading::default();
        let mut is_full = false;
        let bounds = read(list, |line| {
            is_full |= !reading.put((line.address, line.rank()), line.name, line.module);
        })?;
        if is_full { Err(KernelError::TooMany) } else { Ok(reading.placed(&bounds)) }
    }

    /// The same, for these addresses alone, in order and each once.
    ///
    /// # Errors
    /// See [`KernelError`].
    pub fn parse_around(list: impl io::BufRead, addresses: &[u64]) -> Result<KernelSymbols, KernelError> {
        let mut around = Around::new(addresses);
        let bounds = read(list, |line| around.take(line))?;
        let mut reading = Reading::default();
        let is_whole =
            around.kept().all(|(start, rank, name, module)| reading.put((start, rank), name, module));
        if is_whole { Ok(reading.placed(&bounds)) } else { Err(KernelError::TooMany) }
    }

    /// Puts functions in order and gives each its end.
    fn place(&mut self, mut raw: Vec<Raw>, bounds: &Bounds, modules: &Modules) {
        raw.sort_by_key(|raw| (raw.start, raw.rank));
        raw.dedup_by_key(|raw| raw.start);
        for (at, here) in raw.iter().enumerate() {
            let next = raw.get(at + 1);
            let end = bounds.end(here, next).min(here.start.saturating_add(FUNCTION_BYTES_MAX));
            if end <= here.start {
                continue;
            }
            if modules.is_made(here.module) {
                let name = self.text(here.name);
                self.insert(here.start, Made { end, name: name.into() });
            } else {
                let size = u32::try_from(end - here.start).unwrap_or(u32::MAX);
                self.entries.push(Entry { start: here.start, size, name: here.name });
            }
        }
        self.entries.shrink_to_fit();
    }

    fn text(&self, name: u32) -> String {
        let rest = usize::try_from(name).ok().and_then(|name| self.names.get(name..)).unwrap_or_default();
        let end = memchr::memchr(0, rest).unwrap_or(0);
        String::from_utf8_lossy(rest.get(..end).unwrap_or_default()).into_owned()
    }

    /// The function at an address: `name`, or `name [module]`.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<String> {
        if let Some((_, made)) =
            self.made.range(..=address).next_back().filter(|(_, made)| address < made.end)
        {
            return Some(made.name.to_string());
        }
        let after = self.entries.partition_point(|entry| entry.start <= address);
        let entry = self.entries.get(after.checked_sub(1)?)?;
        (address - entry.start < u64::from(entry.size)).then(|| self.text(entry.name))
    }

    /// Adds code that the kernel made just now: a BPF program, a trampoline. Code that was there before is gone.
    pub fn add(&mut self, address: u64, bytes: u32, name: &[u8]) {
        let end = address.saturating_add(u64::from(bytes));
        if end > address && !name.is_empty() {
            self.insert(address, Made { end, name: bpf(name) });
        }
    }

    /// Whether other code of this kind is known where that would be.
    #[must_use]
    pub fn is_made_over(&self, address: u64, bytes: u32, name: &[u8]) -> bool {
        let end = address.saturating_add(u64::from(bytes));
        let last = self.made.range(..end).next_back().filter(|(_, made)| made.end > address);
        last.is_some_and(|(start, made)| *start != address || *made.name != *bpf(name))
    }

    /// Removes it.
    pub fn remove(&mut self, address: u64) {
        self.made.remove(&address);
    }

    fn insert(&mut self, start: u64, made: Made) {
        let before = self.made.range(..start).next_back().filter(|(_, other)| other.end > start);
        let mut gone: Vec<u64> = before.map(|(start, _)| *start).into_iter().collect();
        gone.extend(self.made.range(start..made.end).map(|(start, _)| *start));
        for start in gone {
            self.made.remove(&start);
        }
        if self.made.len() < MADE_MAX {
            self.made.insert(start, made);
        } else {
            self.refused += 1;
        }
    }

    /// How many functions are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() + self.made.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Functions that were made and did not fit.
    #[must_use]
    pub fn refused(&self) -> u64 {
        self.refused
    }
}

fn with_the_list(
    parse: impl FnOnce(BufReader<File>) -> Result<KernelSymbols, KernelError>,
) -> Result<KernelSymbols, KernelError> {
    let list = File::open(LIST).map_err(|error| KernelError::Io(error.kind()))?;
    match parse(BufReader::with_capacity(64 << 10, list)) {
        Err(KernelError::Hidden { .. }) => {
            let restrict = fs::read_to_string("/proc/sys/kernel/kptr_restrict").ok();
            Err(KernelError::Hidden { restrict: restrict.and_then(|text| text.trim().parse().ok()) })
        }
        outcome => outcome,
    }
}

/// Whether a list has addresses, by its beginning.
#[must_use]
pub fn is_shown(list: &Path) -> bool {
    File::open(list).is_ok_and(|list| list::is_shown(BufReader::new(list)))
}

/// Takes each function of the list, and says where code begins and ends.
fn read(list: impl io::BufRead, mut take: impl FnMut(&Line<'_>)) -> Result<Bounds, KernelError> {
    let (mut bounds, mut is_hidden, mut is_empty) = (Bounds::default(), true, true);
    let seen = list::each(list, |line| {
        is_hidden &= line.address == 0;
        bounds.take(line);
        if line.is_function() && line.address != 0 {
            is_empty = false;
            take(line);
        }
    });
    let seen = seen.map_err(|error| KernelError::Io(error.kind()))?;
    match (is_empty, is_hidden && seen > 0) {
        (_, true) => Err(KernelError::Hidden { restrict: None }),
        (true, false) => Err(KernelError::Empty),
        (false, false) => Ok(bounds),
    }
}

/// Functions of the list that are kept, while it is read.
#[derive(Debug, Default)]
struct Reading {
    symbols: KernelSymbols,
    raw: Vec<Raw>,
    modules: Modules,
}

impl Reading {
    /// False when there is no room for it.
    fn put(&mut self, (start, rank): (u64, u8), name: &[u8], module: &[u8]) -> bool {
        let name = written(name);
        let names = &mut self.symbols.names;
        let is_full =
            self.raw.len() >= FUNCTIONS_MAX || names.len() + name.len() + module.len() + 4 > NAMES_BYTES_MAX;
        let Some(at) = u32::try_from(names.len()).ok().filter(|_| !is_full) else { return false };
        self.raw.push(Raw { start, name: at, rank, module: self.modules.number(module) });
        names.extend_from_slice(name);
        if !module.is_empty() {
            names.extend_from_slice(b" [");
            names.extend_from_slice(module);
            names.push(b']');
        }
        names.push(0);
        true
    }

    fn placed(self, bounds: &Bounds) -> KernelSymbols {
        let Reading { mut symbols, raw, modules } = self;
        symbols.names.shrink_to_fit();
        symbols.place(raw, bounds, &modules);
        symbols
    }
}

/// Without what link-time optimisation puts behind a name: it changes with every build, and some kernels leave it out themselves
/// when they are asked.
fn written(name: &[u8]) -> &[u8] {
    memchr::memmem::find(name, b".llvm.").and_then(|end| name.get(..end)).unwrap_or(name)
}

/// As the kernel's list would have it.
fn bpf(name: &[u8]) -> Box<str> {
    let name = String::from_utf8_lossy(name.get(..name.len().min(NAME_BYTES_MAX)).unwrap_or(name));
    format!("{name} [bpf]").into()
}

impl Bounds {
    fn take(&mut self, line: &Line<'_>) {
        match line.name {
            _ if !line.module.is_empty() => {}
            b"_stext" => self.text.0 = line.address,
            b"_etext" => self.text.1 = line.address,
            b"_sinittext" => self.start_up.0 = line.address,
            b"_einittext" => self.start_up.1 = line.address,
            _ => {}
        }
    }

    /// Where a function ends at the latest.
    fn end(&self, here: &Raw, next: Option<&Raw>) -> u64 {
        let follows = next.map_or(u64::MAX, |next| next.start);
        let areas = [self.text, self.start_up];
        if let Some((_, end)) = areas.iter().find(|(start, end)| (*start..*end).contains(&here.start)) {
            return follows.min(*end);
        }
        // The ends themselves are no functions.
        if areas.iter().any(|(_, end)| *end == here.start) {
            return here.start;
        }
        match next {
            Some(next) if here.module > 0 && next.module == here.module => follows,
            _ => follows.min((here.start | (PAGE_BYTES - 1)).saturating_add(1)),
        }
    }
}

/// The modules that functions belong to, by numbers from 1.
#[derive(Debug, Default)]
struct Modules(Vec<Box<[u8]>>);

impl Modules {
    fn number(&mut self, name: &[u8]) -> u16 {
        if name.is_empty() {
            return 0;
        }
        // Functions of a module follow each other.
        let at = self.0.iter().rposition(|known| **known == *name).unwrap_or_else(|| {
            self.0.push(name.into());
            self.0.len() - 1
        });
        u16::try_from(at + 1).unwrap_or(u16::MAX)
    }

    /// Is it code that comes and goes while the kernel runs?
    fn is_made(&self, number: u16) -> bool {
        let name = usize::from(number).checked_sub(1).and_then(|at| self.0.get(at));
        name.is_some_and(|name| **name == *b"bpf" || name.starts_with(b"__builtin__"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "\
        0000000000000000 A fixed_percpu_data\n\
        ffffffff81000000 T _stext\n\
        ffffffff81000000 T startup_64\n\
        ffffffff81000100 t local\n\
        ffffffff81000100 T alias\n\
        ffffffff81000100 W weak\n\
        ffffffff81000200 T last\n\
        ffffffff81000300 T _etext\n\
        ffffffff82000000 D data\n\
        ffffffffc0001000 t $x\t[nf_tables]\n\
        ffffffffc0001000 t first.llvm.1302\t[nf_tables]\n\
        ffffffffc0001020 t $d\t[nf_tables]\n\
        ffffffffc0001040 T second\t[nf_tables]\n\
        ffffffffc0009000 t other\t[overlay]\n\
        ffffffffc0200000 t bpf_prog_12ab\t[bpf]\n";

    fn parse(list: &str) -> Result<KernelSymbols, KernelError> {
        KernelSymbols::parse(list.as_bytes())
    }

    fn check(symbols: &KernelSymbols, address: u64, expected: Option<&str>) {
        assert_eq!(symbols.name(address).as_deref(), expected, "{address:x}");
    }

    #[test]
    fn a_function_reaches_up_to_the_next_and_not_out_of_its_area() {
        let symbols = parse(TEXT).unwrap();
        check(&symbols, 0xffff_ffff_8100_0000, Some("startup_64"));
        check(&symbols, 0xffff_ffff_8100_00ff, Some("startup_64"));
        check(&symbols, 0xffff_ffff_8100_0100, Some("local"));
        check(&symbols, 0xffff_ffff_8100_02ff, Some("last"));
        check(&symbols, 0xffff_ffff_8100_0300, None);
        check(&symbols, 0xffff_ffff_80ff_ffff, None);
        check(&symbols, 0xffff_ffff_c000_103f, Some("first [nf_tables]"));
        check(&symbols, 0xffff_ffff_c000_1fff, Some("second [nf_tables]"));
        check(&symbols, 0xffff_ffff_c000_2000, None);
        check(&symbols, 0xffff_ffff_c000_9001, Some("other [overlay]"));
        check(&symbols, 0, None);
        check(&symbols, u64::MAX, None);
    }

    /// Whatever the addresses and however few: each is called as by the whole list.
    #[test]
    fn a_part_of_the_list_names_as_the_whole_does() {
        let mut shuffled: Vec<&str> = TEXT.lines().collect();
        shuffled.reverse();
        for list in [TEXT.to_owned(), shuffled.join("\n")] {
            let whole = parse(&list).unwrap();
            let starts =
                [0xffff_ffff_8100_0000, 0xffff_ffff_c000_1000, 0xffff_ffff_c000_9000, 0xffff_ffff_c020_0000];
            let near =
                |start: u64| [start - 1, start, start + 0x3f, start + 0x100, start + 0x2ff, start + 0x1000];
            let mut addresses: Vec<u64> = starts.into_iter().flat_map(near).collect();
            addresses.extend([0, 1, u64::MAX]);
            addresses.sort_unstable();
            for many in 1..addresses.len() {
                for wanted in addresses.windows(many) {
                    let part = KernelSymbols::parse_around(list.as_bytes(), wanted).unwrap();
                    let both = |address: &u64| (part.name(*address), whole.name(*address));
                    assert!(wanted.iter().map(both).all(|(part, whole)| part == whole), "{wanted:x?}");
                }
            }
        }
        let hidden = KernelSymbols::parse_around("0000000000000000 t f\n".as_bytes(), &[1]);
        assert_eq!(hidden.unwrap_err(), KernelError::Hidden { restrict: None });
    }

    #[test]
    fn programs_come_and_go() {
        let mut symbols = parse(TEXT).unwrap();
        check(&symbols, 0xffff_ffff_c020_0010, Some("bpf_prog_12ab [bpf]"));
        symbols.remove(0xffff_ffff_c020_0000);
        check(&symbols, 0xffff_ffff_c020_0010, None);
        symbols.add(0xffff_ffff_c020_0000, 0x40, b"bpf_trampoline_1");
        check(&symbols, 0xffff_ffff_c020_003f, Some("bpf_trampoline_1 [bpf]"));
        check(&symbols, 0xffff_ffff_c020_0040, None);
        symbols.add(0xffff_ffff_c020_0020, 0x40, b"bpf_prog_2");
        check(&symbols, 0xffff_ffff_c020_0000, None);
        check(&symbols, 0xffff_ffff_c020_005f, Some("bpf_prog_2 [bpf]"));
        for at in 0..20_000 {
            symbols.add(0x1000 + at * 64, 64, b"many");
        }
        assert!(symbols.made.len() <= MADE_MAX && symbols.refused() > 3_000);
    }

    #[test]
    fn hidden_addresses_are_told_from_none() {
        let hidden: String = TEXT.lines().map(|line| format!("0000000000000000 {}\n", &line[17..])).collect();
        let error = parse(&hidden).unwrap_err();
        assert_eq!(error, KernelError::Hidden { restrict: None });
        assert!(error.to_string().contains("CAP_SYSLOG"), "{error}");
        assert!(KernelError::Hidden { restrict: Some(2) }.to_string().contains("kptr_restrict is 2"));
        assert_eq!(parse("").unwrap_err(), KernelError::Empty);
        assert_eq!(parse("ffffffff82000000 D data\n").unwrap_err(), KernelError::Empty);
        let long = format!("{}{}\nffffffff81000000 T f\n", "no line\nff\n", "x".repeat(10_000));
        check(&parse(&long).unwrap(), 0xffff_ffff_8100_0000, Some("f"));
    }

    /// Each function of this machine's kernel is found by its address under one of the names it has there.
    #[test]
    fn the_running_kernel_agrees_with_its_own_list() {
        let symbols = match KernelSymbols::read() {
            Ok(symbols) => symbols,
            Err(error) => {
                assert!(matches!(error, KernelError::Hidden { .. }), "{error}");
                return;
            }
        };
        let text = fs::read_to_string("/proc/kallsyms").unwrap();
        let mut names: BTreeMap<u64, Vec<String>> = BTreeMap::new();
        for line in text.lines() {
            let mut words = line.split_whitespace();
            let address = u64::from_str_radix(words.next().unwrap(), 16).unwrap();
            let is_function = "tTwW".contains(words.next().unwrap());
            let name = words.by_ref().collect::<Vec<_>>().join(" ");
            if is_function && !name.ends_with("_etext") && !name.ends_with("_einittext") {
                names.entry(address).or_default().push(name);
            }
        }
        let agree =
            names.iter().filter(|(at, names)| symbols.name(**at).is_some_and(|name| names.contains(&name)));
        let (agree, all) = (agree.count(), names.len());
        println!("{agree} of {all} addresses of functions have a name of the kernel's own list");
        assert!(agree * 1_000 >= all * 999 && all > 1_000, "{agree} of {all}");
    }
}
