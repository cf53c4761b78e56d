//! The flame graph page: one HTML file with its data, style and script inside, that never asks a network for anything.
//!
//! Owns the data that the page is given; what it does with it is in `flame/*.js`. Names come from the profiled
//! process: they are data in a JSON block whose `<` are escaped, and the page shows them as text only.

use std::collections::{BTreeMap, BTreeSet};

use model::profile::{Owner, ProfileKind, Stacks};
use serde::Serialize;

use super::tree::{Levels, NODES_MAX, Named, Tree, process};

/// Places (pods, containers) that are named of one process: more do not fit into a line.
const PLACES_MAX: usize = 3;

const HTML: &str = include_str!("flame/page.html");
const STYLE: &str = include_str!("flame/page.css");
/// One script in four files, in the order in which they build on each other.
const SCRIPT: &str = concat!(
    include_str!("flame/trees.js"),
    include_str!("flame/draw.js"),
    include_str!("flame/mirror.js"),
    include_str!("flame/page.js"),
);

/// What the page is given.
#[derive(Serialize)]
struct Data<'a> {
    title: &'a str,
    profiles: Vec<Profile<'a>>,
}

/// One kind of profile, with or without a "before".
#[derive(Serialize)]
struct Profile<'a> {
    kind: ProfileKind,
    unit: &'static str,
    diff: bool,
    after: Facts,
    before: Option<Facts>,
    names: Vec<&'a str>,
    files: Vec<&'a str>,
    /// Which names are processes: those of the first level. None where there is but one.
    processes: Vec<Process>,
    /// Columns of the nodes in preorder: depth, name, own value after, own value before (empty without one).
    depth: Vec<u32>,
    name: Vec<u32>,
    own: Vec<u64>,
    own_before: Vec<u64>,
}

/// One process name.
#[derive(Serialize)]
struct Process {
    /// Index into the names.
    name: usize,
    /// How many processes had it.
    pids: usize,
    /// Where: namespace and pod, else container.
    places: Vec<String>,
}

/// What the header says of one side.
#[derive(Serialize)]
struct Facts {
    /// Milliseconds since the epoch.
    at_ms: u64,
    duration_ms: u64,
    samples: i64,
    lost: u64,
    truncated: u64,
}

/// The page for these profiles, each with the one before it where there is one.
///
/// # Errors
/// When the data cannot be written as JSON.
pub fn page(title: &str, pairs: &[(Option<&Stacks>, &Stacks)]) -> Result<String, serde_json::Error> {
    let profiles = pairs.iter().map(|(before, after)| profile(*before, after)).collect();
    let json = serde_json::to_string(&Data { title, profiles })?;
    // Inside a JSON string `\u003c` is `<`: no name can end the block or open a comment.
    let json = json.replace('<', "\\u003c");
    Ok(HTML
        .replace("{{title}}", &escape(title))
        .replace("{{style}}", STYLE)
        .replace("{{script}}", SCRIPT)
        .replace("{{data}}", &json))
}

fn profile<'a>(before: Option<&'a Stacks>, after: &'a Stacks) -> Profile<'a> {
    let tree = Tree::of(before, after, Levels::Process, NODES_MAX);
    Profile {
        kind: after.kind,
        unit: unit(after),
        diff: before.is_some(),
        after: facts(after),
        before: before.map(facts),
        processes: processes(&tree, before, after),
        depth: tree.nodes.iter().map(|node| node.depth).collect(),
        name: tree.nodes.iter().map(|node| node.name).collect(),
        own: tree.nodes.iter().map(|node| node.after).collect(),
        own_before: before.iter().flat_map(|_| tree.nodes.iter().map(|node| node.before)).collect(),
        names: tree.names,
        files: tree.files,
    }
}

fn unit(stacks: &Stacks) -> &'static str {
    match stacks.kind {
        // A period of one is how profiles say that they count samples, not time.
        ProfileKind::Cpu if stacks.period == 1 => "samples",
        ProfileKind::Cpu | ProfileKind::OffCpu => "ns",
        ProfileKind::Heap | ProfileKind::Alloc => "By",
        ProfileKind::Goroutine => "",
    }
}

fn processes(tree: &Tree<'_>, before: Option<&Stacks>, after: &Stacks) -> Vec<Process> {
    let mut about: BTreeMap<&str, (BTreeSet<u32>, BTreeSet<String>)> = BTreeMap::new();
    for owner in [Some(after), before].into_iter().flatten().flat_map(|stacks| &stacks.owners) {
        let (pids, places) = about.entry(process(Some(owner))).or_default();
        pids.insert(owner.pid);
        if let Some(place) = place(owner)
            && places.len() < PLACES_MAX
        {
            places.insert(place);
        }
    }
    let names =
        tree.names.iter().zip(&tree.kinds).enumerate().filter(|(_, (_, kind))| **kind == Named::Owner);
    names
        .map(|(name, (text, _))| {
            let (pids, places) = about.remove(*text).unwrap_or_default();
            Process { name, pids: pids.len(), places: places.into_iter().collect() }
        })
        .collect()
}

fn place(owner: &Owner) -> Option<String> {
    match (owner.namespace.as_str(), owner.pod.as_str(), owner.container.get(..12)) {
        ("", "", None) => None,
        ("", "", Some(container)) => Some(format!("container {container}")),
        ("", pod, _) => Some(format!("pod {pod}")),
        (namespace, pod, _) => Some(format!("pod {namespace}/{pod}")),
    }
}

fn facts(stacks: &Stacks) -> Facts {
    Facts {
        at_ms: stacks.at.wall_ns / 1_000_000,
        duration_ms: stacks.duration_ns / 1_000_000,
        samples: stacks.samples.iter().fold(0, |sum, sample| sum.saturating_add(sample.count)),
        lost: stacks.losses.lost,
        truncated: stacks.losses.truncated,
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;")
        .replace('<', "&lt;")
        .replace('>', "&gt;")
        .replace('"', "&quot;")
        .replace('{', "&#123;")
}
