//! Programs of three functions, in each layout and linked both ways: what they say, and what is made of them when they are
//! damaged. Real programs are in `tests/go_tables.rs`.

use super::{header::Era, *};

const CODE: u64 = 0x40_0100;
const DATA_AT: usize = 0x200;
const DATA: u64 = 0x50_0200;
const NAMES: &[u8] = b"main.outer\0main.inner\0runtime.goexit\0main.(*T).wrap\0";

/// A file that is written from its beginning, and the addresses in it that a loader would write.
struct Image {
    bytes: Vec<u8>,
    is_moved: bool,
    relocations: Vec<(u64, u64)>,
}

impl Image {
    fn here(&self) -> u64 {
        DATA + u64::try_from(self.bytes.len() - DATA_AT).unwrap()
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend(value.to_le_bytes());
    }

    fn address(&mut self, address: u64) {
        if self.is_moved {
            self.relocations.push((self.here(), address));
        }
        self.u64(if self.is_moved { 0 } else { address });
    }

    fn align(&mut self) {
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
    }

    fn put(&mut self, at: usize, value: u64) {
        self.bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    }

    fn segment(&mut self, at: usize, kind: u32, flags: u32, span: [u64; 3]) {
        let [offset, address, length] = span;
        self.put(at, u64::from(kind) | u64::from(flags) << 32);
        for (word, value) in [offset, address, 0, length, length, 8].into_iter().enumerate() {
            self.put(at + 8 + word * 8, value);
        }
    }

    fn record(&mut self, era: Era, function: &Made, tree: u64) {
        match era {
            Era::Go116 => self.address(CODE + u64::from(function.start)),
            _ => self.u32(function.start),
        }
        let [stack_pointers, files, lines, inlined] = function.tables;
        for field in [function.name, 0, 0, stack_pointers, files, lines, 4, 0] {
            self.u32(field);
        }
        if era == Era::Go120 {
            self.u32(function.start_line);
        }
        self.bytes.extend([function.id, function.flags, 0, 4]);
        for table in [0, 0, inlined, 0] {
            self.u32(table);
        }
        if era == Era::Go116 {
            self.align();
            (0..3).for_each(|_| self.u64(0));
            if inlined > 0 { self.address(tree) } else { self.u64(0) }
        } else {
            (0..3).for_each(|_| self.u32(u32::MAX));
            self.u32(if inlined > 0 { 0 } else { u32::MAX });
        }
        self.align();
    }
}

struct Made {
    start: u32,
    name: u32,
    tables: [u32; 4],
    start_line: u32,
    id: u8,
    flags: u8,
}

/// Pairs of values and where they end, as a table. 0 is no table, so something stands before the first.
fn table(values: &mut Vec<u8>, pairs: &[(i32, u8)]) -> u32 {
    let at = u32::try_from(values.len()).unwrap();
    let (mut value, mut reached) = (-1, 0);
    for (next, end) in pairs {
        let more = next - value;
        values.push(u8::try_from(if more < 0 { !(more << 1) } else { more << 1 }).unwrap());
        values.push(end - reached);
        (value, reached) = (*next, *end);
    }
    values.push(0);
    at
}

/// `main.outer` from 0 to 0x40, the last four bytes of it padding, with `main.inner` from 0x10 to 0x20; `runtime.goexit` to 0x60; a wrapper to 0x70.
fn made(era: Era, is_moved: bool) -> Vec<u8> {
    let mut image = Image { bytes: vec![0; DATA_AT], is_moved, relocations: Vec::new() };
    let mut values = vec![0];
    let tables = [
        table(&mut values, &[(0, 4), (16, 0x3c)]),
        table(&mut values, &[(0, 0x3c)]),
        table(&mut values, &[(10, 0x10), (20, 0x20), (11, 0x3c)]),
        table(&mut values, &[(-1, 0x10), (0, 0x20), (-1, 0x3c)]),
    ];
    let functions = [
        Made { start: 0, name: 0, tables, start_line: 9, id: 0, flags: 0 },
        Made { start: 0x40, name: 22, tables: [0; 4], start_line: 0, id: 8, flags: 5 },
        Made { start: 0x60, name: 37, tables: [0; 4], start_line: 0, id: 22, flags: 0 },
    ];
    // The head, with places for the five parts.
    let magic = match era {
        Era::Go116 => 0xffff_fffa,
        Era::Go118 => 0xffff_fff0,
        Era::Go120 => 0xffff_fff1_u64,
    };
    for word in [magic | 1 << 48 | 8 << 56, 3, 1] {
        image.u64(word);
    }
    match era {
        Era::Go116 => {}
        Era::Go118 => image.address(CODE),
        Era::Go120 => image.u64(0),
    }
    let parts_at = image.bytes.len();
    image.bytes.resize(parts_at + 40, 0);
    let mut parts = Vec::new();
    for part in [NAMES, &[0; 8], b"main.go\0", &values] {
        parts.push(image.here());
        image.bytes.extend(part);
        image.align();
    }
    parts.push(image.here());
    for (word, part) in parts.iter().enumerate() {
        image.put(parts_at + word * 8, part - DATA);
    }
    let tree = functions_of(&mut image, era, &functions);
    assert_eq!(image.here(), tree);
    let call: [u32; 5] = match era {
        Era::Go120 => [0, 11, 8, 19, 0],
        _ => [0xffff, 0, 10, 11, 8],
    };
    call.into_iter().for_each(|field| image.u32(field));
    image.align();
    module(&mut image, era, &parts, tree);
    finish(image)
}

/// The index and the records; says where the tree follows.
fn functions_of(image: &mut Image, era: Era, functions: &[Made]) -> u64 {
    let (index_bytes, record_bytes) = match era {
        Era::Go116 => (16 * 3 + 8, 96),
        _ => (8 * 3 + 4_u32, 80),
    };
    let first = index_bytes.next_multiple_of(8);
    let records = image.here();
    let tree = records + u64::from(first + 3 * record_bytes);
    for (at, function) in functions.iter().enumerate() {
        let record = first + u32::try_from(at).unwrap() * record_bytes;
        match era {
            Era::Go116 => {
                image.address(CODE + u64::from(function.start));
                image.u64(u64::from(record));
            }
            _ => {
                image.u32(function.start);
                image.u32(record);
            }
        }
    }
    match era {
        Era::Go116 => image.address(CODE + 0x70),
        _ => image.u32(0x70),
    }
    image.align();
    for function in functions {
        let end = image.bytes.len() + usize::try_from(record_bytes).unwrap();
        image.record(era, function, tree);
        image.bytes.resize(end, 0);
    }
    tree
}

fn module(image: &mut Image, era: Era, parts: &[u64], tree: u64) {
    let at = image.bytes.len();
    for word in 0..48 {
        match word {
            0 => image.address(DATA),
            1 | 4 | 7 | 10 | 13 => image.address(parts[word / 3]),
            16 => image.address(parts[4]),
            17 => image.u64(4),
            20 | 22 => image.address(CODE),
            21 | 23 => image.address(CODE + 0x70),
            38 if era == Era::Go118 => image.address(tree),
            40 if era == Era::Go120 => image.address(tree),
            _ => image.u64(0),
        }
    }
    assert_eq!(image.bytes.len(), at + 384);
}

/// Relocations, then the headers.
fn finish(mut image: Image) -> Vec<u8> {
    let table = image.here();
    for (place, address) in std::mem::take(&mut image.relocations) {
        [place, 8, address].into_iter().for_each(|word| image.u64(word));
    }
    let (dynamic, size) = (image.here(), image.here() - table);
    [7, table, 8, size, 0, 0].into_iter().for_each(|word| image.u64(word));
    let length = u64::try_from(image.bytes.len()).unwrap();
    let offset = |address: u64| address - DATA + 0x200;
    image.bytes[..8].copy_from_slice(b"\x7fELF\x02\x01\x01\0");
    image.put(16, if image.is_moved { 3 } else { 2 } | 62 << 16 | 1 << 32);
    image.put(32, 64);
    image.put(52, 64 | 56 << 16 | 3 << 32 | 64 << 48);
    image.segment(64, 1, 5, [0, 0x40_0000, 0x180]);
    image.segment(120, 1, 6, [0x200, DATA, length - 0x200]);
    image.segment(176, 2, 6, [offset(dynamic), dynamic, 48]);
    image.bytes
}

const ALL: [(Era, bool); 6] = [
    (Era::Go116, false),
    (Era::Go118, false),
    (Era::Go120, false),
    (Era::Go116, true),
    (Era::Go118, true),
    (Era::Go120, true),
];

fn lines(frames: &[Frame]) -> Vec<String> {
    let line = |frame: &Frame| {
        let at = frame.source.as_ref().map_or("?".to_owned(), |at| format!("{}:{}", at.file, at.line));
        let marks = [(frame.inlined, " inlined"), (frame.wrapper, " wrapper")];
        let marks: String = marks.into_iter().filter(|(is, _)| *is).map(|(_, mark)| mark).collect();
        format!("{} {at}{marks}", frame.function)
    };
    frames.iter().map(line).collect()
}

#[track_caller]
fn check(bytes: &[u8], pc: u64, expected: &[&str]) {
    let mut symbols = GoSymbols::open(bytes).unwrap();
    assert_eq!(lines(&symbols.frames(Pc::Sampled(CODE + pc)).unwrap()), expected);
    assert_eq!(lines(&symbols.frames(Pc::Return(CODE + pc + 1)).unwrap()), expected);
}

/// Asks everything that can be asked, and says nothing of what comes back but that it is bounded.
fn ask(bytes: &[u8]) -> Option<Vec<Result<Vec<Frame>, GoError>>> {
    let mut symbols = GoSymbols::open(bytes).ok()?;
    let answers = (CODE..CODE + 0x80).step_by(3).map(|pc| {
        drop((symbols.function(Pc::Sampled(pc)), symbols.frame_layout(Pc::Return(pc))));
        let frames = symbols.frames(Pc::Sampled(pc));
        assert!(frames.iter().all(|frames| frames.len() <= INLINED_MAX + 1));
        frames
    });
    Some(answers.collect())
}

#[test]
fn each_layout_gives_the_same_answers() {
    for (era, is_moved) in ALL {
        let bytes = made(era, is_moved);
        check(&bytes, 0, &["main.outer main.go:10"]);
        // The last byte of a line: a call there returns to the next one.
        check(&bytes, 0x0f, &["main.outer main.go:10"]);
        check(&bytes, 0x18, &["main.inner main.go:20 inlined", "main.outer main.go:10"]);
        check(&bytes, 0x20, &["main.outer main.go:11"]);
        check(&bytes, 0x3d, &["main.outer ?"]);
        check(&bytes, 0x41, &["runtime.goexit ?"]);
        check(&bytes, 0x61, &["main.(*T).wrap ? wrapper"]);
        check(&bytes, 0x70, &[]);
        let mut symbols = GoSymbols::open(&bytes[..]).unwrap();
        let layouts =
            [0, 3, 4, 0x3c, 0x40].map(|at| symbols.frame_layout(Pc::Sampled(CODE + at)).unwrap().unwrap());
        assert_eq!(layouts.map(|layout| layout.sp_delta), [Some(0), Some(0), Some(16), None, None]);
        let [.., outer, goexit] = layouts;
        assert_eq!((outer.start, outer.role), (CODE, Role::Plain));
        assert_eq!((goexit.start, goexit.role), (CODE + 0x40, Role::Goexit));
        assert_eq!(symbols.frame_layout(Pc::Sampled(CODE - 1)).unwrap(), None);
        let goexit = symbols.function(Pc::Sampled(CODE + 0x40)).unwrap().unwrap();
        assert_eq!((goexit.role, goexit.start, goexit.end), (Role::Goexit, CODE + 0x40, CODE + 0x60));
        assert!(goexit.is_top && goexit.is_assembly && !goexit.switches_stack);
        let outer = symbols.frames(Pc::Sampled(CODE + 0x18)).unwrap();
        let starts: Vec<_> = outer.iter().map(|frame| frame.start_line).collect();
        assert_eq!(starts, if era == Era::Go120 { [Some(19), Some(9)] } else { [None, None] });
        assert_eq!(symbols.function(Pc::Sampled(CODE - 1)).unwrap(), None);
    }
}

/// Where a piece stands in a file, once.
fn place(bytes: &[u8], piece: &[u8]) -> usize {
    let mut places = bytes.windows(piece.len()).enumerate().filter(|(_, here)| *here == piece);
    let (at, _) = places.next().unwrap();
    assert!(places.next().is_none());
    at
}

#[test]
fn an_inlined_call_that_is_its_own_caller_ends_the_chain() {
    let mut bytes = made(Era::Go120, false);
    let tree = place(&bytes, &[0, 0, 0, 0, 11, 0, 0, 0, 8, 0, 0, 0]);
    bytes[tree + 8] = 0x10;
    check(&bytes, 0x18, &["main.inner main.go:20 inlined", "main.outer ?"]);
}

#[test]
fn without_the_module_an_inlined_call_has_no_line() {
    let spoil = |mut bytes: Vec<u8>| {
        let module = bytes.windows(8).rposition(|word| word == DATA.to_le_bytes()).unwrap();
        bytes[module] ^= 0xff;
        bytes
    };
    let bytes = spoil(made(Era::Go118, false));
    check(&bytes, 0x18, &["main.outer ?"]);
    check(&bytes, 0x08, &["main.outer main.go:10"]);
    // Go 1.26 writes nowhere else where the code begins.
    let bytes = spoil(made(Era::Go120, false));
    assert_eq!(GoSymbols::open(&bytes[..]).unwrap_err(), GoError::NoText);
}

#[test]
fn parts_that_disagree_are_an_error() {
    let open = |bytes: &[u8]| GoSymbols::open(bytes).map(|_| ()).unwrap_err();
    let good = made(Era::Go120, false);
    // A record that says that it is another function's; a record beyond the end; functions that are not in order.
    let index = place(&good, &[0x40, 0, 0, 0, 112, 0, 0, 0]);
    for (at, value) in [(index, 0x41), (index + 6, 1), (index, 0x71)] {
        let mut bytes = good.clone();
        bytes[at] = value;
        assert!(matches!(open(&bytes), GoError::Damaged(_)), "{at:#x}");
    }
    // More functions than the file has room for.
    let mut bytes = good.clone();
    bytes[DATA_AT + 10] = 0x0f;
    assert_eq!(open(&bytes), GoError::Damaged("the index of functions is"));
    // A name that begins in another one's middle.
    let mut bytes = good;
    let record = place(&bytes, &[0x40, 0, 0, 0, 22, 0, 0, 0]);
    bytes[record + 4] = 23;
    let error = GoSymbols::open(&bytes[..]).unwrap().frames(Pc::Sampled(CODE + 0x40)).unwrap_err();
    assert_eq!(error, GoError::Damaged("a list of names is"));
}

#[test]
fn a_table_without_end_is_an_error() {
    let mut bytes = made(Era::Go120, false);
    // From the second value on: as much more as you like, for no instruction.
    let table = place(&bytes, &[2, 4, 32, 0x38]);
    bytes[table + 2..table + 14].fill(0x80);
    let layout = GoSymbols::open(&bytes[..]).unwrap().frame_layout(Pc::Sampled(CODE + 8));
    assert_eq!(layout, Err(GoError::Damaged("a table of values is")));
}

#[test]
fn no_beginning_of_a_file_and_no_wrong_byte_in_it_does_harm() {
    for (era, is_moved) in ALL {
        let good = made(era, is_moved);
        let expected = ask(&good).unwrap();
        for length in 0..good.len() {
            let answers = ask(&good[..length]).unwrap_or_default();
            assert!(answers.iter().zip(&expected).all(|(now, then)| now == then || now.is_err()), "{length}");
        }
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= [0x01, 0x80, 0x10, 0xff][at % 4];
            drop(ask(&bytes));
        }
    }
}
