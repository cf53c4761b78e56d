//! Names of code that was compiled while the program runs, from the list that its compiler leaves: `/tmp/perf-PID.map`.
//!
//! Owns that format, three words a line: first address and size in hexadecimal, and a name with whatever is in it.
//! Refuses lists of other people: who may write to `/tmp` could name the functions of any process.

use std::{
    collections::BTreeMap,
    fs::{self, OpenOptions},
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

/// A large Java server lists 60,000 functions in 6 MiB. What is behind is not read, and that is said.
const LIST_BYTES_MAX: u64 = 32 << 20;
/// Functions kept, some 30 MiB with their names.
const FUNCTIONS_MAX: usize = 256 << 10;
/// Names of lambdas of lambdas; longer ones are cut.
const NAME_BYTES_MAX: usize = 512;
/// A longer line is no line of such a list.
const LINE_BYTES_MAX: u64 = 8 << 10;
/// The largest code cache of a Java machine is 2 GiB; no function of it has more than a few MiB.
const FUNCTION_BYTES_MAX: u64 = 64 << 20;

/// Why there is no list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum JitError {
    /// There is none, or it cannot be read.
    #[error("read the list of compiled functions: {0}")]
    Io(io::ErrorKind),
    /// It belongs neither to the process's user nor to root.
    #[error("the list of compiled functions belongs to somebody else")]
    Foreign,
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Function {
    end: u64,
    name: Box<str>,
}

/// The functions of one process.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct JitSymbols {
    functions: BTreeMap<u64, Function>,
    /// Lines that say nothing that can be.
    pub rejected: u64,
    /// There is more in the list than was read.
    pub is_cut: bool,
}

impl JitSymbols {
    /// Reads the list of a process, as it sees its own `/tmp`, if its user or root wrote it.
    ///
    /// # Errors
    /// See [`JitError`].
    pub fn of_process(pid: u32) -> Result<JitSymbols, JitError> {
        let process = PathBuf::from(format!("/proc/{pid}"));
        let io = |error: io::Error| JitError::Io(error.kind());
        let user = fs::metadata(&process).map_err(io)?.uid();
        let path = process.join("root/tmp").join(format!("perf-{}.map", inner_pid(&process).unwrap_or(pid)));
        JitSymbols::open(&path, user)
    }

    fn open(path: &Path, user: u32) -> Result<JitSymbols, JitError> {
        let io = |error: io::Error| JitError::Io(error.kind());
        // Neither a pipe, at which we would wait, nor a link to what is not theirs.
        let flags = libc::O_NONBLOCK | libc::O_NOCTTY | libc::O_NOFOLLOW;
        let file = OpenOptions::new().read(true).custom_flags(flags).open(path).map_err(io)?;
        let metadata = file.metadata().map_err(io)?;
        if !metadata.is_file() {
            return Err(JitError::Io(io::ErrorKind::InvalidInput));
        }
        if metadata.uid() != user && metadata.uid() != 0 {
            return Err(JitError::Foreign);
        }
        let mut symbols = JitSymbols::read(BufReader::new(&file)).map_err(io)?;
        symbols.is_cut |= metadata.len() > LIST_BYTES_MAX;
        Ok(symbols)
    }

    /// Reads a list. What is listed later replaces what was at its addresses before: the compiler used them again.
    ///
    /// # Errors
    /// As the reader says.
    pub fn read(list: impl BufRead) -> io::Result<JitSymbols> {
        let mut symbols = JitSymbols::default();
        let (mut list, mut line) = (list.take(LIST_BYTES_MAX), Vec::new());
        while read_line(&mut list, &mut line)? {
            if symbols.functions.len() >= FUNCTIONS_MAX {
                symbols.is_cut = true;
                break;
            }
            match function(&line) {
                Some((start, function)) => symbols.add(start, function),
                None => symbols.rejected += 1,
            }
        }
        Ok(symbols)
    }

    fn add(&mut self, start: u64, function: Function) {
        let before = self.functions.range(..start).next_back();
        let mut gone: Vec<u64> =
            before.filter(|(_, f)| f.end > start).map(|(start, _)| *start).into_iter().collect();
        gone.extend(self.functions.range(start..function.end).map(|(start, _)| *start));
        for start in gone {
            self.functions.remove(&start);
        }
        self.functions.insert(start, function);
    }

    /// The function at an address.
    #[must_use]
    pub fn name(&self, address: u64) -> Option<&str> {
        let (_, function) = self.functions.range(..=address).next_back()?;
        (address < function.end).then_some(&function.name)
    }

    /// How many.
    #[must_use]
    pub fn len(&self) -> usize {
        self.functions.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.functions.is_empty()
    }
}

/// The process's number as it knows it itself.
fn inner_pid(process: &Path) -> Option<u32> {
    let status = fs::read_to_string(process.join("status")).ok()?;
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    numbers.split_whitespace().next_back()?.parse().ok()
}

/// Reads a line, up to its bound; the rest of a longer one is passed over.
fn read_line(list: &mut impl BufRead, line: &mut Vec<u8>) -> io::Result<bool> {
    line.clear();
    list.by_ref().take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    if line.is_empty() {
        return Ok(false);
    }
    if line.last() != Some(&b'\n') {
        list.skip_until(b'\n')?;
    }
    Ok(true)
}

fn function(line: &[u8]) -> Option<(u64, Function)> {
    let line = String::from_utf8_lossy(line);
    let mut words = line.trim_end().splitn(3, ' ');
    let mut number = || {
        let word = words.next()?;
        u64::from_str_radix(word.strip_prefix("0x").unwrap_or(word), 16).ok()
    };
    let (start, size) = (number()?, number()?);
    let name = words.next()?.trim().trim_matches('\0');
    let end =
        start.checked_add(size).filter(|_| size > 0 && size <= FUNCTION_BYTES_MAX && !name.is_empty())?;
    let cut = (0..=name.len().min(NAME_BYTES_MAX)).rev().find(|end| name.is_char_boundary(*end))?;
    Some((start, Function { end, name: name.get(..cut)?.into() }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> JitSymbols {
        JitSymbols::read(text.as_bytes()).unwrap()
    }

    #[test]
    fn a_list_is_read_line_by_line() {
        let symbols = read(
            "7f0010 20 LazyCompile:~f a.js:1\n0x7f0040 0x8 g\nno line\n1 zz h\n7f0050 0 empty\n7f0060 4 last",
        );
        assert_eq!(symbols.name(0x7f_000f), None);
        assert_eq!(symbols.name(0x7f_0010), Some("LazyCompile:~f a.js:1"));
        assert_eq!(symbols.name(0x7f_002f), Some("LazyCompile:~f a.js:1"));
        assert_eq!(symbols.name(0x7f_0030), None);
        assert_eq!(symbols.name(0x7f_0047), Some("g"));
        assert_eq!(symbols.name(0x7f_0063), Some("last"));
        assert_eq!((symbols.len(), symbols.rejected, symbols.is_cut), (3, 3, false));
    }

    #[test]
    fn what_is_compiled_later_is_there() {
        let symbols = read("1000 100 old\n1100 100 neighbour\n10f0 20 new\n");
        assert_eq!(symbols.name(0x10f0), Some("new"));
        assert_eq!(symbols.name(0x110f), Some("new"));
        assert_eq!(symbols.name(0x1000), None);
        assert_eq!(symbols.name(0x1110), None);
        assert_eq!(symbols.len(), 1);
    }

    #[test]
    fn a_list_without_an_end_is_cut() {
        let long = format!("1000 10 {}\n2000 10 f\n", "x".repeat(100_000));
        let symbols = read(&long);
        assert_eq!(symbols.name(0x1000).unwrap().len(), NAME_BYTES_MAX);
        assert_eq!(symbols.name(0x2000), Some("f"));
        let endless = io::repeat(b'x');
        assert_eq!(JitSymbols::read(BufReader::new(endless)).unwrap().len(), 0);
        let many: String = (0..300_000).map(|at| format!("{:x} 8 f\n", 0x1000 + at * 16)).collect();
        let symbols = read(&many);
        assert_eq!((symbols.len(), symbols.is_cut), (FUNCTIONS_MAX, true));
    }

    #[test]
    fn only_the_processs_own_list_is_read() {
        let path = std::env::temp_dir().join(format!("perf-{}.map", std::process::id()));
        fs::write(&path, "1000 10 compiled\n").unwrap();
        let found = JitSymbols::of_process(std::process::id());
        let owner = fs::metadata(&path).unwrap().uid();
        let foreign = JitSymbols::open(&path, owner + 1);
        let linked = std::env::temp_dir().join(format!("perf-link-{}.map", std::process::id()));
        std::os::unix::fs::symlink(&path, &linked).unwrap();
        let by_link = JitSymbols::open(&linked, owner);
        fs::remove_file(&linked).unwrap();
        fs::remove_file(&path).unwrap();
        // Where the temporary files are elsewhere, only the second part counts.
        if std::env::temp_dir() == Path::new("/tmp") {
            assert_eq!(found.unwrap().name(0x1008), Some("compiled"));
        }
        assert!(owner == 0 || foreign == Err(JitError::Foreign));
        assert!(matches!(by_link, Err(JitError::Io(_))));
        assert_eq!(JitSymbols::of_process(u32::MAX), Err(JitError::Io(io::ErrorKind::NotFound)));
    }
}
