//! Files of profiles, in the tools they are for: `go tool pprof` on ours, `agent diff` and `agent view` on anybody's.

use std::{collections::BTreeMap, fs, path::Path, process::Command, sync::Arc};

use anyhow::{Context, Result, ensure};
use exporters::files;
use harness::{agent::Finished, daemon::Seat, etcd::go};
use model::{
    profile::{Frame, Function, Losses, Mapping, Owner, ProfileKind, ProfileSet, StackSample, Stacks},
    time::Stamp,
};
use profile::gopprof;
use serde_json::Value;

/// Of one sample at 100 Hz.
const PERIOD: i64 = 10_000_000;

/// Root first, whose, how many samples.
type Written<'a> = (&'a [&'a str], u32, i64);

fn owner(pid: u32, process: &str, thread: &str, cpu: u32) -> Owner {
    Owner {
        pid,
        process: process.to_owned(),
        thread: thread.to_owned(),
        container: "0123456789abcdef".repeat(4),
        pod: "etcd-0".to_owned(),
        namespace: "kube-system".to_owned(),
        cpu: Some(cpu),
    }
}

fn stacks(kind: ProfileKind, written: &[Written<'_>]) -> Stacks {
    let (mut functions, mut frames, mut samples): (Vec<Function>, Vec<Frame>, Vec<StackSample>) =
        Default::default();
    for (path, owner, count) in written {
        let mut stack = Vec::new();
        for name in path.iter().rev() {
            let at = functions.iter().position(|function| function.name == *name).unwrap_or_else(|| {
                functions.push(Function { name: (*name).to_owned(), file: "x.go".to_owned(), start_line: 1 });
                functions.len() - 1
            });
            // As from a table of symbols: a function is at one address.
            let (function, address) = (u32::try_from(at).unwrap(), 0x1000 + at as u64);
            if at == frames.len() {
                frames.push(Frame { function, address, line: 3, ..Frame::default() });
            }
            stack.push(function);
        }
        let value = if kind == ProfileKind::Goroutine { *count } else { count * PERIOD };
        samples.push(StackSample { frames: stack, value, count: *count, owner: *owner });
    }
    Stacks {
        kind,
        at: Stamp { mono_ns: 0, wall_ns: 1_795_524_153_000_000_000 },
        duration_ns: 10_000_000_000,
        period: PERIOD as u64,
        mappings: vec![Mapping {
            path: "/usr/bin/etcd".into(),
            start: 0x1000,
            end: 0x9000,
            ..Mapping::default()
        }],
        functions,
        frames,
        owners: vec![owner(7, "etcd", "etcd", 0), owner(7, "etcd", "raft", 1), owner(8, "sshd", "sshd", 0)],
        samples,
        losses: Losses { lost: 5, truncated: 2 },
        pprof: Vec::new(),
    }
}

const EARLIER: &[Written<'_>] = &[
    (&["main.main", "go.etcd.io/etcd/mvcc.get", "runtime.cmpbody"], 0, 1_000),
    (&["main.main", "go.etcd.io/etcd/mvcc.get"], 1, 500),
    (&["main.main", "go.etcd.io/etcd/mvcc.old"], 1, 300),
    (&["main.main", "go.etcd.io/etcd/wal.sync"], 99, 1_200),
    (&["main.main"], 2, 3_000),
];

const LATER: &[Written<'_>] = &[
    (&["main.main", "go.etcd.io/etcd/mvcc.get", "runtime.cmpbody"], 0, 2_000),
    (&["main.main", "go.etcd.io/etcd/mvcc.get"], 1, 700),
    (&["main.main", "go.etcd.io/etcd/wal.sync"], 99, 1_210),
    (&["main.main"], 2, 3_000),
    (&["main.main", "go.etcd.io/etcd/mvcc.fresh"], 2, 90),
];

fn total(written: &[Written<'_>]) -> i64 {
    written.iter().map(|(_, _, count)| count * PERIOD).sum()
}

fn go_tool(args: &[&str]) -> Result<String> {
    let output = Command::new(go())
        .args(["tool", "pprof", "-symbolize=none"])
        .args(args)
        .env("GOTOOLCHAIN", "local")
        .output()
        .context("no Go: `make tools` brings one where there is none")?;
    ensure!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    Ok(String::from_utf8(output.stdout)?)
}

/// The sums of a raw profile's columns, and each sample's lines of labels.
fn raw(file: &str) -> Result<(Vec<i64>, Vec<String>, String)> {
    let text = go_tool(&["-raw", file])?;
    let samples = text.split("Samples:\n").nth(1).and_then(|rest| rest.split("\nLocations").next());
    let samples = samples.context("no samples")?;
    let (mut sums, mut labels) = (Vec::new(), Vec::new());
    for line in samples.lines().skip(1) {
        let Some((values, _)) = line
            .split_once(": ")
            .filter(|(values, _)| values.trim().starts_with(|c: char| c.is_ascii_digit()))
        else {
            labels.push(line.trim().to_owned());
            continue;
        };
        let values: Vec<i64> = values.split_whitespace().map(str::parse).collect::<Result<_, _>>()?;
        sums.resize(values.len(), 0);
        sums.iter_mut().zip(&values).for_each(|(sum, value)| *sum += value);
    }
    Ok((sums, labels, text))
}

/// Flat and cumulative nanoseconds by function.
fn top(args: &[&str]) -> Result<BTreeMap<String, (i64, i64)>> {
    let mut all = vec!["-top", "-unit=nanoseconds", "-nodecount=1000", "-nodefraction=0"];
    all.extend(args);
    let number = |cell: &str| cell.trim_end_matches("ns").parse::<f64>().map(|value| value as i64);
    let mut rows = BTreeMap::new();
    let text = go_tool(&all)?;
    for line in text.lines().skip_while(|line| !line.contains("flat%")).skip(1) {
        let cells: Vec<&str> = line.split_whitespace().collect();
        ensure!(cells.len() >= 6, "{line}");
        let name = cells[5..].join(" ");
        let name = name.trim_end_matches(" (inline)").trim_end_matches(" (partial-inline)").to_owned();
        rows.insert(name, (number(cells[0])?, number(cells[3])?));
    }
    Ok(rows)
}

/// Own and total by function, as we count.
fn counted(stacks: &Stacks) -> BTreeMap<String, (i64, i64)> {
    let counts = profile::counts::of(stacks);
    let row = |function: model::profile::FunctionCount| {
        (function.name, (function.own as i64, function.total as i64))
    };
    counts.functions.into_iter().map(row).collect()
}

fn write(seat: &Seat, name: &str, stacks: &Stacks) -> String {
    let path = seat.folder().path().join(name);
    fs::write(&path, files::pprof::encode(stacks)).unwrap();
    path.to_str().unwrap().to_owned()
}

#[test]
fn go_tool_pprof_has_our_totals_and_our_labels() {
    let seat = Seat::new("pprof-tool").unwrap();
    for kind in
        [ProfileKind::Cpu, ProfileKind::OffCpu, ProfileKind::Heap, ProfileKind::Alloc, ProfileKind::Goroutine]
    {
        let (before, after) = (stacks(kind, EARLIER), stacks(kind, LATER));
        let (earlier, later) = (write(&seat, "earlier.pb.gz", &before), write(&seat, "later.pb.gz", &after));
        let (sums, labels, text) = raw(&later).unwrap();
        let value: i64 = after.samples.iter().map(|sample| sample.value).sum();
        let count: i64 = after.samples.iter().map(|sample| sample.count).sum();
        let expected = if kind == ProfileKind::Goroutine { vec![value] } else { vec![count, value] };
        assert_eq!(sums, expected, "{kind:?}: {text}");
        for label in [
            "process:[etcd]",
            "thread:[raft]",
            "pid:[7 id]",
            "cpu:[0 id]",
            "pod:[etcd-0]",
            "namespace:[kube-system]",
        ] {
            assert!(labels.iter().any(|line| line.contains(label)), "{kind:?}: no {label} in {labels:?}");
        }
        let comments = go_tool(&["-comments", &later]).unwrap();
        assert!(
            comments.contains("lost samples: 5") && comments.contains("truncated stacks: 2"),
            "{comments}"
        );
        // Without a word about which: the value that the kind is about.
        if kind == ProfileKind::Cpu || kind == ProfileKind::OffCpu {
            assert_eq!(top(&[&later]).unwrap(), counted(&after), "{kind:?}");
            let differences = top(&[&format!("-diff_base={earlier}"), &later]).unwrap();
            let (then, now) = (counted(&before), counted(&after));
            for name in then.keys().chain(now.keys()) {
                let of = |side: &BTreeMap<String, (i64, i64)>| side.get(name).copied().unwrap_or_default();
                let expected = (of(&now).0 - of(&then).0, of(&now).1 - of(&then).1);
                let seen = differences.get(name).copied().unwrap_or_default();
                assert_eq!(seen, expected, "{name}");
            }
        }
        let focus = go_tool(&["-raw", "-tagfocus=process=sshd", &later]).unwrap();
        assert!(focus.contains("process:[sshd]"), "{focus}");
    }
}

#[test]
fn our_own_reader_has_back_what_was_written() {
    let written = stacks(ProfileKind::OffCpu, LATER);
    let all = gopprof::decode_file(&files::pprof::encode(&written)).unwrap();
    let [(read, rejects)] = all.as_slice() else { panic!("{all:?}") };
    assert_eq!(*rejects, gopprof::Rejects::default());
    assert_eq!((read.kind, read.at, read.losses), (written.kind, written.at, written.losses));
    let named = |stacks: &Stacks| -> Vec<(Vec<String>, i64, i64, Option<Owner>)> {
        let name = |at: &u32| stacks.functions[stacks.frames[*at as usize].function as usize].name.clone();
        let of = |sample: &StackSample| {
            let owner = stacks.owners.get(sample.owner as usize).cloned();
            (sample.frames.iter().map(name).collect(), sample.value, sample.count, owner)
        };
        stacks.samples.iter().map(of).collect()
    };
    assert_eq!(named(read), named(&written));
    // An endpoint's answer is read the same way, and goes out again as it came.
    let bytes = files::pprof::encode(&stacks(ProfileKind::Cpu, LATER));
    let (answered, _) = gopprof::decode(&bytes, ProfileKind::Cpu, Stamp::default()).unwrap();
    assert_eq!(answered.owners.len(), 3);
    assert_eq!(files::pprof::encode(&answered), bytes);
}

#[test]
fn folded_stacks_begin_with_process_and_thread() {
    let text = files::folded::encode(&stacks(ProfileKind::Cpu, LATER));
    let lines: Vec<&str> = text.lines().collect();
    for line in [
        "etcd;main.main;go.etcd.io/etcd/mvcc.get;runtime.cmpbody 20000000000",
        "etcd;raft;main.main;go.etcd.io/etcd/mvcc.get 7000000000",
        "(unknown process);main.main;go.etcd.io/etcd/wal.sync 12100000000",
        "sshd;main.main 30000000000",
    ] {
        assert!(lines.contains(&line), "no {line} in {text}");
    }
}

fn code(finished: &Finished) -> Option<i32> {
    finished.status.code()
}

/// A capture of this repository's own tests: etcd's answer to a request for its profile.
fn etcds(kind: &str) -> String {
    format!("{}/../collectors/profile/testdata/etcd-3.5-{kind}.pb.gz", env!("CARGO_MANIFEST_DIR"))
}

#[test]
fn view_tells_what_go_tool_pprof_tells() {
    let seat = Seat::new("view").unwrap();
    let told = seat.command(&["view", &etcds("cpu"), "--output", "json"], &[]).unwrap();
    assert_eq!(code(&told), Some(0), "{told:?}");
    let json: Value = serde_json::from_str(&told.stdout).unwrap();
    let (sums, _, _) = raw(&etcds("cpu")).unwrap();
    assert_eq!(json["profiles"][0]["samples"], sums[0]);
    assert_eq!(json["profiles"][0]["total"], sums[1]);
    let theirs = top(&[&etcds("cpu")]).unwrap();
    for function in json["profiles"][0]["functions"].as_array().unwrap() {
        let ours = (function["own"].as_i64().unwrap(), function["total"].as_i64().unwrap());
        assert_eq!(theirs[function["name"].as_str().unwrap()], ours, "{function}");
    }

    let told = seat.command(&["view", &etcds("heap"), "--top", "3"], &[]).unwrap();
    let heads: Vec<&str> = told.stdout.lines().filter(|line| line.contains(", as sure as ")).collect();
    assert!(
        heads.len() == 2 && heads[0].starts_with("heap in use: ") && heads[1].starts_with("allocated: "),
        "{told:?}"
    );

    let folder = seat.folder().path().join("capture");
    let set = ProfileSet { stacks: Arc::new(vec![stacks(ProfileKind::Cpu, LATER)]), ..ProfileSet::default() };
    files::write_capture(&folder, None, &set, "t").unwrap();
    let page = seat.folder().path().join("page.html");
    let told =
        seat.command(&["view", folder.to_str().unwrap(), "--html", page.to_str().unwrap()], &[]).unwrap();
    assert_eq!(code(&told), Some(0), "{told:?}");
    let first = told.stdout.lines().next().unwrap();
    assert_eq!(
        first,
        "CPU: 7.00 CPUs over 10.0 s, samples 7000, lost 5, truncated 2, taken 2026-11-24 12:42:33Z"
    );
    assert!(told.stdout.contains("44.1 %    30.90 s  sshd (8)"), "{}", told.stdout);
    assert!(!told.stdout.contains('\u{1b}'), "colours into a pipe: {}", told.stdout);
    let html = fs::read_to_string(page).unwrap();
    assert!(html.contains("\"processes\":[{\"name\":") && html.contains("\"lost\":5"));
}

#[test]
fn diff_tells_what_changed_and_fails_where_it_is_told_to() {
    let seat = Seat::new("diff").unwrap();
    let earlier = write(&seat, "earlier.pb.gz", &stacks(ProfileKind::Cpu, EARLIER));
    let later = write(&seat, "later.pb.gz", &stacks(ProfileKind::Cpu, LATER));
    let out = seat.folder().path().join("out");
    let told = seat.command(&["diff", &earlier, &later, "--out", out.to_str().unwrap()], &[]).unwrap();
    assert_eq!(code(&told), Some(0), "{told:?}");
    let lines: Vec<&str> = told.stdout.lines().collect();
    assert_eq!(lines[0], "CPU: 6.00 CPUs over 10.0 s -> 7.00 CPUs over 10.0 s (+16.7 %)");
    assert!(lines[1].starts_with("before: samples 6000, lost 5, truncated 2, taken 2026-"), "{}", lines[1]);
    let row =
        lines.iter().find(|line| line.ends_with("  mvcc.get")).unwrap_or_else(|| panic!("{}", told.stdout));
    assert!(
        row.contains("25.0 % > 38.6 %") && row.contains("+13.57 pp [+1") && row.contains("< 0.001"),
        "{row}"
    );
    assert!(lines.contains(&"gone: mvcc.old 5.00 %"), "{}", told.stdout);
    assert!(lines.contains(&"new: mvcc.fresh 1.29 %"), "{}", told.stdout);
    let html = fs::read_to_string(out.join("flame.html")).unwrap();
    assert!(html.contains("\"diff\":true") && html.contains("mvcc.old"));

    let cases: [(&[&str], i32, &str); 8] = [
        (
            &[&earlier, &later, "--fail-on", "mvcc.get>+40%"],
            1,
            "FAILED mvcc.get>+40%: mvcc.get 25.0 % -> 38.6 % of cpu",
        ),
        (&[&earlier, &later, "--fail-on", "mvcc.get>+10pp"], 1, "FAILED"),
        (&[&earlier, &later, "--fail-on", "mvcc.get>+60%"], 0, ""),
        // 20.0 % and 17.3 % of so many samples: less, not more.
        (&[&earlier, &later, "--fail-on", "*wal.sync>+0%"], 0, ""),
        (&[&earlier, &later, "--fail-on", "mvc.get>+5%"], 0, "no function of that name"),
        (&[&earlier, &later, "--fail-on", "mvcc.get>5"], 2, "is no rule"),
        (&[&earlier], 2, "a later profile must be named"),
        (&[&earlier, &later, "--kind", "heap"], 65, "no heap profile in it"),
    ];
    for (args, wanted, said) in cases {
        let told = seat.command(&[&["diff"], args].concat(), &[]).unwrap();
        let text = format!("{}{}", told.stdout, told.stderr);
        assert!(code(&told) == Some(wanted) && text.contains(said), "{args:?}: {told:?}");
    }
    let told =
        seat.command(&["diff", &earlier, &later, "--output", "json", "--fail-on", "*get>+1%"], &[]).unwrap();
    let json: Value = serde_json::from_str(&told.stdout).unwrap();
    assert_eq!(code(&told), Some(1));
    assert_eq!(json["profiles"][0]["before"]["total"], total(EARLIER));
    assert_eq!(json["profiles"][0]["vanished"][0]["name"], "go.etcd.io/etcd/mvcc.old");
    assert_eq!(json["failed"][0]["function"], "go.etcd.io/etcd/mvcc.get");
}

#[test]
fn what_is_no_profile_is_refused_with_its_cure() {
    let seat = Seat::new("no-profile").unwrap();
    let good = write(&seat, "good.pb.gz", &stacks(ProfileKind::Cpu, EARLIER));
    let torn = fs::read(&good).unwrap();
    let bodies: [(&str, &[u8], &str); 5] = [
        ("torn.pb.gz", &torn[..torn.len() / 2], "compressed data is damaged"),
        ("perf.data", b"PERFILE2\x68\0\0\0\0\0\0\0", "perf_to_profile"),
        ("text", b"main;work 12\n", "text: a pprof file is asked for"),
        ("empty", b"", "the file is empty"),
        ("page.html", b"<html>404</html>", "not a pprof profile"),
    ];
    for (name, bytes, said) in bodies {
        let path = seat.folder().path().join(name);
        fs::write(&path, bytes).unwrap();
        let path = path.to_str().unwrap();
        for args in [["view", path].as_slice(), &["diff", &good, path]] {
            let told = seat.command(args, &[]).unwrap();
            assert!(
                code(&told) == Some(65) && told.stderr.contains(said) && told.stderr.contains(path),
                "{told:?}"
            );
        }
    }
    let told = seat.command(&["view", "/nowhere/cpu.pb.gz"], &[]).unwrap();
    assert!(code(&told) == Some(65) && told.stderr.contains("No such file"), "{told:?}");
    let told = seat.command(&["view", seat.folder().path().to_str().unwrap()], &[]).unwrap();
    assert!(code(&told) == Some(65) && told.stderr.contains("no profile in it"), "{told:?}");
}

#[test]
fn a_captures_folder_is_compared_with_its_own_baseline() {
    let seat = Seat::new("diff-folder").unwrap();
    let set = |written| ProfileSet {
        stacks: Arc::new(vec![stacks(ProfileKind::Cpu, written)]),
        ..ProfileSet::default()
    };
    let folder = seat.folder().path().join("capture");
    files::write_capture(&folder, Some(&set(EARLIER)), &set(LATER), "t").unwrap();
    let folder = folder.to_str().unwrap();
    let told = seat.command(&["diff", folder], &[]).unwrap();
    assert!(code(&told) == Some(0) && told.stdout.contains("gone: mvcc.old"), "{told:?}");
    let told = seat.command(&["diff", folder, folder], &[]).unwrap();
    assert!(told.stdout.contains("no function's share changed beyond what sampling explains"), "{told:?}");
    fs::remove_file(Path::new(folder).join("cpu.before.pb.gz")).unwrap();
    let told = seat.command(&["diff", folder], &[]).unwrap();
    assert!(code(&told) == Some(65) && told.stderr.contains("no profile from before in it"), "{told:?}");
}
