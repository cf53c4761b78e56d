//! The lines of `/proc/kallsyms`: `address kind name`, and `[module]` behind a tab.
//!
//! Owns the bound on the list and on a line.

use std::io::{self, BufRead, Read, Take};

/// That of a distribution's kernel has 12 MiB, with everything else that is listed beside functions.
const LIST_BYTES_MAX: u64 = 128 << 20;
/// Names have at most 512 bytes, modules 56.
const LINE_BYTES_MAX: u64 = 1_024;

/// One line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line<'a> {
    pub(super) address: u64,
    kind: u8,
    pub(super) name: &'a [u8],
    /// Empty for the kernel itself.
    pub(super) module: &'a [u8],
}

impl<'a> Line<'a> {
    fn parse(line: &'a [u8]) -> Option<Line<'a>> {
        let line = line.trim_ascii_end();
        let mut words = line.splitn(3, |byte| *byte == b' ');
        let address = u64::from_str_radix(std::str::from_utf8(words.next()?).ok()?, 16).ok()?;
        let [kind] = words.next()?.first_chunk().copied()?;
        let rest = words.next()?;
        let (name, module) = match memchr::memchr(b'\t', rest) {
            Some(tab) => (rest.get(..tab)?, rest.get(tab + 1..)?),
            None => (rest, &[][..]),
        };
        let module =
            module.strip_prefix(b"[").and_then(|module| module.strip_suffix(b"]")).unwrap_or_default();
        (!name.is_empty()).then_some(Line { address, kind, name, module })
    }

    pub(super) fn is_function(&self) -> bool {
        matches!(self.kind, b't' | b'T' | b'w' | b'W')
    }

    /// The least is the best of several names for one address: marks of the linker are the worst.
    pub(super) fn rank(&self) -> u8 {
        let is_mark =
            [&b"_text"[..], b"_stext", b"_etext", b"_sinittext", b"_einittext"].contains(&self.name);
        match self.kind {
            _ if is_mark => 3,
            b'T' => 0,
            b't' => 1,
            _ => 2,
        }
    }
}

/// All lines.
#[derive(Debug)]
pub(super) struct Lines<L> {
    list: Take<L>,
    line: Vec<u8>,
    seen: u64,
}

impl<L: BufRead> Lines<L> {
    pub(super) fn new(list: L) -> Lines<L> {
        Lines { list: list.take(LIST_BYTES_MAX), line: Vec::new(), seen: 0 }
    }

    /// How many there were that are lines of such a list.
    pub(super) fn seen(&self) -> u64 {
        self.seen
    }

    /// The next one; lines that are none are passed over.
    pub(super) fn next(&mut self) -> io::Result<Option<Line<'_>>> {
        loop {
            self.line.clear();
            (&mut self.list).take(LINE_BYTES_MAX).read_until(b'\n', &mut self.line)?;
            if self.line.is_empty() {
                return Ok(None);
            }
            if self.line.last() != Some(&b'\n') {
                self.list.skip_until(b'\n')?;
            }
            if Line::parse(&self.line).is_some() {
                break;
            }
        }
        self.seen += 1;
        Ok(Line::parse(&self.line))
    }
}
