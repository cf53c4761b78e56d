//! Files made here byte by byte, for what no compiler writes: nesting without an end, entries that refer to themselves,
//! units that take too long, symbols that lie within one another.

use super::*;

/// As many functions as are kept of one table.
const FUNCTIONS: usize = 2 << 20;
const BASE: u64 = 0x40_0000;
const TEXT: u64 = 0x1000;

/// A section: name, kind, flags, linked section, content. The first one is the text.
struct Made(&'static str, u32, u64, u32, Vec<u8>);

/// A program whose text is at `BASE + TEXT`.
fn file(sections: &[Made]) -> Vec<u8> {
    let mut bytes = vec![0; usize::try_from(TEXT).unwrap()];
    let mut headers = vec![0; 64];
    let (mut names, mut name_offsets) = (vec![0], Vec::new());
    for Made(name, ..) in sections {
        name_offsets.push(names.len());
        names.extend(name.bytes());
        names.push(0);
    }
    let names_name = names.len();
    names.extend(b".shstrtab\0");
    let all = sections.iter().map(|Made(_, kind, flags, link, content)| (*kind, *flags, *link, content));
    let number = |value: usize| u64::try_from(value).unwrap();
    for ((kind, flags, link, content), name) in
        all.chain([(3, 0, 0, &names)]).zip(name_offsets.iter().copied().chain([names_name]))
    {
        let offset = number(bytes.len());
        let address = if flags & 2 > 0 { BASE + offset } else { 0 };
        headers.extend((number(name) | u64::from(kind) << 32).to_le_bytes());
        for field in [flags, address, offset, number(content.len()), u64::from(link), 1, 24] {
            headers.extend(field.to_le_bytes());
        }
        bytes.extend(content);
    }
    let text = number(sections[0].4.len());
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, 0x0001_0102_464c_457f);
    put(16, 2 | 62 << 16 | 1 << 32);
    put(32, 64);
    put(52, 64 | 56 << 16 | 1 << 32 | 64 << 48);
    for (at, field) in [1 | 5 << 32, TEXT, BASE + TEXT, 0, text, text].into_iter().enumerate() {
        put(64 + at * 8, field);
    }
    let table = number(bytes.len());
    bytes[40..48].copy_from_slice(&table.to_le_bytes());
    let count = u16::try_from(sections.len() + 2).unwrap();
    bytes[60..62].copy_from_slice(&count.to_le_bytes());
    bytes[62..64].copy_from_slice(&(count - 1).to_le_bytes());
    bytes.extend(headers);
    bytes
}

/// {name, kind and binding, section 1, from the text's beginning, size}.
fn symbol(name: u32, info: u8, at: u64, size: u64) -> Vec<u8> {
    let mut bytes = name.to_le_bytes().to_vec();
    bytes.extend([info, 0, 1, 0]);
    bytes.extend((BASE + TEXT + at).to_le_bytes());
    bytes.extend(size.to_le_bytes());
    bytes
}

fn with_symbols(symbols: &[Vec<u8>], names: &[u8], debug: Vec<Made>) -> Vec<u8> {
    let text = Made(".text", 1, 6, 0, vec![0x90; 0x400]);
    let table = Made(".symtab", 2, 0, 3, symbols.concat());
    let mut sections = vec![text, table, Made(".strtab", 3, 0, 0, names.to_vec())];
    sections.extend(debug);
    file(&sections)
}

const LOCAL_FUNCTION: u8 = 2;
const FUNCTION: u8 = 0x12;
const WEAK_FUNCTION: u8 = 0x22;
const MARK: u8 = 0x10;

#[test]
fn of_symbols_within_one_another_the_innermost_with_a_size_counts() {
    let names = b"\0outer\0inner\0alias\0weak\0mark\0sizeless\0next\0$x\0";
    let symbols = [
        vec![0; 24],
        symbol(1, FUNCTION, 0, 0x100),
        symbol(7, FUNCTION, 0x40, 0x10),
        symbol(13, LOCAL_FUNCTION, 0x40, 0x10),
        symbol(19, WEAK_FUNCTION, 0, 0x100),
        symbol(24, MARK, 0x80, 0),
        symbol(29, FUNCTION, 0x200, 0),
        symbol(38, MARK, 0x240, 0),
        symbol(43, MARK, 0x300, 0),
        symbol(1, FUNCTION, 0x3f0, 0x1000),
        symbol(1, FUNCTION, 0x500, 0x10),
    ];
    let bytes = with_symbols(&symbols, names, Vec::new());
    let mut ours = NativeSymbols::open(&bytes[..]).unwrap();
    let mut check = |at: u64, expected: Option<&str>| {
        let symbol = ours.symbol(Pc::Sampled(BASE + TEXT + at)).unwrap();
        assert_eq!(symbol.map(|symbol| symbol.name).as_deref(), expected, "{at:x}");
    };
    check(0, Some("outer"));
    check(0x40, Some("inner"));
    check(0x4f, Some("inner"));
    check(0x50, Some("outer"));
    check(0x80, Some("outer"));
    check(0x100, None);
    check(0x1ff, None);
    check(0x200, Some("sizeless"));
    check(0x23f, Some("sizeless"));
    check(0x240, Some("next"));
    check(0x241, None);
    check(0x300, None);
    check(0x3ff, Some("outer"));
    check(0x400, None);
    check(0x500, None);
    check(u64::MAX - BASE - TEXT, None);
}

#[test]
fn a_table_that_is_too_large_is_refused_with_a_reason() {
    let names = b"\0f\0";
    let many: Vec<u8> = symbol(1, FUNCTION, 0, 1).repeat(FUNCTIONS + 1);
    let bytes = with_symbols(&[many], names, Vec::new());
    let mut ours = NativeSymbols::open(&bytes[..]).unwrap();
    assert_eq!(ours.frames(Pc::Sampled(BASE + TEXT)).unwrap(), Vec::new());
    assert_eq!(ours.shortfalls().symbols, Some(Refusal::TooManySymbols));
}

/// 1: unit. 2: function with code. 3: inlined call. 4: function without code. 5: function that refers to another.
const ABBREVIATIONS: &[u8] = &[
    1, 0x11, 1, 0x11, 0x01, 0x12, 0x07, 0, 0, //
    2, 0x2e, 1, 0x03, 0x08, 0x3b, 0x0b, 0x11, 0x01, 0x12, 0x07, 0, 0, //
    3, 0x1d, 1, 0x31, 0x13, 0x11, 0x01, 0x12, 0x07, 0, 0, //
    4, 0x2e, 0, 0x03, 0x08, 0x3b, 0x0b, 0, 0, //
    5, 0x2e, 0, 0x31, 0x13, 0x11, 0x01, 0x12, 0x07, 0, 0, //
    0,
];

/// First address and length.
fn place(at: u64, length: u64) -> Vec<u8> {
    [(BASE + TEXT + at).to_le_bytes(), length.to_le_bytes()].concat()
}

/// A unit of DWARF 4 with these entries; the first one is at 28 in it.
fn debug(entries: &[u8]) -> Vec<Made> {
    let mut unit = vec![4, 0, 0, 0, 0, 0, 8, 1];
    unit.extend(place(0, 0x400));
    unit.extend(entries);
    unit.push(0);
    let mut info = u32::try_from(unit.len()).unwrap().to_le_bytes().to_vec();
    info.extend(unit);
    vec![Made(".debug_info", 1, 0, 0, info), Made(".debug_abbrev", 1, 0, 0, ABBREVIATIONS.to_vec())]
}

fn asked(entries: &[u8], at: u64) -> (Vec<String>, Shortfalls) {
    let bytes = with_symbols(&[symbol(1, FUNCTION, 0, 0x400)], b"\0symbol\0", debug(entries));
    let mut ours = NativeSymbols::open(&bytes[..]).unwrap();
    let frames = ours.frames(Pc::Sampled(BASE + TEXT + at)).unwrap();
    assert_eq!(frames, ours.frames(Pc::Sampled(BASE + TEXT + at)).unwrap());
    (frames.into_iter().map(|frame| frame.function).collect(), ours.shortfalls())
}

/// An abstract function at 28, then one with code in which calls of it lie within one another.
fn nested(depth: usize) -> Vec<u8> {
    let mut entries = b"\x04called\0\x07\x02caller\0\x09".to_vec();
    entries.extend(place(0, 0x100));
    for _ in 0..depth {
        entries.extend([3, 28, 0, 0, 0]);
        entries.extend(place(0x10, 0x20));
    }
    entries.extend(vec![0; depth + 1]);
    entries
}

#[test]
fn inlined_calls_are_told_from_the_inside_out() {
    let none = Shortfalls::default();
    assert_eq!(asked(&nested(2), 0x10), (vec!["called".into(), "called".into(), "caller".into()], none));
    assert_eq!(asked(&nested(2), 0x30), (vec!["caller".into()], none));
    assert_eq!(asked(&nested(2), 0x200), (vec!["symbol".into()], none));
    assert_eq!(asked(&nested(128), 0x10).0.len(), 129);
}

#[test]
fn calls_within_one_another_without_an_end_cost_no_stack() {
    let (names, shortfalls) = asked(&nested(200_000), 0x10);
    assert_eq!(names, ["symbol"]);
    assert_eq!((shortfalls.damaged, shortfalls.costly), (2, 0));
}

#[test]
fn an_entry_that_refers_to_itself_has_no_name() {
    let mut entries = vec![5, 28, 0, 0, 0];
    entries.extend(place(0, 0x100));
    assert_eq!(asked(&entries, 8).0, ["symbol"]);
}

#[test]
fn a_unit_that_takes_too_long_is_left_to_the_symbols() {
    // Empty entries, each a step.
    let (names, shortfalls) = asked(&vec![0; 21_000_000], 8);
    assert_eq!(names, ["symbol"]);
    assert_eq!((shortfalls.costly, shortfalls.debug), (2, None));
}

#[test]
fn damage_anywhere_is_no_more_than_damage() {
    let good = with_symbols(&[symbol(1, FUNCTION, 0, 0x400)], b"\0symbol\0", debug(&nested(3)));
    let mut named = 0;
    for at in 0..good.len() {
        for flip in [0x01, 0x80, 0xff] {
            let mut bytes = good.clone();
            bytes[at] ^= flip;
            let Ok(mut ours) = NativeSymbols::open(&bytes[..]) else { continue };
            for address in [0, 0x10, 0x30, 0x3ff] {
                named += ours.frames(Pc::Sampled(BASE + TEXT + address)).map_or(0, |frames| frames.len());
            }
        }
        if at % 7 == 0
            && let Ok(mut ours) = NativeSymbols::open(&good[..at])
        {
            named += ours.frames(Pc::Sampled(BASE + TEXT)).map_or(0, |frames| frames.len());
        }
    }
    assert!(named > good.len(), "hardly anything was answered: {named}");
}
