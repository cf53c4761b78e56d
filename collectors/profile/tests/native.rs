//! Names of native code, held against what binutils say of the same files: programs of C, C++ and Rust that are built
//! here, in each way that debug information is written, packed, split off and stripped.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "clippy sees only #[test] functions as tests, not what they share; what was counted is told"
)]

mod native {
    pub(crate) mod binutils;
    pub(crate) mod programs;
}

use std::{
    collections::BTreeMap,
    fs,
    path::Path,
    time::{Duration, Instant},
};

use native::{
    binutils::{self, Told},
    programs::{self, assemble, build, folder, run},
};
use profile::symbols::{
    gopclntab::{Frame, Pc},
    native::{self as symbols, NativeSymbols, Refusal},
};

/// Disagreements that are shown.
const SHOWN: usize = 12;

#[derive(Debug, Default)]
struct Tally {
    asked: usize,
    /// All functions, files and lines are the same.
    whole: usize,
    /// The function that has the code is.
    function: usize,
    /// The innermost file and line are.
    line: usize,
    frames: usize,
    inlined: usize,
    different: Vec<String>,
}

impl Tally {
    fn hear(&mut self, address: u64, ours: &[Frame], theirs: &[Told]) {
        let mut told: Vec<Told> = ours.iter().map(Told::of).collect();
        binutils::forgive(&mut told, theirs);
        self.asked += 1;
        self.frames += ours.len();
        self.inlined += ours.iter().filter(|frame| frame.inlined).count();
        self.whole += usize::from(told == theirs);
        self.function += usize::from(told.last().map(|f| &f.function) == theirs.last().map(|f| &f.function));
        self.line += usize::from(told.first().map(|f| &f.place) == theirs.first().map(|f| &f.place));
        if told != theirs {
            self.different.push(format!("{address:#x}\n  ours   {told:?}\n  theirs {theirs:?}"));
        }
    }

    /// Says the figures. Of a thousand at least 980 must agree in the function and in the line, and so many in all.
    fn report(&self, name: &str, per_mille: usize) {
        let Tally { asked, whole, function, line, frames, inlined, different } = self;
        println!(
            "{name}: {asked} addresses, {frames} frames, {inlined} inlined; the same: function {function}, line {line}, \
             whole chain {whole}"
        );
        let shown: Vec<_> =
            different.iter().step_by((different.len() / SHOWN).max(1)).take(SHOWN).cloned().collect();
        println!("{}", shown.join("\n"));
        assert!(*asked > 100, "{name}: too few addresses");
        for (what, same, least) in
            [("function", function, 980), ("line", line, 980), ("chain", whole, per_mille)]
        {
            assert!(same * 1_000 >= asked * least, "{name}: {what}: {same} of {asked}");
        }
    }
}

/// Asks about an address every few bytes of each function that the linker knows a size of.
fn addresses(program: &Path, step: u64) -> Vec<u64> {
    let functions = binutils::functions(program);
    let all = functions
        .iter()
        .flat_map(|(start, (size, _))| (*start..start + size).step_by(usize::try_from(step).unwrap()));
    all.collect()
}

fn check(name: &str, program: &Path, asked: &[u64], per_mille: usize) -> Tally {
    let mut ours = symbols::open(program).unwrap();
    let tally = compare(&mut ours, program, asked);
    tally.report(name, per_mille);
    assert_eq!(ours.shortfalls(), symbols::Shortfalls::default(), "{name}");
    tally
}

fn compare(ours: &mut NativeSymbols<fs::File>, oracle: &Path, asked: &[u64]) -> Tally {
    let mut tally = Tally::default();
    for (address, theirs) in binutils::lines(oracle, asked) {
        let frames = ours.frames(Pc::Sampled(address)).unwrap();
        assert_eq!(frames, ours.frames(Pc::Return(address + 1)).unwrap());
        assert!(frames.iter().rev().skip(1).all(|frame| frame.inlined), "{frames:?}");
        assert!(frames.last().is_none_or(|frame| !frame.inlined), "{frames:?}");
        tally.hear(address, &frames, &theirs);
    }
    tally
}

#[test]
fn each_way_of_writing_debug_information_gives_the_same_answers() {
    let ways: [(&str, &[&str]); 6] = [
        ("dwarf5", &["-g"]),
        ("dwarf4", &["-gdwarf-4"]),
        ("fixed", &["-g", "-no-pie", "-fno-pie"]),
        ("zlib", &["-g", "-gz=zlib"]),
        ("sections", &["-g", "-ffunction-sections", "-Wl,--gc-sections"]),
        ("lto", &["-g", "-flto"]),
    ];
    for (name, flags) in ways {
        let program = build("gcc", name, &["program.c", "assembly.S"], flags);
        let tally = check(&format!("C {name}"), &program, &addresses(&program, 1), 990);
        assert!(tally.inlined * 10 > tally.asked, "{name}: inlined calls were hardly looked at: {tally:?}");
    }
}

#[test]
fn cpp_is_named_as_binutils_name_it() {
    for (name, flags) in
        [("dwarf5", ["-g", "-O2"]), ("dwarf4", ["-gdwarf-4", "-O2"]), ("zlib", ["-g", "-gz=zlib"])]
    {
        let program = build("g++", &format!("cpp-{name}"), &["program.cc"], &flags);
        // Our demangler knows no `sr` with a scope.
        check(&format!("C++ {name}"), &program, &addresses(&program, 3), 870);
    }
}

#[test]
fn rust_is_named_as_binutils_name_it() {
    // With line tables alone functions have their names without scopes.
    for (name, flags, least) in [("full", "debuginfo=2", 990), ("tables", "debuginfo=line-tables-only", 950)]
    {
        let program = programs::rust(name, flags);
        check(&format!("Rust {name}"), &program, &addresses(&program, 31), least);
    }
}

#[test]
fn a_static_program_has_the_names_of_its_library() {
    let program = build("gcc", "static", &["program.c", "assembly.S"], &["-g", "-static"]);
    let functions = binutils::functions(&program);
    assert!(functions.len() > 500, "{}", functions.len());
    symbols_agree("static", &program, &functions);
}

/// Every function of the symbol table, at its first and its last byte.
fn symbols_agree(name: &str, program: &Path, functions: &BTreeMap<u64, (u64, Vec<String>)>) {
    let mut ours = symbols::open(program).unwrap();
    let (mut agree, mut different) = (0, Vec::new());
    for (start, (size, names)) in functions {
        for at in [*start, start + size - 1] {
            let symbol = ours.symbol(Pc::Sampled(at)).unwrap();
            match symbol {
                Some(symbol) if names.contains(&symbol.name) => agree += 1,
                other => different.push(format!("{at:#x}: {other:?}, not {names:?}")),
            }
        }
    }
    println!("{name}: {agree} of {} ends of functions are named as nm names them", functions.len() * 2);
    different.truncate(SHOWN);
    assert!(agree * 1_000 >= functions.len() * 2 * 995, "{name}: {different:#?}");
}

#[test]
fn each_symbol_is_where_nm_says() {
    let c = build("gcc", "symbols", &["program.c", "assembly.S"], &[]);
    symbols_agree("C", &c, &binutils::functions(&c));
    let rust = programs::rust("symbols", "debuginfo=0");
    symbols_agree("Rust", &rust, &binutils::functions(&rust));
}

#[test]
fn a_symbol_without_a_size_reaches_as_far_as_is_certain() {
    let program = build("gcc", "sizeless", &["program.c", "assembly.S"], &[]);
    let marks = binutils::marks(&program);
    let mut ours = symbols::open(&program).unwrap();
    let mut name =
        |at: u64| ours.frames(Pc::Sampled(at)).unwrap().into_iter().next().map(|frame| frame.function);
    let (sized, sizeless, untyped) = (marks["sized"], marks["sizeless"], marks["untyped"]);
    assert_eq!(name(sized).as_deref(), Some("sized"));
    // Behind its end are bytes that are nobody's.
    assert_eq!(name(sized + 8), None);
    assert_eq!(name(sizeless - 1), None);
    assert_eq!(name(sizeless).as_deref(), Some("sizeless"));
    assert_eq!(name(sizeless + 2).as_deref(), Some("sizeless"));
    assert_eq!(name(marks["mark_within"]).as_deref(), Some("mark_within"));
    assert_eq!(name(marks["mark_within"] + 1), None);
    assert_eq!(name(untyped).as_deref(), Some("untyped"));
    assert_eq!(name(untyped + 1), None);
}

#[test]
fn split_debug_information_is_found_by_its_build_id_and_by_its_link() {
    let root = folder("split-root");
    let program = build("gcc", "split", &["program.c", "assembly.S"], &["-g", "-Wl,--build-id"]);
    let asked = addresses(&program, 5);
    let expected: Vec<Vec<Frame>> = answers(&mut symbols::open(&program).unwrap(), &asked);
    let id = binutils::build_id(&program);
    let bin = root.join("opt/bin");
    fs::create_dir_all(&bin).unwrap();
    let stripped = bin.join("split");
    let debug = root.join("split.debug");
    run("objcopy", &["--only-keep-debug".as_ref(), program.as_os_str(), debug.as_os_str()]);
    let link = format!("--add-gnu-debuglink={}", debug.display());
    run("objcopy", &["--strip-all".as_ref(), link.as_ref(), program.as_os_str(), stripped.as_os_str()]);

    let ids = root.join("usr/lib/debug/.build-id").join(&id[..2]);
    let places = [
        ids.join(format!("{}.debug", &id[2..])),
        bin.join("split.debug"),
        bin.join(".debug/split.debug"),
        root.join("usr/lib/debug/opt/bin/split.debug"),
    ];
    for place in places {
        fs::create_dir_all(place.parent().unwrap()).unwrap();
        let mut ours = symbols::open(&stripped).unwrap();
        assert_eq!(ours.find_separate(&root, Path::new("/opt/bin/split")).unwrap(), None);
        fs::copy(&debug, &place).unwrap();
        assert_eq!(ours.find_separate(&root, Path::new("/opt/bin/split")).unwrap().as_ref(), Some(&place));
        assert!(answers(&mut ours, &asked) == expected, "{}", place.display());
        fs::remove_file(&place).unwrap();
    }
    let bare = answers(&mut symbols::open(&stripped).unwrap(), &asked);
    assert!(bare.iter().all(Vec::is_empty), "a stripped program has no names of its own");
}

#[test]
fn debug_information_of_another_build_is_refused() {
    let root = folder("other-root");
    for (name, flag) in [("with-id", "-Wl,--build-id"), ("without-id", "-Wl,--build-id=none")] {
        let program = build("gcc", &format!("other-{name}"), &["program.c", "assembly.S"], &["-g", flag]);
        let (debug, stripped) = (root.join("other.debug"), root.join("other"));
        run("objcopy", &["--only-keep-debug".as_ref(), program.as_os_str(), debug.as_os_str()]);
        let link = format!("--add-gnu-debuglink={}", debug.display());
        run("objcopy", &["--strip-all".as_ref(), link.as_ref(), program.as_os_str(), stripped.as_os_str()]);
        let find = || symbols::open(&stripped).unwrap().find_separate(&root, Path::new("/other")).unwrap();
        assert_eq!(find().as_ref(), Some(&debug), "{name}");
        let mut changed =
            build("gcc", &format!("changed-{name}"), &["program.c", "assembly.S"], &["-g", "-O1", flag]);
        run("objcopy", &["--only-keep-debug".as_ref(), changed.as_os_str(), debug.as_os_str()]);
        changed.pop();
        assert_eq!(find(), None, "{name}");
    }
}

fn answers(ours: &mut NativeSymbols<fs::File>, asked: &[u64]) -> Vec<Vec<Frame>> {
    asked.iter().map(|at| ours.frames(Pc::Sampled(*at)).unwrap()).collect()
}

#[test]
fn sections_packed_by_zstd_are_read_too() {
    let program = build("gcc", "plain", &["program.c", "assembly.S"], &["-g"]);
    let packed = program.with_extension("zstd");
    assemble::pack_by_zstd(&program, &packed);
    let asked = addresses(&program, 3);
    let expected = answers(&mut symbols::open(&program).unwrap(), &asked);
    let mut ours = symbols::open(&packed).unwrap();
    assert!(answers(&mut ours, &asked) == expected);
    assert!(expected.iter().flatten().any(|frame| frame.inlined && frame.source.is_some()));
}

#[test]
fn a_section_that_unpacks_to_gigabytes_is_refused() {
    let program = build("gcc", "bomb", &["program.c", "assembly.S"], &["-g"]);
    let packed = program.with_extension("bomb");
    assemble::pretend_packed(&program, &packed, 1 << 40);
    let mut ours = symbols::open(&packed).unwrap();
    let asked = addresses(&program, 3);
    let frames = answers(&mut ours, &asked);
    assert!(matches!(ours.shortfalls().debug, Some(Refusal::Unpacked(_))), "{:?}", ours.shortfalls());
    // The symbol table still names them.
    assert!(frames.iter().all(|frames| frames.len() == 1 && frames[0].source.is_none()));
}

#[test]
fn this_test_itself_is_named() {
    let program = std::env::current_exe().unwrap();
    let functions = binutils::functions(&program);
    let asked: Vec<u64> =
        functions.iter().step_by(functions.len() / 1_500 + 1).map(|(at, (size, _))| at + size / 2).collect();
    check("this test", &program, &asked, 950);
}

/// Numbers that look random and are the same each time.
fn noise(seed: &mut u64) -> u8 {
    *seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
    seed.to_le_bytes()[5]
}

#[test]
#[expect(clippy::disallowed_methods, reason = "how long it takes is what is asked")]
fn damage_to_a_real_program_costs_neither_life_nor_time() {
    let program = build("gcc", "damaged", &["program.c", "assembly.S"], &["-g"]);
    let (good, asked) = (fs::read(&program).unwrap(), addresses(&program, 29));
    let (mut seed, mut slowest, mut named, mut files) = (7, Duration::ZERO, 0, 0);
    let mut ask = |bytes: &[u8]| {
        let began = Instant::now();
        if let Ok(mut ours) = NativeSymbols::open(bytes) {
            named += asked.iter().filter_map(|at| ours.frames(Pc::Sampled(*at)).ok()).flatten().count();
        }
        files += 1;
        slowest = slowest.max(began.elapsed());
    };
    for at in (0..good.len()).step_by(64) {
        let region = at..good.len().min(at + 64);
        let mut bytes = good.clone();
        bytes[region.clone()].iter_mut().for_each(|byte| *byte ^= 0xff);
        ask(&bytes);
        bytes[region.clone()].iter_mut().for_each(|byte| *byte = noise(&mut seed));
        ask(&bytes);
        bytes[region].fill(0);
        ask(&bytes);
        ask(&good[..at]);
    }
    println!("{files} damaged files, {named} frames, the slowest took {slowest:.2?}");
    assert!(slowest < Duration::from_secs(5), "{slowest:?}");
    assert!(named > files, "hardly anything was answered");
}
