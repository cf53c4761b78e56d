//! The lines of `/proc/kallsyms`: `address kind name`, and `[module]` behind a tab.
//!
//! Owns the bound on the list and on a line. A line is looked at where it was read to: there are a hundred thousand.

use std::io::{self, BufRead};

/// That of a distribution's kernel has 12 MiB, with everything else that is listed beside functions.
const LIST_BYTES_MAX: u64 = 128 << 20;
/// Names have at most 512 bytes, modules 56.
const LINE_BYTES_MAX: usize = 1_024;
/// Lines by which it is told whether there are addresses, and their bytes.
const BEGINNING_LINES: usize = 64;
const BEGINNING_BYTES: u64 = 64 << 10;

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
        let space = memchr::memchr(b' ', line)?;
        let (address, rest) = line.split_at_checked(space)?;
        let address = address_of(address)?;
        let (kind, rest) = rest.get(1..)?.split_first()?;
        let rest = rest.get(memchr::memchr(b' ', rest)? + 1..)?;
        let (name, module) = match memchr::memchr(b'\t', rest) {
            Some(tab) => (rest.get(..tab)?, rest.get(tab + 1..)?),
            None => (rest, &[][..]),
        };
        let module =
            module.strip_prefix(b"[").and_then(|module| module.strip_suffix(b"]")).unwrap_or_default();
        (!name.is_empty()).then_some(Line { address, kind: *kind, name, module })
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

/// Hexadecimal digits and nothing else, as many as an address has.
fn address_of(digits: &[u8]) -> Option<u64> {
    let digit = |digit: u8| match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    };
    let is_address = (1..=16).contains(&digits.len());
    let mut all = digits.iter().filter(|_| is_address);
    let first = digit(*all.next()?)?;
    all.try_fold(u64::from(first), |sum, next| Some(sum << 4 | u64::from(digit(*next)?)))
}

/// Whether it has addresses. Hidden ones are all zero, and of true ones only a few at the beginning are: offsets into
/// per-CPU memory.
pub(super) fn is_shown(list: impl BufRead) -> bool {
    let lines = list.take(BEGINNING_BYTES).lines().take(BEGINNING_LINES).map_while(Result::ok);
    let mut addresses = lines.filter_map(|line| u64::from_str_radix(line.split(' ').next()?, 16).ok());
    addresses.any(|address| address != 0)
}

/// Takes each line in its order, and says how many there were that are lines of such a list; others are passed over.
pub(super) fn each(list: impl BufRead, mut take: impl FnMut(&Line<'_>)) -> io::Result<u64> {
    let mut list = list.take(LIST_BYTES_MAX);
    let (mut seen, mut begun) = (0, Vec::new());
    let mut line = |line: &[u8]| {
        if let Some(line) = Line::parse(line.get(..LINE_BYTES_MAX).unwrap_or(line)) {
            seen += 1;
            take(&line);
        }
    };
    loop {
        let read = list.fill_buf()?;
        if read.is_empty() {
            break;
        }
        let (mut rest, length) = (read, read.len());
        while let Some(end) = memchr::memchr(b'\n', rest) {
            let (piece, after) = rest.split_at_checked(end).unwrap_or_default();
            if begun.is_empty() {
                line(piece);
            } else {
                begin(&mut begun, piece);
                line(&begun);
                begun.clear();
            }
            rest = after.get(1..).unwrap_or_default();
        }
        begin(&mut begun, rest);
        list.consume(length);
    }
    line(&begun);
    Ok(seen)
}

/// Keeps what there is of a line whose end was not read yet. What is behind the bound is not looked at anyway.
fn begin(begun: &mut Vec<u8>, piece: &[u8]) {
    let room = LINE_BYTES_MAX.saturating_sub(begun.len()).min(piece.len());
    begun.extend_from_slice(piece.get(..room).unwrap_or_default());
}

#[cfg(test)]
mod tests {
    use super::is_shown;

    #[test]
    fn hidden_addresses_are_told_by_the_beginning() {
        let check = |text: &str, expected| assert_eq!(is_shown(text.as_bytes()), expected, "{text}");
        check("0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n", true);
        check("0000000000000000 A fixed_percpu_data\n0000000000000000 T _text\n", false);
        check("", false);
        check("no list", false);
    }
}
