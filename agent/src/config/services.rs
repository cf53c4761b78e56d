//! The services whose processes are watched for marks: how one entry of `marks.services` is read.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use collectors::marks::{Find, Watched};

use super::tree::Map;

/// Services of one node; each costs a look at every new process.
const SERVICES_MAX: usize = 64;

/// Longest name, as for a mark that somebody posts.
const NAME_BYTES_MAX: usize = 256;

/// Reads `marks.services`.
pub(super) fn read(marks: &mut Map<'_>) -> Vec<Watched> {
    let entries = marks.maps("services");
    if entries.len() > SERVICES_MAX {
        marks.reject(
            "services",
            &format!("has {} entries; at most {SERVICES_MAX} are watched", entries.len()),
        );
        return Vec::new();
    }
    let mut named = BTreeSet::new();
    entries.into_iter().filter_map(|entry| service(entry, &mut named)).collect()
}

fn service(mut map: Map<'_>, named: &mut BTreeSet<String>) -> Option<Watched> {
    let target = target(&mut map, named);
    let find = find(&mut map);
    let flag = map.text("version_flag");
    let variable = map.text("version_variable");
    map.done();
    let mut watched = Watched::new(&target?, find?);
    if let Some(flag) = flag {
        watched.version_flags = vec![flag.trim_start_matches('-').to_owned()];
    }
    if let Some(variable) = variable {
        watched.version_variables = vec![variable];
    }
    Some(watched)
}

fn target(map: &mut Map<'_>, named: &mut BTreeSet<String>) -> Option<String> {
    let target = map.text("target");
    let Some(target) = target else {
        map.reject("target", "must be given: the service's name as in its logs and in rollback signals");
        return None;
    };
    let plain = !target.is_empty() && target.trim() == target && !target.chars().any(char::is_control);
    if !plain || target.len() > NAME_BYTES_MAX {
        map.reject(
            "target",
            &format!("must be a name of 1 to {NAME_BYTES_MAX} bytes, without blanks at its ends"),
        );
        return None;
    }
    if !named.insert(target.clone()) {
        map.reject("target", &format!("is given twice; `{target}` must be one entry"));
        return None;
    }
    Some(target)
}

/// Exactly one way to know its processes.
fn find(map: &mut Map<'_>) -> Option<Find> {
    let command = map.text("command");
    let pid_file = map.text("pid_file");
    match (command, pid_file) {
        (Some(command), None) => {
            let mut words = command.split_ascii_whitespace().map(str::to_owned);
            // The whole path may be given: processes are told apart by its last part.
            let program = words.next().map(|path| path.rsplit('/').next().unwrap_or_default().to_owned());
            let program = program.filter(|program| !program.is_empty());
            if program.is_none() {
                map.reject("command", "must begin with a program's name, e.g. `orders --shard=eu`");
            }
            Some(Find::Command { program: program?, contains: words.collect() })
        }
        (None, Some(file)) if Path::new(&file).is_absolute() => Some(Find::PidFile(PathBuf::from(file))),
        (None, Some(_)) => {
            map.reject("pid_file", "must be a whole path, e.g. `/run/orders.pid`");
            None
        }
        (Some(_), Some(_)) => {
            map.reject("pid_file", "cannot stand beside `command`: keep the one that names the processes");
            None
        }
        (None, None) => {
            map.reject("command", "or `pid_file` must be given, e.g. `command: orders --shard=eu`");
            None
        }
    }
}
