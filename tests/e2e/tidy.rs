//! The rules of the tree that a compiler does not know.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// The dependency rule: everything points at `model`, and only `agent` sees everyone. What a package may use of ours.
const LOCAL_DEPENDENCIES: [(&str, &[&str]); 10] = [
    ("agent/model", &[]),
    ("agent/processors", &["model"]),
    ("collectors", &["model"]),
    ("collectors/profile", &["model"]),
    ("exporters", &["model"]),
    ("agent", &["model", "processors", "collectors", "profile", "exporters"]),
    ("tests", &["model", "processors", "collectors", "profile", "exporters"]),
    ("deploy/dev/demo", &["model", "harness"]),
    ("deploy/dev/diffset", &["model", "processors", "profile", "harness"]),
    ("deploy/dev/measure", &["model", "profile", "harness"]),
];

/// Folders that hold no source of ours.
const NOT_OURS: [&str; 4] = [".git", ".tools", "target", "node_modules"];

/// The aim is 400; up to here nobody has to split a file for a few lines. A long flat table is fine, and says so.
const LINES_MAX: usize = 450;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &Path) -> String {
    let text = fs::read_to_string(path).unwrap_or_default();
    assert!(!text.is_empty(), "{} is missing or empty", path.display());
    text
}

/// Every file of ours whose name ends so, relative to the root.
fn files(ending: &str) -> Vec<PathBuf> {
    let (root, mut found) = (root(), Vec::new());
    let mut folders = vec![PathBuf::new()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(root.join(&folder)).into_iter().flatten().flatten() {
            let (name, path) = (entry.file_name(), folder.join(entry.file_name()));
            let Ok(kind) = entry.file_type() else { continue };
            if kind.is_dir() && !NOT_OURS.iter().any(|not| name == *not) {
                folders.push(path);
            } else if kind.is_file() && name.to_string_lossy().ends_with(ending) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}

/// Files for which `rule` finds something to complain about, with the complaint.
fn complaints(ending: &str, rule: impl Fn(&Path, &str) -> Option<String>) -> Vec<String> {
    let root = root();
    let complain =
        |path: PathBuf| Some(format!("{}: {}", path.display(), rule(&path, &read(&root.join(&path)))?));
    files(ending).into_iter().filter_map(complain).collect()
}

/// Names of the crates below every `[…dependencies]` of a manifest.
fn dependencies(manifest: &str) -> BTreeSet<&str> {
    let mut is_inside = false;
    let mut names = BTreeSet::new();
    for line in manifest.lines() {
        if let Some(section) = line.strip_prefix('[') {
            is_inside = section.trim_end().ends_with("dependencies]");
        } else if is_inside && !line.starts_with('#') {
            names.extend(line.split(['.', ' ', '=']).next().filter(|name| !name.is_empty()));
        }
    }
    names
}

#[test]
fn each_crate_sees_only_those_it_may() {
    let ours: BTreeSet<&str> =
        ["model", "processors", "collectors", "profile", "exporters", "agent", "harness"].into();
    for (package, allowed) in LOCAL_DEPENDENCIES {
        let manifest = read(&root().join(package).join("Cargo.toml"));
        let allowed = allowed.iter().copied().collect();
        let seen: BTreeSet<&str> = dependencies(&manifest).intersection(&ours).copied().collect();
        assert!(seen.is_subset(&allowed), "{package} may see {allowed:?} but sees {seen:?}");
    }
}

#[test]
fn each_member_of_the_workspace_is_under_the_dependency_rule() {
    let manifest = read(&root().join("Cargo.toml"));
    let members = manifest.split("members = [").nth(1).unwrap().split(']').next().unwrap();
    let members: BTreeSet<&str> = members.split('"').skip(1).step_by(2).collect();
    assert_eq!(members, LOCAL_DEPENDENCIES.iter().map(|(package, _)| *package).collect());
}

#[test]
fn processors_are_pure() {
    let names = read(&root().join("agent/processors/Cargo.toml"));
    let impure = ["tokio", "reqwest", "tonic", "hyper", "rand", "tracing", "libc", "etcd-client"];
    assert!(dependencies(&names).is_disjoint(&impure.into()), "{:?}", dependencies(&names));
}

#[test]
fn versions_are_exact_and_live_in_the_root_manifest() {
    let manifest = read(&root().join("Cargo.toml"));
    let section = manifest.split("[workspace.dependencies]").nth(1).unwrap().split("\n[").next().unwrap();
    for line in section.lines().filter(|line| !line.is_empty() && !line.starts_with('#')) {
        assert!(line.contains("\"=") || line.contains("path = "), "not exact: {line}");
    }
    for (package, _) in LOCAL_DEPENDENCIES {
        for line in read(&root().join(package).join("Cargo.toml")).lines() {
            let is_versioned = line.contains("= \"=") || line.contains("version = \"");
            assert!(!is_versioned, "{package} names a version of its own: {line}");
        }
    }
}

#[test]
fn each_module_says_what_it_owns() {
    let silent =
        complaints(".rs", |_, text| (!text.starts_with("//!")).then(|| "does not begin with //!".into()));
    assert!(silent.is_empty(), "{silent:#?}");
}

#[test]
fn modules_are_files_named_like_them() {
    let named: Vec<PathBuf> = files(".rs").into_iter().filter(|path| path.ends_with("mod.rs")).collect();
    assert!(named.is_empty(), "{named:#?}");
    let vague = ["util", "utils", "common", "helpers", "manager", "misc"];
    let vague: Vec<PathBuf> = files(".rs")
        .into_iter()
        .filter(|path| vague.iter().any(|name| path.file_stem().unwrap() == *name))
        .collect();
    assert!(vague.is_empty(), "{vague:#?}");
}

#[test]
fn unsafe_code_lives_in_sys_and_simd() {
    let opened = ["unsafe {", "unsafe fn", "unsafe impl", "unsafe extern", "unsafe trait"];
    let strays = complaints(".rs", |path, text| {
        let may =
            path.ends_with("sys.rs") || path.ends_with("simd.rs") || path.ends_with("tests/e2e/tidy.rs");
        let is_code = |line: &&str| !line.trim_start().starts_with("//");
        let line = text.lines().filter(is_code).find(|line| opened.iter().any(|words| line.contains(words)));
        line.filter(|_| !may).map(str::to_owned)
    });
    assert!(strays.is_empty(), "{strays:#?}");
}

#[test]
fn evidence_is_assembled_by_the_verdict_alone() {
    let verdict = Path::new("agent/processors/src/verdict");
    let strays = complaints(".rs", |path, text| {
        let is_test = path.starts_with("tests/e2e") || path.ends_with("tests.rs");
        let may = path.starts_with(verdict) || is_test;
        let code = text.split("#[cfg(test)]").next().unwrap_or_default();
        (!may && code.contains("Evidence::assemble")).then(|| "assembles Evidence".into())
    });
    assert!(strays.is_empty(), "{strays:#?}");
    let callers = read(&root().join(verdict).join("evidence.rs"));
    assert!(callers.contains("Evidence::assemble"), "nobody assembles it: this rule looks for another name");
}

#[test]
fn files_are_short_before_their_tests() {
    let long = complaints(".rs", |path, text| {
        let lines = text.split("#[cfg(test)]").next().unwrap_or_default().lines().count();
        let is_test = path.starts_with("tests/e2e") || path.ends_with("tests.rs");
        (lines > LINES_MAX && !is_test && !text.contains("flat table")).then(|| format!("{lines} lines"))
    });
    assert!(long.is_empty(), "{long:#?}");
}

#[test]
fn each_make_command_in_the_documents_exists() {
    let makefile = read(&root().join("Makefile"));
    let targets: BTreeSet<&str> =
        makefile.lines().filter_map(|line| line.split_once(": ")).map(|(name, _)| name).collect();
    let named = |text: &str| {
        let calls = text.split("make ").skip(1).filter_map(|rest| rest.split([' ', '`', '\n']).next());
        calls.map(str::to_owned).collect::<Vec<_>>()
    };
    for path in files(".md") {
        let text = read(&root().join(&path));
        // Only what is set as a command: prose makes things too.
        let commands =
            text.split('`').skip(1).step_by(2).chain(text.lines().filter(|line| line.starts_with("make ")));
        for target in commands.filter(|code| code.starts_with("make ")).flat_map(named) {
            assert!(targets.contains(target.as_str()), "{}: no target `make {target}`", path.display());
        }
    }
}

/// The code that reads the configuration, without its tests.
fn config_code() -> String {
    let is_config =
        |path: &PathBuf| path.starts_with("agent/src/config") || path == Path::new("agent/src/config.rs");
    let texts = files(".rs").into_iter().filter(is_config).map(|path| read(&root().join(path)));
    texts.map(|text| text.split("#[cfg(test)]").next().unwrap_or_default().to_owned()).collect()
}

/// Keys it asks for by their names: `map.flag("remote", false)`.
fn keys_read(code: &str) -> BTreeSet<String> {
    let readers =
        ["map", "maps", "text", "text_or", "texts", "word", "flag", "number", "duration", "bytes", "secret"];
    let calls = code.match_indices("(\"").map(|(at, _)| code.split_at(at));
    let asks = |call: &str| call.rsplit_once('.').is_some_and(|(_, name)| readers.contains(&name));
    calls
        .filter(|(call, _)| asks(call))
        .filter_map(|(_, rest)| rest.split('"').nth(1))
        .map(str::to_owned)
        .collect()
}

/// Can it be asked for at all: is it a word of the code, or does it end like one that the code puts together?
fn is_known(key: &str, code: &str) -> bool {
    let composed = key.split_once('_').is_some_and(|(_, end)| code.contains(&format!("}}_{end}\"")));
    composed || code.contains(&format!("\"{key}\""))
}

/// Keys of `deploy/agent.yaml`, where one `#` before a key switches it off, and `# ` with a word begins prose.
fn keys_documented() -> BTreeSet<String> {
    let text = read(&root().join("deploy/agent.yaml"));
    let is_prose = |line: &&str| line.starts_with("# ") && !line.starts_with("#  ");
    let lines = text.lines().filter(|line| !is_prose(line));
    let keys = lines
        .flat_map(|line| line.split(['#', '{', ',', ' ', '-']).filter_map(|word| word.strip_suffix(':')));
    keys.filter(|key| !key.is_empty()).map(str::to_owned).collect()
}

#[test]
fn each_key_is_documented_and_each_documented_key_is_read() {
    let (code, documented) = (config_code(), keys_documented());
    let read = keys_read(&code);
    assert!(read.len() > 20, "the way keys are read has changed; this test must follow: {read:?}");
    let silent: Vec<_> = read.difference(&documented).collect();
    assert!(silent.is_empty(), "not in deploy/agent.yaml: {silent:?}");
    let dead: Vec<_> = documented.iter().filter(|key| !is_known(key, &code)).collect();
    assert!(dead.is_empty(), "in deploy/agent.yaml, but nobody reads it: {dead:?}");
}

#[test]
fn ci_runs_what_a_developer_runs() {
    let ci = read(&root().join(".ci/run"));
    assert!(ci.trim_end().ends_with("exec make test"), "{ci}");
}
