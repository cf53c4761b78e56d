//! Each language and way of linking: how many of the samples have every call in them.

use std::path::Path;
use std::process::Command;

use profile::dwarf::Walk;

use crate::program::{Names, Program, Taken, compile, folder, is_right, sample, sample_deep, score};
use crate::sources::{C, CPP, PLUGIN, RUST, Source};

/// Samples the program and asks for nearly all of its stacks to be right, whatever the kernel's walk makes of them.
fn check(source: &Source, how: &str, path: &Path) {
    let program = Program::run(path);
    let run = sample_deep(program.pid());
    let (tables, kernel, ends) = score(source, &run);
    println!(
        "{} {how}: {} samples; every call: by tables {:.2} %, by frame pointers {:.2} %; to the end {:.2} %; {:?}; {:?}",
        source.name,
        tables.of,
        100.0 * tables.share(),
        100.0 * kernel.share(),
        100.0 * ends.share(),
        run.counts,
        run.work,
    );
    assert!(tables.share() >= 0.98 && ends.share() >= 0.98, "{} {how}", source.name);
    assert!(tables.right > kernel.right);
}

const FLAGS: &[&str] = &["-O2", "-fomit-frame-pointer"];

fn c(how: &str, more: &[&str]) {
    let name = format!("c-{how}");
    let path = compile("gcc", C.text, (&format!("{name}.c"), &name), &[FLAGS, more].concat());
    check(&C, how, &path);
}

#[test]
fn c_with_a_library_that_is_opened_late() {
    let plugin = compile("gcc", PLUGIN, ("plugin.c", "plugin.so"), &[FLAGS, &["-shared", "-fPIC"]].concat());
    let plugin = format!("-DPLUGIN=\"{}\"", plugin.display());
    c("pie", &["-fPIE", "-pie", &plugin]);
}

#[test]
fn c_at_a_fixed_address() {
    c("fixed", &["-fno-pie", "-no-pie"]);
}

#[test]
fn c_linked_statically() {
    c("static", &["-static"]);
}

#[test]
fn c_without_the_index_of_its_table() {
    c("without-index", &["-static", "-Wl,--no-eh-frame-hdr"]);
}

#[test]
fn c_with_a_table_for_debuggers_alone() {
    c("debug-frame", &["-fno-asynchronous-unwind-tables", "-fno-unwind-tables", "-g"]);
}

#[test]
fn c_stripped_of_everything() {
    let name = "c-named";
    let path = compile("gcc", C.text, ("c-named.c", name), &[FLAGS, &["-fno-pie", "-no-pie"]].concat());
    // The same program twice: one runs, the other has the names.
    let stripped = folder().join("c-stripped");
    let status = Command::new("strip").arg("-o").arg(&stripped).arg(&path).status();
    assert!(status.expect("install binutils: strip").success());
    let program = Program::run(&stripped);
    let mut run = sample_deep(program.pid());
    for taken in &mut run.taken {
        for frame in taken.by_tables.iter_mut().chain(&mut taken.by_kernel) {
            if frame.0 == stripped {
                frame.0.clone_from(&path);
            }
        }
    }
    let (tables, kernel, _) = score(&C, &run);
    println!(
        "c stripped: by tables {:.2} %, by frame pointers {:.2} %",
        100.0 * tables.share(),
        100.0 * kernel.share()
    );
    assert!(tables.share() >= 0.98);
}

#[test]
fn cpp_with_exceptions_and_inlined_calls() {
    let path = compile("c++", CPP.text, ("cpp.cc", "cpp"), FLAGS);
    check(&CPP, "pie", &path);
    let path = compile("c++", CPP.text, ("cpp-static.cc", "cpp-static"), &[FLAGS, &["-static"]].concat());
    check(&CPP, "static", &path);
}

#[test]
fn rust_as_it_is_released() {
    let path = compile(
        "rustc",
        RUST.text,
        ("rust.rs", "rust"),
        &["-O", "--edition", "2021", "-Cforce-frame-pointers=no"],
    );
    check(&RUST, "pie", &path);
}

/// The scale is the same for both: where frame pointers are kept the kernel's walk finds most of the calls, all but the
/// direct callers of libraries.
#[test]
fn c_with_frame_pointers_shows_what_the_kernel_can_do() {
    // With any optimisation gcc leaves them out of leaves, whatever it is told.
    let path = compile("gcc", C.text, ("c-kept.c", "c-kept"), &["-O0", "-fno-omit-frame-pointer"]);
    let program = Program::run(&path);
    let (tables, kernel, _) = score(&C, &sample_deep(program.pid()));
    println!(
        "c kept: by tables {:.2} %, by frame pointers {:.2} %",
        100.0 * tables.share(),
        100.0 * kernel.share()
    );
    assert!(tables.share() >= 0.98 && kernel.share() > 0.2);
    // Forty frames of a recursion do not fit into the small copy: from there on it is the kernel's walk, through functions
    // that are known to keep a record, up to the C library, which keeps none.
    let run = sample(program.pid(), None, 1500);
    let mut names = Names::default();
    let mut named = |taken: &Taken| -> Vec<String> {
        taken.by_tables.iter().filter_map(|frame| names.name(frame)).collect()
    };
    let stacks: Vec<Vec<String>> = run.taken.iter().map(&mut named).collect();
    let deep: Vec<_> = stacks.iter().filter(|stack| stack.iter().any(|name| name == "bottom")).collect();
    let recursions = |stack: &[String]| stack.iter().filter(|name| *name == "recurse").count();
    let whole = deep.iter().filter(|stack| recursions(stack) == 41 && stack.contains(&"main".to_owned()));
    let whole = whole.count();
    println!("c kept, small copy: {whole} of {} recursions are whole; {:?}", deep.len(), run.counts);
    assert!(deep.len() > 50 && whole * 100 >= deep.len() * 98);
}

/// With 512 bytes nothing is invented: what is there is right, and what is not there is known to be missing.
#[test]
fn a_small_copy_gives_the_leaf_part_and_says_so() {
    let path = compile("gcc", C.text, ("c-small.c", "c-small"), FLAGS);
    let program = Program::run(&path);
    let run = sample(program.pid(), None, 2500);
    let mut names = Names::default();
    let parts = run.taken.iter().filter(|taken| {
        let is_whole = taken.walk != Walk::CutShort;
        is_right(&C, &mut names, &taken.by_tables, is_whole)
    });
    let (parts, of) = (parts.count(), run.taken.len());
    println!("{parts} of {of} have nothing wrong in them: {:?}", run.counts);
    assert!(parts * 100 >= of * 98);
    assert!(run.counts.truncated > 0 && run.counts.truncated <= run.counts.cut_short);
    let deep = run.taken.iter().filter(|taken| taken.is_truncated);
    assert!(deep.clone().all(|taken| taken.walk == Walk::CutShort) && deep.count() > 0);
}
