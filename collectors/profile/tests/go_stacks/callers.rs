//! A program that spends its time in one kind of leaf, below callers that are always the same.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::OnceLock;
use std::time::Duration;

use model::profile::FrameKind;
use profile::perf::attr::Hz;

use crate::etcd::{Ours, Profiler, Program};
use crate::pairs::{Level, Named, stacks};
use crate::toolchain::go;

/// At the bottom of every goroutine of `main`.
const BOTTOM: [&str; 3] = ["main.main", "runtime.main", "runtime.goexit"];

/// The program, stripped, built once in each of the two ways.
fn program(has_c: bool) -> &'static Path {
    static BUILT: [OnceLock<PathBuf>; 2] = [OnceLock::new(), OnceLock::new()];
    BUILT[usize::from(has_c)].get_or_init(|| {
        let program = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("callers-{has_c}"));
        let built = Command::new(go())
            .args(["build", "-trimpath", "-ldflags=-s -w", "-o"])
            .arg(&program)
            .current_dir(Path::new(env!("CARGO_MANIFEST_DIR")).join("testdata/callers"))
            .env("GOTOOLCHAIN", "local")
            .env("GOENV", "off")
            .env_remove("GOFLAGS")
            .env("GOWORK", "off")
            .env("CGO_ENABLED", if has_c { "1" } else { "0" })
            .status();
        assert!(built.expect("no Go: `make tools` brings one where there is none").success());
        program
    })
}

fn capture(program: &Path, way: &str) -> Ours {
    let mut child = Command::new(program).arg(way).stdout(Stdio::piped()).spawn().unwrap();
    let mut output = child.stdout.take().unwrap();
    let program = Program(child);
    output.read_exact(&mut [0]).unwrap();
    let ours = Profiler::new().capture(program.0.id(), Hz::new(1999).unwrap(), Duration::from_secs(2));
    println!("{way}: {:?}", ours.unwinding);
    ours
}

/// Of samples with this leaf, those whose whole stack is right, and one that is not.
fn right<'s>(all: &[Named<'s>], leaf: &str, expected: &[&str]) -> (u64, u64, Option<Vec<&'s str>>) {
    let (mut right, mut count, mut wrong) = (0, 0, None);
    for (stack, samples) in all.iter().filter(|(stack, _)| stack[0] == leaf) {
        count += samples;
        if stack[1..].iter().eq(expected.iter().chain(&BOTTOM)) {
            right += samples;
        } else {
            wrong = Some(stack.clone());
        }
    }
    (right, count, wrong)
}

/// Captures until there are samples enough: beside other stories a program has a fraction of a CPU, and of that a leaf may have
/// a twentieth.
const CAPTURES_MAX: usize = 6;

/// Every sample in `leaf` was called by these, and not all were seen so by frame pointers alone.
fn check(way: &str, leaf: &str, expected: &[&str]) {
    let (mut count, mut plain) = (0, 0);
    for _ in 0..CAPTURES_MAX {
        let ours = capture(program(false), way);
        let mended = stacks(&ours.mended, Level::Functions);
        let (mended, all, wrong) = right(&mended, leaf, expected);
        assert_eq!((mended, &wrong), (all, &None), "{way}");
        count += all;
        plain += right(&stacks(&ours.plain, Level::Functions), leaf, expected).0;
        if count > 100 {
            break;
        }
    }
    println!("{way}: {count} samples in {leaf}, all with the right callers, {plain} by frame pointers");
    assert!(count > 100, "{way}: {count} samples in {leaf}: too few to mean anything");
    assert!(plain < count, "{way}: nothing was to be mended");
}

#[test]
fn assembly_without_a_frame_has_its_caller() {
    check("assembly", "main.frameless", &["main.assembly"]);
}

#[test]
fn assembly_that_pushes_has_its_caller() {
    check("pushing", "main.pushes", &["main.pushing"]);
}

#[test]
fn a_go_function_without_a_frame_has_its_caller() {
    check("leaf", "main.small", &["main.leaf"]);
}

#[test]
fn a_frame_that_is_set_up_or_taken_down_has_its_caller() {
    check("edges", "main.edge", &["main.edges"]);
    check("edges", "main.tiny", &["main.edge", "main.edges"]);
}

#[test]
fn a_wrapper_is_not_shown_and_hides_nobody() {
    check("interface", "main.small", &["main.(*inner).Spend", "main.through"]);
}

/// While assembly has something else in the frame pointer, the kernel's chain is nothing. What the copied part of the stack
/// has is right; how far that reaches depends on the frames.
#[test]
fn assembly_that_uses_the_frame_pointer_has_what_the_copied_stack_has() {
    let ours = capture(program(false), "trashing");
    let mended = stacks(&ours.mended, Level::Functions);
    let whole: Vec<&str> = ["main.trashes", "main.trashing"].into_iter().chain(BOTTOM).collect();
    let mut count = 0;
    for (stack, samples) in mended.iter().filter(|(stack, _)| stack[0] == whole[0]) {
        count += samples;
        assert!(stack.len() >= 3 && whole.starts_with(stack), "{stack:?}");
    }
    assert!(count > 100, "{count} samples are too few to mean anything");
    // It is the frame pointer's loss, and said so.
    assert!(ours.unwinding.broken + ours.unwinding.bottom > 100, "{:?}", ours.unwinding);
}

/// The kernel's page, with a name there or without one.
fn is_page(name: &str) -> bool {
    name.starts_with("[vdso") || name.ends_with("clock_gettime")
}

/// `time.Now` calls the kernel's page of user code on another stack.
#[test]
fn whoever_asks_for_the_time_is_known() {
    let ours = capture(program(false), "clock");
    let callers: Vec<&str> = ["main.clock"].into_iter().chain(BOTTOM).collect();
    let (mut right, mut count) = (0, 0);
    let (mut in_page, mut page_right) = (0, 0);
    for sample in &ours.mended.samples {
        let name = |frame: &u32| {
            let frame = ours.mended.frames[usize::try_from(*frame).unwrap()];
            let name = ours.mended.functions[usize::try_from(frame.function).unwrap()].name.as_str();
            (frame.kind != FrameKind::Kernel).then_some(name)
        };
        let names: Vec<&str> = sample.frames.iter().filter_map(name).collect();
        let samples = u64::try_from(sample.count).unwrap();
        if !names.contains(&"main.main") && !names.iter().any(|name| is_page(name)) {
            continue;
        }
        count += samples;
        let is_right = names.ends_with(&callers);
        right += if is_right { samples } else { 0 };
        if is_page(names[0]) {
            in_page += samples;
            // Which function asks, differs: time.now or runtime.nanotime1.
            let asks = names.iter().position(|name| !is_page(name)).map(|at| names[at]);
            let is_known = asks
                .is_some_and(|name| ["time.now", "runtime.nanotime1", "runtime.walltime"].contains(&name));
            page_right += if is_known { samples } else { 0 };
        }
    }
    println!(
        "{right} of {count} below main.clock; {page_right} of {in_page} in the kernel's page with who called it"
    );
    // A few samples catch a thread while it changes stacks.
    assert!(in_page > 100 && right * 1_000 >= count * 990, "{right} of {count}");
    assert!(page_right * 1_000 >= in_page * 999, "{page_right} of {in_page}");
}

/// Code that is not Go's is left as the kernel walked it, and Go's around it is mended.
#[test]
fn c_within_go_is_left_alone() {
    let ours = capture(program(true), "foreign");
    let (mended, plain) = (stacks(&ours.mended, Level::Functions), stacks(&ours.plain, Level::Functions));
    let in_c = |all: &[Named<'_>]| {
        let mut stacks: Vec<(Vec<String>, u64)> = all
            .iter()
            .filter(|(stack, _)| stack[0].starts_with("[callers-true+"))
            .map(|(stack, samples)| (stack.iter().map(|&name| name.to_owned()).collect(), *samples))
            .collect();
        stacks.sort();
        stacks
    };
    let samples: u64 = in_c(&mended).iter().map(|(_, samples)| samples).sum();
    assert!(samples > 100, "{samples} samples are too few to mean anything");
    assert_eq!(in_c(&mended), in_c(&plain));
    assert_eq!((ours.unwinding.broken, ours.unwinding.not_code), (0, 0), "{:?}", ours.unwinding);
}

#[test]
fn assembly_in_a_program_with_c_in_it_has_its_caller() {
    let ours = capture(program(true), "assembly");
    let (right, count, wrong) =
        right(&stacks(&ours.mended, Level::Functions), "main.frameless", &["main.assembly"]);
    assert!(count > 100);
    assert_eq!((right, wrong), (count, None));
}

/// New goroutines have small stacks: the function that had to wait for a larger one is in the chain, or the chain ends.
#[test]
fn a_stack_that_grows_shows_nobody_who_did_not_call() {
    let ours = capture(program(false), "growing");
    let mended = stacks(&ours.mended, Level::Functions);
    let mut count = 0;
    for (stack, samples) in &mended {
        for (callee, caller) in stack.iter().zip(&stack[1..]) {
            let is_right = match *callee {
                "main.small" => *caller == "main.deep",
                "main.deep" => ["main.deep", "main.growing.func1"].contains(caller),
                _ => true,
            };
            assert!(is_right, "{callee} <- {caller} in {stack:?}");
            count += samples;
        }
    }
    assert!(count > 100, "{count} samples are too few to mean anything");
}
