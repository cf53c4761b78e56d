//! Artefacts of small profiles, read back; and what a directory allows.

use std::fs;
use std::io::Read;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::PathBuf;
use std::sync::Arc;

use model::profile::{Frame, Function, Losses, Mapping, Owner, ProfileKind, ProfileSet, StackSample, Stacks};
use model::time::Stamp;

use super::tree::{Levels, Tree};
use super::{FilesError, flame, folded, pprof, store_capture, write_capture};

/// Stacks of a kind from (path from the root, value).
fn stacks(kind: ProfileKind, paths: &[(&[&str], i64)]) -> Stacks {
    let mut functions: Vec<Function> = Vec::new();
    let mut frames = Vec::new();
    let mut samples = Vec::new();
    for (path, value) in paths {
        let mut stack = Vec::new();
        for name in path.iter().rev() {
            let known = functions.iter().position(|function| function.name == *name);
            let at = known.unwrap_or_else(|| {
                functions.push(Function { name: (*name).to_owned(), ..Function::default() });
                functions.len() - 1
            });
            stack.push(u32::try_from(frames.len()).unwrap());
            frames.push(Frame { function: u32::try_from(at).unwrap(), line: 3, ..Frame::default() });
        }
        samples.push(StackSample { frames: stack, value: *value, count: 1, owner: 0 });
    }
    Stacks {
        kind,
        at: Stamp { mono_ns: 5, wall_ns: 1_800_000_000_000_000_000 },
        duration_ns: 1_000_000_000,
        period: 10_000_000,
        mappings: vec![Mapping { path: "/bin/app".to_owned(), ..Mapping::default() }],
        functions,
        frames,
        owners: Vec::new(),
        samples,
        losses: Losses::default(),
        pprof: Vec::new(),
    }
}

fn set(paths: &[(&[&str], i64)]) -> ProfileSet {
    let all = vec![stacks(ProfileKind::Cpu, paths), stacks(ProfileKind::Heap, paths)];
    ProfileSet { stacks: Arc::new(all), ..ProfileSet::default() }
}

/// A directory of its own for each test, removed at its end.
struct Place(PathBuf);

impl Place {
    fn new(name: &str) -> Place {
        let path = std::env::temp_dir().join(format!("backburn-files-{name}-{}", std::process::id()));
        drop(fs::remove_dir_all(&path));
        fs::create_dir(&path).unwrap();
        Place(path)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

#[test]
fn folded_lines_are_merged_and_plain() {
    let cpu = stacks(
        ProfileKind::Cpu,
        &[
            (&["main", "a;b", "c"], 5),
            (&["main", "a;b", "c"], 2),
            (&["main", "x\ny"], 1),
            (&["main"], 4),
            (&[], 9),
        ],
    );
    assert_eq!(folded::encode(&cpu), "(no stack) 9\nmain 4\nmain;a:b;c 7\nmain;x y 1\n");
}

#[test]
fn received_bytes_go_out_unchanged() {
    let mut cpu = stacks(ProfileKind::Cpu, &[(&["main"], 5)]);
    cpu.pprof = vec![0x1f, 0x8b, 1, 2, 3];
    assert_eq!(pprof::encode(&cpu), cpu.pprof);
    cpu.pprof = b"plain".to_vec();
    let mut text = String::new();
    flate2::read::GzDecoder::new(pprof::encode(&cpu).as_slice()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "plain");
}

#[test]
fn a_page_cannot_be_broken_out_of() {
    let evil = "</script><script>alert(1)</script><!--{{script}}";
    let cpu = stacks(ProfileKind::Cpu, &[(&["main", evil], 5)]);
    let page = flame::page(evil, &[(None, &cpu)]).unwrap();
    assert!(!page.contains("<script>alert"));
    assert_eq!(page.matches("</script>").count(), 2);
    assert_eq!(page.matches("'use strict'").count(), 1);
    // Nothing in it names another place.
    assert!(!page.contains("http:") && !page.contains("https:") && !page.contains("src="));
}

#[test]
fn a_page_holds_both_sides_of_a_diff() {
    let before = stacks(ProfileKind::Cpu, &[(&["main", "old"], 5)]);
    let after = stacks(ProfileKind::Cpu, &[(&["main", "new"], 7)]);
    let page = flame::page("t", &[(Some(&before), &after)]).unwrap();
    let profile = &data(&page)["profiles"][0];
    assert_eq!(profile["depth"], serde_json::json!([0, 1, 2, 2]));
    assert_eq!(profile["own"], serde_json::json!([0, 0, 7, 0]));
    assert_eq!(profile["own_before"], serde_json::json!([0, 0, 0, 5]));
}

/// The data block of a page.
fn data(page: &str) -> serde_json::Value {
    let data = page.split("id=\"data\">").nth(1).unwrap().split("</script>").next().unwrap();
    serde_json::from_str(data).unwrap()
}

fn owned(mut stacks: Stacks, owners: &[(u32, &str, &str, &str)]) -> Stacks {
    let owner = |(pid, process, thread, pod): &(u32, &str, &str, &str)| Owner {
        pid: *pid,
        process: (*process).to_owned(),
        thread: (*thread).to_owned(),
        pod: (*pod).to_owned(),
        ..Owner::default()
    };
    stacks.owners = owners.iter().map(owner).collect();
    stacks.samples.iter_mut().zip(0..).for_each(|(sample, at)| sample.owner = at);
    stacks
}

#[test]
fn processes_are_the_first_level_and_no_function() {
    let cpu = stacks(ProfileKind::Cpu, &[(&["main"], 5), (&["main"], 7), (&["main"], 1), (&["main"], 2)]);
    let mut cpu = owned(cpu, &[(1, "main", "main", "a"), (2, "main", "worker", "b"), (3, "sh", "sh", "")]);
    cpu.losses = Losses { lost: 3, truncated: 4 };
    let profile = data(&flame::page("t", &[(None, &cpu)]).unwrap())["profiles"][0].clone();
    assert_eq!(
        profile["names"],
        serde_json::json!(["", "main", "(smaller stacks)", "main", "(unknown process)", "sh"])
    );
    assert_eq!(profile["name"], serde_json::json!([0, 4, 1, 3, 1, 5, 1]));
    assert_eq!(profile["own"], serde_json::json!([0, 0, 2, 0, 12, 0, 1]));
    let processes = serde_json::json!([
        {"name": 3, "pids": 2, "places": ["pod a", "pod b"]},
        {"name": 4, "pids": 0, "places": []},
        {"name": 5, "pids": 1, "places": []},
    ]);
    assert_eq!(profile["processes"], processes);
    assert_eq!((&profile["after"]["lost"], &profile["after"]["truncated"]), (&3.into(), &4.into()));
    assert_eq!(
        folded::encode(&cpu),
        "(unknown process);main 2\nmain;main 5\nmain;worker;main 7\nsh;main 1\n"
    );

    // One side alone knows its processes: no level, or nothing would be under the same path.
    let before = stacks(ProfileKind::Cpu, &[(&["main"], 5)]);
    let profile = data(&flame::page("t", &[(Some(&before), &cpu)]).unwrap())["profiles"][0].clone();
    assert_eq!(
        (&profile["own"], &profile["own_before"]),
        (&serde_json::json!([0, 15]), &serde_json::json!([0, 5]))
    );
    assert_eq!(profile["processes"], serde_json::json!([]));
}

#[test]
fn the_script_knows_every_kind_and_every_place_in_the_page() {
    let all = [
        ProfileKind::Cpu,
        ProfileKind::OffCpu,
        ProfileKind::Heap,
        ProfileKind::Alloc,
        ProfileKind::Goroutine,
    ]
    .map(|kind| stacks(kind, &[(&["main"], 5)]));
    let pairs: Vec<_> = all.iter().map(|stacks| (None, stacks)).collect();
    let page = flame::page("t", &pairs).unwrap();
    let (markup, script) = page.split_once("'use strict'").unwrap();
    for profile in data(&page)["profiles"].as_array().unwrap() {
        let kind = profile["kind"].as_str().unwrap();
        assert!(script.contains(&format!("{kind}: ['")), "no words for {kind}");
    }
    // What is put together is made by the script itself.
    let ids: Vec<(&str, &str)> =
        script.split("$('").skip(1).filter_map(|rest| rest.split_once('\'')).collect();
    assert!(ids.len() > 50, "{ids:?}");
    for (id, _) in ids.iter().filter(|(_, rest)| rest.starts_with(')')) {
        assert!(markup.contains(&format!("id=\"{id}\"")), "no element {id}");
    }
    let policy = "default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'";
    assert!(markup.contains(policy) && !page.contains("@import") && !page.contains("url("));
    for call in ["fetch(", "XMLHttpRequest", "WebSocket", "import(", "innerHTML", "eval("] {
        assert!(!script.contains(call), "{call}");
    }
    for role in ["role=\"treegrid\"", "role=\"status\"", "aria-label=\"View\""] {
        assert!(markup.contains(role), "{role}");
    }
}

#[test]
fn a_page_of_a_hundred_thousand_frames_stays_small() {
    let names: Vec<String> =
        (0..400).map(|n| format!("go.etcd.io/etcd/server/v3/package.(*Type).method{n}")).collect();
    let paths: Vec<[&str; 3]> = (0..150_000)
        .map(|n| [&*names[n % 400], &*names[n / 400 % 400], &*names[(n + n / 400) % 400]])
        .collect();
    let mut cpu = stacks(ProfileKind::Cpu, &[]);
    cpu.functions = names.iter().map(|name| Function { name: name.clone(), ..Function::default() }).collect();
    cpu.frames = (0..400).map(|function| Frame { function, ..Frame::default() }).collect();
    let at = |name: &str| u32::try_from(names.iter().position(|known| known == name).unwrap()).unwrap();
    let numbers: std::collections::HashMap<&str, u32> =
        names.iter().map(|name| (name.as_str(), at(name))).collect();
    let sample = |path: &[&str; 3]| StackSample {
        frames: path.iter().rev().map(|name| numbers[name]).collect(),
        value: 10_000_000,
        count: 1,
        owner: 0,
    };
    cpu.samples = paths.iter().map(sample).collect();
    let page = flame::page("t", &[(None, &cpu)]).unwrap();
    assert!(page.len() < 4 << 20, "{} bytes", page.len());
    let total: u64 =
        data(&page)["profiles"][0]["own"].as_array().unwrap().iter().filter_map(|own| own.as_u64()).sum();
    assert_eq!(total, 150_000 * 10_000_000);
}

#[test]
fn a_tree_is_cut_at_its_bound_and_keeps_its_total() {
    let names: Vec<String> = (0..100).map(|n| format!("f{n}")).collect();
    let paths: Vec<[&str; 2]> = names.iter().map(|name| ["main", name.as_str()]).collect();
    let paths: Vec<(&[&str], i64)> = paths.iter().zip(1..).map(|(path, n)| (path.as_slice(), n)).collect();
    let cpu = stacks(ProfileKind::Cpu, &paths);
    let tree = Tree::of(None, &cpu, Levels::Process, 12);
    assert_eq!(tree.nodes.len(), 13);
    assert_eq!(tree.nodes.iter().map(|node| node.after).sum::<u64>(), 5_050);
    // The heaviest ten, and one node for the ninety others.
    assert!(
        tree.nodes.iter().any(|node| node.after == 100) && tree.nodes.iter().any(|node| node.after == 4_095)
    );
}

#[test]
fn a_capture_is_private_and_complete() {
    let place = Place::new("private");
    let dir = place.0.join("one");
    let before = set(&[(&["main"], 1)]);
    let paths = write_capture(&dir, Some(&before), &set(&[(&["main"], 2)]), "t").unwrap();
    let names: Vec<&str> = paths.iter().map(|path| path.file_name().unwrap().to_str().unwrap()).collect();
    let expected =
        ["cpu.pb.gz", "heap.pb.gz", "cpu.before.pb.gz", "heap.before.pb.gz", "cpu.folded", "flame.html"];
    assert_eq!(names, expected);
    let mode = |path: &PathBuf| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&dir), 0o700);
    assert!(paths.iter().all(|path| mode(path) == 0o600));
    assert_eq!(fs::read_dir(&dir).unwrap().count(), paths.len());
}

#[test]
fn links_are_not_followed() {
    let place = Place::new("links");
    let victim = place.0.join("victim");
    fs::write(&victim, "mine").unwrap();
    let dir = place.0.join("capture");
    fs::create_dir(&dir).unwrap();
    symlink(&victim, dir.join("cpu.pb.gz")).unwrap();
    write_capture(&dir, None, &set(&[(&["main"], 2)]), "t").unwrap();
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert!(fs::symlink_metadata(dir.join("cpu.pb.gz")).unwrap().is_file());

    symlink(&dir, place.0.join("link")).unwrap();
    let refused = write_capture(&place.0.join("link"), None, &set(&[(&["main"], 2)]), "t");
    assert!(matches!(refused, Err(FilesError::NotADirectory(_))), "{refused:?}");
}

#[test]
fn the_oldest_capture_goes_first() {
    let place = Place::new("prune");
    let after = set(&[(&["main"], 2)]);
    let store = |name: &str, bytes_max| store_capture(&place.0, name, (None, &after), "t", bytes_max);
    for (name, age_s) in [("a", 300), ("b", 200), ("c", 100)] {
        store(name, u64::MAX).unwrap();
        let dir = fs::File::open(place.0.join(name)).unwrap();
        let modified = dir.metadata().unwrap().modified().unwrap() - std::time::Duration::from_secs(age_s);
        dir.set_modified(modified).unwrap();
    }
    let one = super::directory_bytes(&place.0.join("a")).unwrap();
    store("d", 2 * one).unwrap();
    let left = |name: &str| place.0.join(name).exists();
    assert_eq!(["a", "b", "c", "d"].map(left), [false, false, true, true]);
    store("e", 1).unwrap();
    assert_eq!(["c", "d", "e"].map(left), [false, false, true]);
    for bad in ["", "..", "../x", "a/b", ".hidden"] {
        assert!(matches!(store(bad, 1), Err(FilesError::BadName(_))));
    }
}
