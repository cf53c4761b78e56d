//! Code that has no table: compiled at run time, or by Go. There the frame pointers are all there is, and enough.

use std::path::Path;
use std::process::Command;

use profile::dwarf::Walk;

use crate::program::{Program, compile, folder, sample, sample_deep, score};
use crate::sources::Source;

/// Machine code in memory, with a frame pointer: it calls what it is given, and returns.
#[cfg(target_arch = "x86_64")]
const JIT: Source = Source {
    name: "jit",
    text: r#"
#define _GNU_SOURCE
#include <string.h>
#include <sys/mman.h>
#define F __attribute__((noipa))
volatile unsigned long sink;
F void spin(void) { for (long i = 0; i < 200000; i++) sink += i; }
F void inner(void) { spin(); sink++; }
static void (*made)(void (*)(void));
F void caller(void) { made(inner); sink++; }
F void outer(void) { caller(); sink++; }
int main(void) {
    static const char code[] = "\x55\x48\x89\xe5\xff\xd7\x5d\xc3";
    void *page = mmap(0, 4096, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    memcpy(page, code, sizeof code);
    *(void **)&made = page;
    for (;;) outer();
}
"#,
    chains: &[&["spin", "inner", "caller", "outer", "main"]],
    callers: &["caller"],
};

#[cfg(target_arch = "x86_64")]
#[test]
fn compiled_at_run_time_in_the_middle_of_a_stack() {
    let path = compile("gcc", JIT.text, ("jit.c", "jit"), &["-O2", "-fomit-frame-pointer"]);
    let program = Program::run(&path);
    let run = sample_deep(program.pid());
    let (tables, kernel, ends) = score(&JIT, &run);
    println!(
        "jit: by tables {:.4}, by frame pointers {:.4}: {:?}",
        tables.share(),
        kernel.share(),
        run.counts
    );
    assert!(tables.share() >= 0.98 && ends.share() >= 0.98);
    let mixed = run.taken.iter().filter(|taken| taken.walk == Walk::Mixed).count();
    assert!(mixed * 100 >= run.taken.len() * 98, "each of them has passed through it");
    // A copy in which the frame of `caller` does not fit would be needed to miss it, and no frame here is so big.
    let run = sample(program.pid(), None, 500);
    assert!(score(&JIT, &run).0.share() >= 0.98);
}

const GO: &str = r#"
package main

import "strings"

var sink int

//go:noinline
func inner(n int) int { t := 0; for i := 0; i < n; i++ { t += i ^ sink }; return t }

//go:noinline
func outer(n int) int { return inner(n) + strings.Count(strings.Repeat("ab", n/100), "a") }

func main() {
	for { sink += outer(10000) }
}
"#;

/// Go keeps frame pointers everywhere but in its leaves, and that is for others to repair: nothing is changed.
#[test]
fn go_is_left_as_the_kernel_walked_it() {
    let (source, program) = (folder().join("spin.go"), folder().join("go-spin"));
    std::fs::write(&source, GO).unwrap();
    let built = Command::new(crate::toolchain::go())
        .args(["build", "-o"])
        .arg(&program)
        .arg(&source)
        .env("CGO_ENABLED", "0")
        .status();
    assert!(built.expect("install Go").success());
    let running = Program::run(&program);
    let run = sample(running.pid(), None, 1500);
    let is_go =
        |frame: Option<&(std::path::PathBuf, u64)>| frame.is_some_and(|frame| frame.0 == Path::new(&program));
    let ours: Vec<_> = run.taken.iter().filter(|taken| is_go(taken.by_kernel.first())).collect();
    let same = ours.iter().filter(|taken| taken.by_tables == taken.by_kernel).count();
    println!("go: {same} of {} as they were; {:?}; {:?}", ours.len(), run.counts, run.work);
    assert!(same * 1000 >= ours.len() * 998 && ours.len() * 100 > run.taken.len() * 95);
}
