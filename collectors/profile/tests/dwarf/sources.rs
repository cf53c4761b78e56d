//! Programs of which all calls are known: a flat table of sources, each with the chains that its samples may show.

/// One program.
#[derive(Debug)]
pub(crate) struct Source {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
    /// Functions from the leaf to the root. A sample shows one of these, or its end.
    pub(crate) chains: &'static [&'static [&'static str]],
    /// Functions that call into libraries or code without a name: they may be the first of ours without being the leaf.
    pub(crate) callers: &'static [&'static str],
}

/// Everything that C does to a stack: leaves, recursion, alloca, alignment, callbacks, signals, libraries opened late.
pub(crate) const C: Source = Source {
    name: "c",
    text: r#"
#define _GNU_SOURCE
#include <alloca.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef PLUGIN
#include <dlfcn.h>
#endif
#define F __attribute__((noipa))
volatile unsigned long sink;
F void spin(long n) { for (long i = 0; i < n; i++) sink += i; }
F long frameless(long n) { long a = 1; for (long i = 0; i < n; i++) a = a * 31 + i; return a; }
F void inner(long n) { sink += frameless(n); spin(n); sink++; }
F void middle(long n) { inner(n); sink++; }
F void outer(long n) { middle(n); sink++; }
F void bottom(void) { spin(200000); sink++; }
F void recurse(int n) { char room[16]; room[n & 15] = n; if (n) recurse(n - 1); else bottom(); sink += room[n & 15]; }
F void start_recursion(void) { recurse(40); sink++; }
F void with_alloca(long n) { char *room = alloca(n); memset(room, 1, n); spin(200000); sink += room[n / 2]; }
F void call_alloca(void) { with_alloca(512 + (sink & 63)); sink++; }
F void aligned(void) { __attribute__((aligned(64))) volatile char room[256]; room[3] = 1; spin(200000); sink += room[3]; }
F void call_aligned(void) { aligned(); sink++; }
F int compare(const void *a, const void *b) { spin(20); return *(const int *)a - *(const int *)b; }
static int numbers[4096];
F void sorter(void) { for (int i = 0; i < 4096; i++) numbers[i] = (i * 7919) & 4095; qsort(numbers, 4096, sizeof(int), compare); sink++; }
static char from[1 << 18], to[1 << 18];
F void copier(void) { for (int i = 0; i < 40; i++) { memcpy(to, from, sizeof to); sink += to[i]; } }
F void allocator(void) { for (int i = 0; i < 4000; i++) { void *p = malloc(16 + (i & 1023)); sink += (unsigned long)p; free(p); } }
F void printer(void) { char text[64]; for (int i = 0; i < 400; i++) sink += snprintf(text, sizeof text, "%f %d", i * 1.5, i); }
F void handler(int number) { spin(200000); sink += number; }
F void signaller(void) { kill(getpid(), SIGUSR1); sink++; }
#ifdef PLUGIN
static void (*plug)(void (*)(long), long);
F void call_plugin(void) { plug(spin, 200000); sink++; }
#endif
int main(void) {
    signal(SIGUSR1, handler);
#ifdef PLUGIN
    void *library = dlopen(PLUGIN, RTLD_NOW);
    if (!library) return 1;
    *(void **)&plug = dlsym(library, "plug_outer");
#endif
    for (;;) {
        outer(100000); start_recursion(); call_alloca(); call_aligned(); sorter(); copier(); allocator(); printer(); signaller();
#ifdef PLUGIN
        call_plugin();
#endif
    }
}
"#,
    chains: &[
        &["frameless", "inner", "middle", "outer", "main"],
        &["spin", "inner", "middle", "outer", "main"],
        // How often it has called itself is counted in the story.
        &["spin", "bottom", "recurse", "start_recursion", "main"],
        &["spin", "with_alloca", "call_alloca", "main"],
        &["spin", "aligned", "call_aligned", "main"],
        &["spin", "compare", "sorter", "main"],
        &["copier", "main"],
        &["allocator", "main"],
        &["printer", "main"],
        &["spin", "handler", "signaller", "main"],
        &["spin", "plug_inner", "plug_outer", "call_plugin", "main"],
    ],
    callers: &["sorter", "copier", "allocator", "printer", "signaller", "with_alloca", "handler"],
};

/// A library that is opened late.
pub(crate) const PLUGIN: &str = r#"
#define F __attribute__((noipa))
volatile unsigned long plugged;
F void plug_inner(void (*call)(long), long n) { call(n); plugged++; }
F void plug_outer(void (*call)(long), long n) { plug_inner(call, n); plugged++; }
"#;

/// Exceptions, inlined templates, virtual calls, the library's own algorithms.
pub(crate) const CPP: Source = Source {
    name: "cpp",
    text: r#"
#include <algorithm>
#include <cstdio>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>
#define F extern "C" __attribute__((noipa))
volatile unsigned long sink;
F void spin(long n) { for (long i = 0; i < n; i++) sink = sink + i; }
template <typename T, int N> struct Layers { static T down(T v) { return Layers<T, N - 1>::down(v + N); } };
template <typename T> struct Layers<T, 0> { static T down(T v) { spin(20000); return v; } };
F void inlined(void) { sink = sink + Layers<long, 8>::down(sink); }
F void thrower(int n) { std::string keep(40, 'x'); if (n >= 0) throw n; sink = sink + keep.size(); }
F void between(int n) { std::vector<int> keep(100, n); thrower(n); sink = sink + keep[3]; }
F void catcher(void) { for (int i = 0; i < 50; i++) try { between(i); } catch (int n) { sink = sink + n; } }
struct Shape { virtual void draw() = 0; virtual ~Shape() {} };
struct Square : Shape { void draw() override; };
F void square(void) { spin(100000); sink = sink + 1; }
__attribute__((noinline)) void Square::draw() { square(); sink = sink + 1; }
F void drawer(Shape *shape) { shape->draw(); sink = sink + 1; }
F bool before(int a, int b) { spin(10); return a < b; }
F void sorter(void) { std::vector<int> v(2000); for (int i = 0; i < 2000; i++) v[i] = (i * 7919) % 2000;
    std::sort(v.begin(), v.end(), [](int a, int b) { return before(a, b); }); sink = sink + v[7]; }
F void mapper(void) { std::map<std::string, int> m; for (int i = 0; i < 300; i++) m[std::to_string(i * 37 % 300)] = i; sink = sink + m.size(); }
F void called(int n) { spin(100000); sink = sink + n; }
F void caller(const std::function<void(int)> &f) { f(3); sink = sink + 1; }
int main() {
    std::unique_ptr<Shape> shape(new Square);
    for (;;) { inlined(); catcher(); drawer(shape.get()); sorter(); mapper(); caller([](int n) { called(n); sink = sink + n; }); }
}
"#,
    chains: &[
        &["spin", "inlined", "main"],
        &["thrower", "between", "catcher", "main"],
        &["spin", "square", "drawer", "main"],
        &["spin", "before", "sorter", "main"],
        &["mapper", "main"],
        &["spin", "called", "caller", "main"],
    ],
    callers: &["thrower", "between", "catcher", "drawer", "sorter", "mapper", "caller"],
};

/// Closures, generics, trait objects, panics that are caught, threads.
pub(crate) const RUST: Source = Source {
    name: "rust",
    text: r#"
use std::collections::BTreeMap;
use std::hint::black_box;
use std::panic::catch_unwind;
#[no_mangle] #[inline(never)] pub extern "C" fn spin(n: u64) -> u64 { let mut a = 1u64; for i in 0..n { a = black_box(a.wrapping_mul(31) + i); } a }
#[no_mangle] #[inline(never)] pub fn inner(n: u64) { black_box(spin(n)); black_box(n); }
#[no_mangle] #[inline(never)] pub fn outer(n: u64) { let room = black_box([n; 40]); inner(room[3]); black_box(room); }
#[no_mangle] #[inline(never)] pub fn compare(a: &u32, b: &u32) -> std::cmp::Ordering { black_box(spin(10)); a.cmp(b) }
#[no_mangle] #[inline(never)] pub fn sorter() { let mut v: Vec<u32> = (0..2000).map(|i| i * 7919 % 2000).collect(); v.sort_by(|a, b| compare(a, b)); black_box(v); }
#[no_mangle] #[inline(never)] pub fn panicker(n: u32) { if black_box(n) < 100 { std::panic::resume_unwind(Box::new(n)); } black_box(n); }
#[no_mangle] #[inline(never)] pub fn catcher() { for i in 0..20 { black_box(catch_unwind(|| { panicker(i); black_box(i) }).is_err()); } }
#[no_mangle] #[inline(never)] pub fn mapper() { let m: BTreeMap<String, u32> = (0..300).map(|i| (format!("{}", i * 37 % 300), i)).collect(); black_box(m); }
#[no_mangle] #[inline(never)] pub fn dynamic(f: &dyn Fn(u64)) { f(50_000); black_box(f as *const _); }
#[no_mangle] #[inline(never)] pub fn called(n: u64) { black_box(spin(n) ^ 7); black_box(n + 1); }
#[no_mangle] #[inline(never)] pub fn threads() { let t = std::thread::spawn(|| { in_thread(); }); t.join().unwrap(); black_box(2); }
#[no_mangle] #[inline(never)] pub fn in_thread() { black_box(spin(20_000_000)); black_box(1); }
#[no_mangle] #[inline(never)] pub fn work() { outer(100_000); sorter(); catcher(); mapper(); dynamic(&|n| { called(n); black_box(n); }); black_box(3); }
fn main() { loop { for _ in 0..100 { work(); } threads(); } }
"#,
    chains: &[
        &["spin", "inner", "outer", "work"],
        &["spin", "compare", "sorter", "work"],
        &["panicker", "catcher", "work"],
        &["mapper", "work"],
        &["spin", "called", "dynamic", "work"],
        &["spin", "in_thread"],
        &["threads"],
    ],
    callers: &["sorter", "panicker", "catcher", "mapper", "dynamic", "threads", "in_thread"],
};
