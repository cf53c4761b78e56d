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

/// What the linker says of where code begins and ends.
pub(super) const MARKS: [&[u8]; 5] = [b"_text", b"_stext", b"_etext", b"_sinittext", b"_einittext"];

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
        Line::as_printed(line).or_else(|| Line::in_general(line))
    }

    /// The form in which a kernel of 64 bits prints it, in a third of the time: everything before the name has its place,
    /// and only a line with a module ends with a bracket.
    fn as_printed(line: &'a [u8]) -> Option<Line<'a>> {
        let (digits, rest) = line.split_first_chunk()?;
        let (&[b' ', kind, b' '], name) = rest.split_first_chunk()? else { return None };
        let is_plain = !name.last()?.is_ascii_whitespace() && name.last() != Some(&b']');
        let address = sixteen_digits(digits).filter(|_| is_plain)?;
        Some(Line { address, kind, name, module: &[] })
    }

    fn in_general(line: &'a [u8]) -> Option<Line<'a>> {
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

    /// Modules of arm64 and RISC-V list where their code turns into data as well, and labels of the assembler: neither begins
    /// a function, and the kernel's own search passes them over.
    pub(super) fn is_function(&self) -> bool {
        let is_label = self.name.starts_with(b"$") || self.name.starts_with(b".L");
        matches!(self.kind, b't' | b'T' | b'w' | b'W') && !is_label
    }

    /// The least is the best of several names for one address, and among equals the first: that is the kernel's own choice.
    /// Marks of the linker are worse than any.
    pub(super) fn rank(&self) -> u8 {
        u8::from(MARKS.contains(&self.name))
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

/// The same of exactly sixteen small ones, eight at a time: each digit is a byte of a word, and a word of digits that are
/// written again from their values is the one that was read, or there was something else among them.
fn sixteen_digits(digits: &[u8; 16]) -> Option<u64> {
    const ONES: u64 = 0x0101_0101_0101_0101;
    let (high, low) = digits.split_first_chunk()?;
    let eight = |word: u64| {
        let is_letter = word >> 6 & ONES;
        let values = (word & (0x0f * ONES)) + is_letter * 9;
        let again = values.wrapping_add(u64::from(b'0') * ONES).wrapping_add(is_letter * 39);
        let is_small = values >> 4 & ONES == 0 && values.wrapping_add(6 * ONES) >> 4 & ONES == is_letter;
        let pairs = (values | values >> 4) & 0x00ff_00ff_00ff_00ff;
        let fours = (pairs | pairs >> 8) & 0x0000_ffff_0000_ffff;
        (again == word && is_small).then_some((fours | fours >> 16) & 0xffff_ffff)
    };
    Some(eight(u64::from_be_bytes(*high))? << 32 | eight(u64::from_be_bytes(low.try_into().ok()?))?)
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
    use super::{Line, address_of, is_shown, sixteen_digits};

    #[test]
    fn sixteen_digits_are_read_at_once_as_one_by_one() {
        let number = |text: &[u8]| sixteen_digits(text.try_into().unwrap());
        assert_eq!(number(b"ffffffff81000000"), Some(0xffff_ffff_8100_0000));
        assert_eq!(number(b"0123456789abcdef"), Some(0x0123_4567_89ab_cdef));
        for (at, other) in (0..16).flat_map(|at| (0..=u8::MAX).map(move |other| (at, other))) {
            let mut text = *b"ffffffffc09a8b70";
            text[at] = other;
            let expected = address_of(&text).filter(|_| !other.is_ascii_uppercase());
            assert_eq!(number(&text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_line_as_a_kernel_prints_it_says_the_same_as_any_other() {
        let lines = [
            "ffffffff81000000 T _stext",
            "ffffffff81000000 T name with spaces",
            "ffffffffc0001000 t first\t[nf_tables]",
            "ffffffff81000000 T trailing ",
            "ffffffff81000000 T ",
            "ffffffff81000000  T _stext",
            "ffffffff8100000 T short",
            "FFFFFFFF81000000 T capitals",
            "fffffffff81000000 T long",
            "ffffffff81000000 TT two",
            "",
        ];
        for line in lines {
            let quick = Line::as_printed(line.as_bytes());
            assert!(quick.is_none() || quick == Line::in_general(line.as_bytes()), "{line}: {quick:?}");
        }
        let quick = |line: &'static str| Line::as_printed(line.as_bytes());
        assert!(quick(lines[0]).is_some_and(|line| line.name == b"_stext") && quick(lines[2]).is_none());
    }

    #[test]
    fn hidden_addresses_are_told_by_the_beginning() {
        let check = |text: &str, expected| assert_eq!(is_shown(text.as_bytes()), expected, "{text}");
        check("0000000000000000 A fixed_percpu_data\nffffffff81000000 T _text\n", true);
        check("0000000000000000 A fixed_percpu_data\n0000000000000000 T _text\n", false);
        check("", false);
        check("no list", false);
    }
}
