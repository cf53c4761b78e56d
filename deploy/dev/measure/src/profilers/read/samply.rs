//! samply's profile, a JSON of tables by thread, with the names that it writes beside it when asked to.
//!
//! Addresses are relative to their library.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

use anyhow::{Context, Result};
use serde::Deserialize;

use crate::profilers::stacks::{Frame, Heard, Known};

/// Of the deepest stack: the kernel gives 127 frames, unwinding may give more.
const DEPTH_MAX: usize = 1_024;

#[derive(Debug, Deserialize)]
struct Profile {
    libs: Vec<Library>,
    threads: Vec<Thread>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Library {
    debug_name: String,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Thread {
    pid: String,
    samples: Samples,
    stack_table: Stacks,
    frame_table: Frames,
    func_table: Functions,
    resource_table: Resources,
}

#[derive(Debug, Deserialize)]
struct Samples {
    stack: Vec<Option<usize>>,
    weight: Vec<u64>,
}

#[derive(Debug, Deserialize)]
struct Stacks {
    prefix: Vec<Option<usize>>,
    frame: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct Frames {
    address: Vec<i64>,
    func: Vec<usize>,
}

#[derive(Debug, Deserialize)]
struct Functions {
    resource: Vec<i64>,
}

#[derive(Debug, Deserialize)]
struct Resources {
    lib: Vec<Option<usize>>,
}

#[derive(Debug, Default, Deserialize)]
struct Beside {
    string_table: Vec<String>,
    data: Vec<Symbols>,
}

#[derive(Debug, Deserialize)]
struct Symbols {
    debug_name: String,
    symbol_table: Vec<Symbol>,
    known_addresses: Vec<(u64, usize)>,
}

#[derive(Debug, Deserialize)]
struct Symbol {
    symbol: usize,
}

/// Names by library and address in it.
type Names<'a> = HashMap<(&'a str, u64), &'a str>;

/// All samples in `file`, named by `beside`.
pub(in crate::profilers) fn read(file: &Path, beside: &Path, known: &[Known]) -> Result<Heard> {
    let read = |path: &Path| fs::read(path).with_context(|| format!("read {}", path.display()));
    let profile: Profile = serde_json::from_slice(&read(file)?).context("samply's profile")?;
    let beside: Beside = serde_json::from_slice(&read(beside)?).context("samply's names")?;
    Ok(judge(&profile, &names(&beside), known))
}

/// What it says on standard error, `Lost 12 events.`; nothing where there were none.
pub(in crate::profilers) fn lost(said: &str) -> u64 {
    let counts = said
        .lines()
        .filter_map(|line| line.trim().strip_prefix("Lost ")?.split(' ').next()?.parse::<u64>().ok());
    counts.sum()
}

fn names(beside: &Beside) -> Names<'_> {
    let mut names = Names::new();
    for library in &beside.data {
        for (address, at) in &library.known_addresses {
            let symbol =
                library.symbol_table.get(*at).and_then(|symbol| beside.string_table.get(symbol.symbol));
            // Of code without a symbol it makes up a name.
            if let Some(name) = symbol.filter(|name| !name.starts_with("fun_") && *name != "EntryPoint") {
                names.insert((&library.debug_name, *address), name);
            }
        }
    }
    names
}

fn judge(profile: &Profile, names: &Names<'_>, known: &[Known]) -> Heard {
    let mut heard = Heard::new(known);
    for thread in &profile.threads {
        // A second life of a number has a suffix.
        let pid = thread.pid.split('.').next().and_then(|pid| pid.parse().ok()).unwrap_or(0);
        for (stack, weight) in thread.samples.stack.iter().zip(&thread.samples.weight) {
            let frames = thread.frames(*stack, &profile.libs, names);
            heard.add(known, pid, (&frames, *weight));
        }
    }
    heard
}

impl Thread {
    /// Leaf first, without the labels of the process and the thread at the root.
    fn frames<'a>(&self, stack: Option<usize>, libs: &'a [Library], names: &Names<'a>) -> Vec<Frame<'a>> {
        let mut frames = Vec::new();
        let mut next = stack;
        for _ in 0..DEPTH_MAX {
            let Some(at) = next else { break };
            let frame = self.stack_table.frame.get(at).copied();
            frames.extend(frame.and_then(|frame| self.frame(frame, libs, names)));
            next = self.stack_table.prefix.get(at).copied().flatten();
        }
        frames
    }

    fn frame<'a>(&self, at: usize, libs: &'a [Library], names: &Names<'a>) -> Option<Frame<'a>> {
        let address = u64::try_from(*self.frame_table.address.get(at)?).ok();
        let resource = self.func_table.resource.get(*self.frame_table.func.get(at)?)?;
        let lib = usize::try_from(*resource).ok().and_then(|at| *self.resource_table.lib.get(at)?);
        let lib = lib.and_then(|at| libs.get(at)).map(|lib| lib.debug_name.as_str());
        let (address, Some(lib)) = (address?, lib) else { return None };
        let name = names.get(&(lib, address)).copied();
        let is_kernel = lib.starts_with("[kernel") || lib.starts_with("vmlinux");
        Some(Frame { is_kernel, ..Frame::within(lib, address, name) })
    }
}

#[cfg(test)]
mod tests {
    use super::{Beside, Profile, judge, lost, names};
    use crate::profilers::stacks::{Known, Part};

    #[test]
    fn stacks_are_walked_to_their_roots_and_named_from_beside() {
        let profile: Profile = serde_json::from_str(
            r#"{"libs": [{"debugName": "spin-native"}, {"debugName": "etcd"}], "threads": [{"pid": "7",
            "samples": {"stack": [3, 4, null], "weight": [2, 1, 1]},
            "stackTable": {"prefix": [null, 0, 1, 2, null], "frame": [0, 1, 2, 3, 4]},
            "frameTable": {"address": [300, 200, 100, 0, 5], "func": [0, 0, 0, 0, 1]},
            "funcTable": {"resource": [0, 1]}, "resourceTable": {"lib": [0, 1]}}]}"#,
        )
        .unwrap();
        let beside: Beside = serde_json::from_str(
            r#"{"string_table": ["?", "churn", "fun_5"], "data": [
            {"debug_name": "spin-native", "symbol_table": [{"rva": 0, "symbol": 1}], "known_addresses": [[0, 0]]},
            {"debug_name": "etcd", "symbol_table": [{"rva": 0, "symbol": 2}], "known_addresses": [[5, 0]]}]}"#,
        )
        .unwrap();
        let mut known = Known { pid: 7, ..Known::default() };
        for (name, at) in [("price", 90), ("orders", 190), ("work", 290)] {
            known.read(&format!("function {name} {}", 0x40_0000 + at));
        }
        let heard = judge(&profile, &names(&beside), &[known]);
        assert_eq!((heard.samples, heard.named), (4, Part { part: 2, of: 9 }));
        assert_eq!(heard.callers, [Part { part: 2, of: 2 }]);
    }

    #[test]
    fn losses_are_what_it_says() {
        assert_eq!((lost("Recording…\nLost 12 events.\n"), lost("done")), (12, 0));
    }
}
