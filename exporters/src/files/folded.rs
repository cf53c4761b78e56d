//! Folded stacks: `root;caller;leaf value`, one line a stack, as flamegraph.pl, inferno and speedscope read them.
//!
//! Where a profile knows several owners, the process is the root, and below it the thread where it has a name of its own.
//! Values are in the unit of the profile (nanoseconds for CPU), so that they add up to its total.

use model::profile::Stacks;

use super::tree::{Levels, NODES_MAX, Tree};

/// Bytes of one file: twenty times what etcd needs. What is beyond is summed in one last line.
const BYTES_MAX: usize = 8 << 20;

/// Samples without a stack: a goroutine that is about to start.
const NO_STACK: &str = "(no stack)";

/// All stacks, merged, in the order of a walk by name.
#[must_use]
pub fn encode(stacks: &Stacks) -> String {
    let tree = Tree::of(None, stacks, Levels::ProcessAndThread, NODES_MAX);
    let mut text = String::new();
    let mut beyond = 0_u64;
    let mut path: Vec<String> = Vec::new();
    for node in &tree.nodes {
        // The root has depth 0 and no name of its own.
        path.truncate(usize::try_from(node.depth).unwrap_or(0).saturating_sub(1));
        if node.depth > 0 {
            let name = usize::try_from(node.name).ok().and_then(|at| tree.names.get(at)).copied();
            path.push(plain(name.unwrap_or("")));
        }
        if node.after == 0 {
            continue;
        }
        let stack = if path.is_empty() { NO_STACK.to_owned() } else { path.join(";") };
        let line = format!("{stack} {}\n", node.after);
        if text.len() + line.len() > BYTES_MAX {
            beyond = beyond.saturating_add(node.after);
        } else {
            text.push_str(&line);
        }
    }
    if beyond > 0 {
        text.push_str(&format!("(smaller stacks) {beyond}\n"));
    }
    text
}

/// A name without the characters that the format gives a meaning.
fn plain(name: &str) -> String {
    name.replace(';', ":").replace(|c: char| c.is_control(), " ")
}
