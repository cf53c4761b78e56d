//! A program that waits in every way there is, and says for how long.

use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::process::{ChildStdin, ChildStdout, Command, Stdio};
use std::sync::OnceLock;
use std::{fs, ops};

use crate::program::{Program, built};

/// It waits in the way its argument says, so many times, once it has read a byte, in a function of its own. Calls into
/// libc have no frame and hide their caller, so that one has a caller of its own. It first prints where the two begin and
/// end, which is where main begins, and after each wait how long it took by its own clock, less the time that it ran.
const SLEEPER: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
static long at(int clock) {
    struct timespec t;
    clock_gettime(clock, &t);
    return t.tv_sec * 1000000000L + t.tv_nsec;
}
static const struct timespec nap = {0, 20 * 1000000L};
static int ends[2], file;
static char *block;
static const char *path;
static void *writer(void *unused) {
    for (;;) {
        nanosleep(&nap, 0);
        if (write(ends[1], "x", 1) != 1) return 0;
    }
}
static volatile unsigned long sink;
static void *rival(void *unused) { for (;;) sink++; }
__attribute__((noinline)) void waits(const char *way) {
    static unsigned word;
    char byte;
    if (!strcmp(way, "nanosleep")) nanosleep(&nap, 0);
    else if (!strcmp(way, "futex")) syscall(SYS_futex, &word, FUTEX_WAIT_PRIVATE, 0, &nap, 0, 0);
    else if (!strcmp(way, "pipe")) { if (read(ends[0], &byte, 1) != 1) abort(); }
    else if (!strcmp(way, "vfork")) { if (!vfork()) { nanosleep(&nap, 0); _exit(0); } }
    else if (!strcmp(way, "fsync")) { if (write(file, block, 1 << 20) < 0 || fsync(file)) abort(); }
    else if (!strcmp(way, "direct")) { if (pread(file, block, 16 << 20, 0) <= 0) abort(); }
    else { long end = at(CLOCK_THREAD_CPUTIME_ID) + 20000000; while (at(CLOCK_THREAD_CPUTIME_ID) < end) for (int i = 0; i < 1000000; i++) sink++; }
    sink++;
}
__attribute__((noinline)) void around(const char *way) { waits(way); sink++; }
int main(int argc, char **argv) {
    const char *way = argv[1];
    pthread_t other;
    path = argv[3];
    if (posix_memalign((void **)&block, 4096, 16 << 20)) abort();
    memset(block, 'x', 16 << 20);
    if (!strcmp(way, "pipe") && pipe(ends)) abort();
    if (!strcmp(way, "fsync")) file = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
    if (!strcmp(way, "direct")) {
        file = open(path, O_CREAT | O_RDWR | O_TRUNC, 0600);
        if (write(file, block, 16 << 20) != 16 << 20 || fsync(file)) abort();
        close(file);
        if ((file = open(path, O_RDONLY | O_DIRECT)) < 0) { printf("no direct reads here\n"); return 1; }
    }
    if (!strcmp(way, "rival")) {
        cpu_set_t set;
        CPU_ZERO(&set);
        CPU_SET(sched_getcpu(), &set);
        sched_setaffinity(0, sizeof set, &set);
    }
    printf("%p %p\n", (void *)waits, (void *)main);
    fflush(stdout);
    if (getchar() == EOF) return 1;
    if (!strcmp(way, "pipe")) pthread_create(&other, 0, writer, 0);
    if (!strcmp(way, "rival")) pthread_create(&other, 0, rival, 0);
    for (int n = atoi(argv[2]); n > 0; n--) {
        long cpu = at(CLOCK_THREAD_CPUTIME_ID), began = at(CLOCK_MONOTONIC);
        around(way);
        began = at(CLOCK_MONOTONIC) - began;
        printf("%ld\n", began - (at(CLOCK_THREAD_CPUTIME_ID) - cpu));
    }
    fflush(stdout);
    return 0;
}
"#;

/// The program above, built once.
fn sleeper() -> &'static PathBuf {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| built("sleeper", SLEEPER))
}

/// One that is about to begin.
pub(crate) struct Sleeper {
    pub(crate) program: Program,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    /// Where the function is in which it waits.
    pub(crate) waits: ops::Range<u64>,
    file: PathBuf,
}

impl Sleeper {
    pub(crate) fn new(way: &str, times: usize) -> Sleeper {
        // A file system in memory has no device to wait for: the build's folder is on a disk.
        let file =
            Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("sleeper-{}-{way}", std::process::id()));
        let mut command = Command::new(sleeper());
        command.args([way, &times.to_string()]).arg(&file).stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut program = Program(command.spawn().unwrap());
        let mut output = BufReader::new(program.0.stdout.take().unwrap());
        let mut line = String::new();
        output.read_line(&mut line).unwrap();
        let address = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).unwrap();
        let (begin, end) = line.trim().split_once(' ').unwrap_or_else(|| panic!("{way}: {line}"));
        let waits = address(begin)..address(end);
        Sleeper { input: program.0.stdin.take().unwrap(), program, output, waits, file }
    }

    /// Lets it wait; how long each time was without the CPU, as it saw it.
    pub(crate) fn run(&mut self) -> Vec<u64> {
        self.input.write_all(b"g").unwrap();
        let lines = self.output.by_ref().lines();
        lines.map(|line| line.unwrap().parse().unwrap()).collect()
    }
}

impl Drop for Sleeper {
    fn drop(&mut self) {
        drop(fs::remove_file(&self.file));
    }
}
