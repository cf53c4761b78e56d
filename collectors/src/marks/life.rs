//! Which processes belong to which target, and what tells one revision from another. Owns the walk through `/proc`; keeps it
//! cheap: a process that belongs to nobody is read three times, then left alone until its id is gone.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Find, Watched, build_id};
use crate::discover::flags::Flags;
use crate::discover::{compose, process};

/// A process is read so often before it is known to be nobody's: it may still become somebody else by `exec`.
const LOOKS_MAX: u8 = 3;

/// Processes of one target that are told apart; a service with more is followed by its first ones.
const LIVES_MAX: usize = 64;

/// Characters kept of a label.
const LABEL_MAX: usize = 256;

/// One life of a process.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Key {
    /// Start in clock ticks since boot.
    pub(super) start: u64,
    pub(super) pid: u32,
}

/// What tells one revision from another.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Fingerprint {
    /// The version flag, else the image or version label.
    label: Option<String>,
    /// The build id; where there is none, size and time of the program; where we may not read it, its path.
    build: Option<String>,
}

impl Fingerprint {
    /// A name for it, as telling as it gets.
    pub(super) fn revision(&self) -> String {
        self.label.as_ref().or(self.build.as_ref()).map_or_else(|| "unknown".to_owned(), Clone::clone)
    }

    /// Its name after those others: a label that did not change with the program gets the build added.
    pub(super) fn revision_after(&self, others: &[Fingerprint]) -> String {
        let same_label = self.label.is_some() && others.iter().any(|other| other.label == self.label);
        match (&self.label, &self.build) {
            (Some(label), Some(build)) if same_label => format!("{label}+{build}"),
            _ => self.revision(),
        }
    }
}

/// All processes, as far as anybody watches them.
#[derive(Debug)]
pub(super) struct Lives {
    root: PathBuf,
    /// Looks spent on processes that belong to nobody.
    strangers: BTreeMap<u32, u8>,
    /// Fingerprints by life and arguments: an `exec` keeps the life and changes the arguments.
    prints: BTreeMap<Key, (Vec<String>, Fingerprint)>,
}

impl Lives {
    pub(super) fn new(root: &Path) -> Lives {
        Lives { root: root.to_owned(), strangers: BTreeMap::new(), prints: BTreeMap::new() }
    }

    /// What runs now, for each target in order; `None` when `/proc` cannot be read.
    pub(super) fn look(&mut self, watched: &[Watched]) -> Option<Vec<BTreeMap<Key, Fingerprint>>> {
        let pids = process::pids(&self.root).ok()?;
        self.strangers.retain(|pid, _| pids.binary_search(pid).is_ok());
        let mut found: Vec<BTreeMap<Key, Fingerprint>> = vec![BTreeMap::new(); watched.len()];
        let named: Vec<Option<u32>> = watched.iter().map(|watched| pid_in_file(&watched.find)).collect();
        let mut prints = BTreeMap::new();
        for pid in pids {
            let looks = self.strangers.get(&pid).copied().unwrap_or(0);
            if looks >= LOOKS_MAX && !named.contains(&Some(pid)) {
                continue;
            }
            let arguments = process::arguments(&self.root, pid);
            let mut stranger = true;
            for ((watched, named), lives) in watched.iter().zip(&named).zip(&mut found) {
                let ours = *named == Some(pid) || self.is_of(&watched.find, pid, &arguments);
                if !ours || lives.len() >= LIVES_MAX {
                    continue;
                }
                stranger = false;
                if let Some((key, print)) = self.life(pid, &arguments, watched) {
                    prints.insert(key, (arguments.clone(), print.clone()));
                    lives.insert(key, print);
                }
            }
            if stranger {
                self.strangers.insert(pid, looks.saturating_add(1));
            } else {
                self.strangers.remove(&pid);
            }
        }
        self.prints = prints;
        Some(found)
    }

    fn is_of(&self, find: &Find, pid: u32, arguments: &[String]) -> bool {
        match find {
            Find::PidFile(_) => false,
            Find::Command { program, contains } => {
                if arguments.is_empty() || !(program.is_empty() || process::program(arguments) == program) {
                    return false;
                }
                let line = arguments.join(" ");
                contains.iter().all(|word| line.contains(word.as_str()))
            }
            Find::Member(name) => {
                matches!(process::program(arguments), "etcd" | "k3s" | "rke2")
                    && process::any_member(&self.root, pid)
                        .is_ok_and(|member| member.is_some_and(|member| compose::is_called(&member, name)))
            }
        }
    }

    /// One life with its fingerprint; `None` when the process ended while it was read.
    fn life(&self, pid: u32, arguments: &[String], watched: &Watched) -> Option<(Key, Fingerprint)> {
        let key = Key { start: process::start_ticks(&self.root, pid)?, pid };
        if let Some((known, print)) = self.prints.get(&key)
            && known == arguments
        {
            return Some((key, print.clone()));
        }
        let print = self.fingerprint(pid, arguments, watched);
        let still = process::start_ticks(&self.root, pid) == Some(key.start);
        (still && process::arguments(&self.root, pid) == arguments).then_some((key, print))
    }

    fn fingerprint(&self, pid: u32, arguments: &[String], watched: &Watched) -> Fingerprint {
        let flags = Flags::from_arguments(arguments.get(1..).unwrap_or_default());
        let flag =
            watched.version_flags.iter().find_map(|flag| flags.get(flag)).filter(|value| *value != "true");
        let environment = process::environment(&self.root, pid);
        let label = flag.map(str::to_owned).or_else(|| label(&environment, &watched.version_variables));
        let program = self.root.join(format!("proc/{pid}/exe"));
        let path = || Some(std::fs::read_link(&program).ok()?.to_string_lossy().into_owned());
        let build = build_id::of(&program).or_else(path);
        Fingerprint { label: label.map(|label| label.chars().take(LABEL_MAX).collect()), build }
    }
}

fn pid_in_file(find: &Find) -> Option<u32> {
    let Find::PidFile(file) = find else { return None };
    let text = process::read(file)?;
    String::from_utf8_lossy(&text).trim().parse().ok()
}

/// The first of the variables that is set, else the version among the resource attributes.
fn label(environment: &[String], variables: &[String]) -> Option<String> {
    let get = |name: &str| {
        let mut all = environment.iter().filter_map(|variable| variable.split_once('='));
        all.find(|(key, value)| *key == name && !value.is_empty()).map(|(_, value)| value)
    };
    if let Some(value) = variables.iter().find_map(|name| get(name)) {
        return Some(value.to_owned());
    }
    let mut attributes = get("OTEL_RESOURCE_ATTRIBUTES")?.split(',').filter_map(|pair| pair.split_once('='));
    attributes.find(|(key, _)| key.trim() == "service.version").map(|(_, value)| value.trim().to_owned())
}
