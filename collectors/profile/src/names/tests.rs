//! Stories of places that become names.

use std::{env, process};

use model::profile::{self, FrameKind};

use super::*;
use crate::perf::modules::Kind;
use crate::perf::processes::{Found, Processes};
use crate::perf::record::{Meta, Mmap, Sample, Words};
use crate::perf::session::{Seen, Wait};
use crate::perf::stacks::Stacks as Counted;

const CPU: Capture =
    Capture { kind: ProfileKind::Cpu, at: Stamp { mono_ns: 1, wall_ns: 2 }, duration_ns: 3, period_ns: 10 };

fn words(words: &[u64]) -> Vec<u8> {
    words.iter().flat_map(|word| word.to_ne_bytes()).collect()
}

/// Where a 64-bit process has the kernel's page.
const PAGE: u64 = 0x7ffc_0000_0000;

/// This process with this test's program and some files that cannot be had.
fn processes() -> Processes {
    let mut processes = Processes::default();
    find(&mut processes, process::id());
    processes
}

fn find(processes: &mut Processes, pid: u32) {
    use std::os::unix::fs::MetadataExt;
    let path = env::current_exe().unwrap();
    let is = path.metadata().unwrap();
    let inode = |inode| Identity::Inode { major: libc::major(is.dev()), minor: libc::minor(is.dev()), inode };
    let range = |start, path, identity| Mmap { pid, start, length: 0x100_0000, offset: 0, identity, path };
    let mappings = vec![
        range(0x1000_0000, path.as_os_str().as_encoded_bytes(), inode(is.ino())),
        range(0x2000_0000, b"/nonexistent/lib.so (deleted)", inode(1)),
        range(0x3000_0000, b"//anon", inode(0)),
        range(0x4000_0000, b"[vdso]", inode(0)),
        range(PAGE, b"[vdso]", inode(0)),
    ];
    processes.found(pid, Found { name: "x", mappings, ..Found::default() });
}

fn add(counted: &mut Counted, processes: &Processes, kernel: &[u64], user: &[u64]) {
    add_of(counted, (processes, process::id()), kernel, user);
}

fn add_of(counted: &mut Counted, (processes, pid): (&Processes, u32), kernel: &[u64], user: &[u64]) {
    let (kernel, user) = (words(kernel), words(user));
    let sample = Sample {
        address: 0,
        is_in_kernel: false,
        kernel: Words::new(&kernel),
        user: Words::new(&user),
        registers: Words::default(),
        stack: &[],
        cgroup: 0,
        period: 0,
        raw: &[],
        stint: None,
    };
    let meta = Meta { pid, tid: pid, ..Meta::default() };
    let wait = None::<Wait>;
    counted.add(&Seen { meta, sample, process: processes.get(pid), cgroup: None, is_truncated: false, wait });
}

fn read(stacks: &Stacks) -> Vec<(Vec<&str>, i64)> {
    let at = |id: &u32| usize::try_from(*id).unwrap();
    let name = |frame: &u32| stacks.functions[at(&stacks.frames[at(frame)].function)].name.as_str();
    let mut all: Vec<_> = stacks
        .samples
        .iter()
        .map(|sample| (sample.frames.iter().map(name).collect(), sample.value))
        .collect();
    all.sort();
    all
}

#[test]
fn what_has_no_name_says_where_it_is() {
    let (processes, mut counted) = (processes(), Counted::default());
    let user = [0x1000_0000, 0x2000_0080, 0x3000_0090, PAGE + 0x10, 0x9000_0000];
    add(&mut counted, &processes, &[0xffff_8000_0000_0000, 0xffff_8000_0000_0010], &user);
    add(&mut counted, &processes, &[0xffff_8000_0000_0000, 0xffff_8000_0000_0010], &user);
    let (named, statistics) = Names::default().name(&counted, &CPU);
    let program = env::current_exe().unwrap().file_name().unwrap().to_string_lossy().into_owned();
    let own = format!("[{program}+0x0]");
    let expected = vec!["[kernel]", &own, "[lib.so+0x80]", "[anon]", "[vdso+0x10]", "[unknown]"];
    assert_eq!(read(&named), [(expected, 20)]);
    assert_eq!((statistics.user, statistics.user_named, statistics.kernel), (5, 0, 2));
    assert_eq!(statistics.missing, [2, 1, 0, 0, 0]);
    assert_eq!((named.samples[0].count, named.owners[0].process.as_str()), (2, "x"));
    assert!(named.frames.iter().filter(|frame| frame.mapping == u32::MAX).all(|frame| frame.address == 0));
    let built = &named.mappings[0];
    assert!(built.path.ends_with(&program) && built.htlhash.len() == 32);
}

#[test]
fn what_the_kernel_did_weighs_as_much_as_was_counted_with_it() {
    const LEAF: u64 = 0xffff_8000_0000_0000;
    let (processes, mut counted) = (processes(), Counted::default());
    add(&mut counted, &processes, &[LEAF + 0x20, LEAF + 0x10, LEAF + 0x10], &[0x1000_0000]);
    add(&mut counted, &processes, &[LEAF + 0x20, LEAF + 0x10], &[]);
    add(&mut counted, &processes, &[LEAF], &[]);
    add(&mut counted, &processes, &[], &[0x1000_0000]);
    let there = InKernel::of(&counted);
    // A caller that is there twice in a stack weighs twice: rather the list than too few names.
    assert_eq!(there, InKernel { met: vec![(LEAF, 1), (LEAF + 0x10, 3), (LEAF + 0x20, 2)], count: 3 });
}

#[test]
fn the_kernels_page_has_names_but_not_that_of_another_kind_of_process() {
    let (processes, mut counted) = (processes(), Counted::default());
    // Its functions lie somewhere in two pages.
    for offset in (0..0x2000).step_by(16) {
        add(&mut counted, &processes, &[], &[PAGE + offset]);
        add(&mut counted, &processes, &[], &[0x4000_0000 + offset]);
    }
    let (named, statistics) = Names::default().name(&counted, &CPU);
    let of_kind = |kind| named.frames.iter().filter(move |frame| frame.kind == kind);
    let function = |frame: &profile::Frame| &named.functions[usize::try_from(frame.function).unwrap()].name;
    assert!(of_kind(FrameKind::Native).any(|frame| function(frame).contains("clock_gettime")));
    assert!(of_kind(FrameKind::Native).all(|frame| frame.address > 0 && frame.mapping != u32::MAX));
    assert!(of_kind(FrameKind::Unknown).any(|frame| function(frame) == "[anon]"));
    assert!(statistics.user_named > 20 && statistics.user_named <= statistics.user / 2, "{statistics:?}");
}

#[test]
fn what_a_process_compiled_is_called_as_its_own_list_says() {
    let mut child = process::Command::new("sleep").arg("60").spawn().unwrap();
    let list = format!("/tmp/perf-{}.map", child.id());
    std::fs::write(&list, "30000080 20 LazyCompile:~work a.js:1\n").unwrap();
    let mut processes = processes();
    find(&mut processes, child.id());
    let counted = |pid| {
        let mut counted = Counted::default();
        // The list ends where the next function would begin, but a call may be the last thing in it.
        add_of(&mut counted, (&processes, pid), &[], &[0x3000_0090, 0x3000_00a0, 0x3000_00a1]);
        counted
    };
    let mut both = counted(child.id());
    add(&mut both, &processes, &[], &[0x3000_0090]);
    let work = "LazyCompile:~work a.js:1";
    let (named, statistics) = Names::default().name(&both, &CPU);
    assert_eq!(read(&named), [(vec![work, work, "[anon]"], 10), (vec!["[anon]"], 10)]);
    assert_eq!((statistics.user, statistics.user_named, statistics.missing[0]), (4, 2, 2));
    // Who names all day reads no lists.
    let (named, _) = Names::default().by_functions().name(&counted(child.id()), &CPU);
    assert_eq!(read(&named), [(vec!["[anon]"; 3], 10)]);
    child.kill().unwrap();
    child.wait().unwrap();
    std::fs::remove_file(list).unwrap();
}

#[test]
fn waits_are_worth_what_they_took() {
    let capture = Capture { kind: ProfileKind::OffCpu, period_ns: 0, ..CPU };
    let (processes, mut counted) = (processes(), Counted::default());
    add(&mut counted, &processes, &[], &[0x3000_0000]);
    let (named, _) = Names::default().name(&counted, &capture);
    assert_eq!((named.kind, named.samples[0].value, named.samples[0].count), (ProfileKind::OffCpu, 1, 1));
}

fn called(name: &str, change: impl FnOnce(&mut known::Called)) -> known::Called {
    let function = Arc::new(model::profile::Function { name: name.to_owned(), ..Default::default() });
    let mut called = known::Called {
        function,
        line: 1,
        is_inlined: false,
        is_wrapper: false,
        is_panic: false,
        ends: Ends::Call,
        kind: model::profile::FrameKind::Go,
    };
    change(&mut called);
    called
}

fn place(offset: u64) -> (Frame, How) {
    (Frame { module: 1, offset }, How::default())
}

#[test]
fn wrappers_are_shown_only_where_they_panic() {
    let mut output = Output::default();
    let wraps = |called: &mut known::Called| called.is_wrapper = true;
    let wrapper = [called("inner", |called| called.is_inlined = true), called("wrapper", wraps)];
    let check = |output: &mut Output, how: How, expected: &[(&str, bool)]| {
        output.begin();
        let named = output.named((Frame { module: 1, offset: 1 }, how), &wrapper[1..], (0, 5));
        output.push(named);
        let inlining = output.named(place(2), &wrapper, (0, 5));
        output.push(inlining);
        let shown = output.shown();
        assert_eq!(
            shown.iter().map(|(name, inlined)| (name.as_str(), *inlined)).collect::<Vec<_>>(),
            expected
        );
    };
    check(&mut output, How::default(), &[("inner", false)]);
    check(&mut output, How { is_panic: true, ..How::default() }, &[("wrapper", false), ("inner", false)]);
}

#[test]
fn a_profile_has_bounds() {
    let mut output = Output::default();
    let deep: Vec<_> =
        (0..100).map(|at| called(&at.to_string(), |called| called.is_inlined = true)).collect();
    output.begin();
    let pushed = (0..20).take_while(|at| {
        let named = output.named(place(*at), &deep, (0, 0));
        output.push(named)
    });
    assert_eq!(pushed.count(), 10);
}

#[test]
fn what_is_remembered_is_bounded_and_shared() {
    let mut known = Known::default();
    let key = |offset| Key { module: 1, offset, is_return: true, depth: frames::Depth::Lines };
    let first = known.put(key(0), vec![called("often", |_| ())]);
    for offset in 1..100_000 {
        let place = known.put(key(offset), vec![called("often", |_| ())]);
        assert!(Arc::ptr_eq(&place[0].function, &first[0].function));
        if offset % 1_000 == 0 {
            assert!(known.get(&key(0)).is_some());
        }
    }
    assert!(known.get(&key(1)).is_none());
    // Long names take the place of many.
    for offset in 0..10_000 {
        known.put(key(offset), vec![called(&format!("{offset}{}", "x".repeat(4_000)), |_| ())]);
    }
    assert!(known.bytes() < 17 << 20, "{}", known.bytes());
}

#[test]
fn a_file_with_other_content_gets_another_number() {
    let mut names = Names::default();
    let path = env::temp_dir().join(format!("names-number-{}", process::id()));
    std::fs::copy(env::current_exe().unwrap(), &path).unwrap();
    let processes = {
        use std::os::unix::fs::MetadataExt;
        let is = path.metadata().unwrap();
        let mut processes = Processes::default();
        let identity =
            Identity::Inode { major: libc::major(is.dev()), minor: libc::minor(is.dev()), inode: is.ino() };
        let mapping = Mmap {
            pid: process::id(),
            start: 0x1000,
            length: 0x1000,
            offset: 0,
            identity,
            path: path.as_os_str().as_encoded_bytes(),
        };
        processes.found(process::id(), Found { name: "x", mappings: vec![mapping], ..Found::default() });
        processes
    };
    let module = Arc::clone(&processes.get(process::id()).unwrap().mappings.iter().next().unwrap().module);
    assert_eq!(module.kind, Kind::File);
    let mut number = || {
        let state = names.binaries.open(&module, process::id()).unwrap().state();
        names.number(&module, state)
    };
    let first = number();
    assert_eq!(number(), first);
    let bytes = std::fs::read(&path).unwrap();
    std::fs::write(&path, &bytes).unwrap();
    assert_ne!(number(), first);
    std::fs::remove_file(path).unwrap();
}

#[test]
fn a_pod_is_called_by_its_name_where_the_node_knows_it() {
    let root = tempfile::tempdir().unwrap();
    std::fs::create_dir_all(root.path().join("var/log/pods/kube-system_etcd-cp-1_0f1e")).unwrap();
    let mut names = Names { pods: Pods::new(root.path()), ..Names::default() };
    let mut check = |uid: &str, expected: (&str, &str)| {
        let mut owner = Owner { pod: uid.to_owned(), ..Owner::default() };
        names.name_pod(&mut owner, Stamp::default());
        assert_eq!((owner.pod.as_str(), owner.namespace.as_str()), expected);
    };
    check("0f1e", ("etcd-cp-1", "kube-system"));
    check("ffff", ("ffff", ""));
}
