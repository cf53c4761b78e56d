//! The call tree of one profile or of two laid over each other, in preorder and bounded.
//!
//! Owns the merge by function name and the cut when there are too many nodes.

use std::cmp::Reverse;
use std::collections::HashMap;

use model::profile::{StackSample, Stacks};

/// Nodes of one tree: a page of 3 MiB. The smallest stacks are cut off first.
pub(super) const NODES_MAX: usize = 120_000;
/// Where the value of stacks goes that were cut off.
const CUT: &str = "(smaller stacks)";

/// A node in preorder; the root has depth 0 and no name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Node {
    pub(super) depth: u32,
    /// Index into [`Tree::names`].
    pub(super) name: u32,
    /// Own value after.
    pub(super) after: u64,
    /// Own value before.
    pub(super) before: u64,
}

/// A merged call tree.
#[derive(Debug, Default)]
pub(super) struct Tree<'a> {
    pub(super) names: Vec<&'a str>,
    pub(super) files: Vec<&'a str>,
    pub(super) nodes: Vec<Node>,
}

#[derive(Default)]
struct Growing<'a> {
    names: Vec<&'a str>,
    files: Vec<&'a str>,
    by_name: HashMap<&'a str, u32>,
    /// Parent and node; children by (parent, name).
    nodes: Vec<Node>,
    children: Vec<Vec<u32>>,
    child: HashMap<(u32, u32), u32>,
    max: usize,
}

#[derive(Clone, Copy)]
enum Side {
    Before,
    After,
}

impl<'a> Tree<'a> {
    pub(super) fn of(before: Option<&'a Stacks>, after: &'a Stacks, max: usize) -> Tree<'a> {
        let mut growing = Growing { max, ..Growing::default() };
        let root = growing.name("", "");
        growing.nodes.push(Node { name: root, ..Node::default() });
        growing.children.push(Vec::new());
        growing.add(after, Side::After);
        if let Some(before) = before {
            growing.add(before, Side::Before);
        }
        growing.finish()
    }
}

impl<'a> Growing<'a> {
    fn name(&mut self, name: &'a str, file: &'a str) -> u32 {
        if let Some(id) = self.by_name.get(name) {
            return *id;
        }
        let id = index(self.names.len());
        self.names.push(name);
        self.files.push(file);
        self.by_name.insert(name, id);
        id
    }

    fn add(&mut self, stacks: &'a Stacks, side: Side) {
        let names: Vec<u32> =
            stacks.functions.iter().map(|function| self.name(&function.name, &function.file)).collect();
        let cut = self.name(CUT, "");
        let mut samples: Vec<&StackSample> = stacks.samples.iter().collect();
        samples.sort_by_key(|sample| Reverse(sample.value));
        for sample in samples {
            let path = sample.frames.iter().rev().filter_map(|at| {
                let frame = stacks.frames.get(usize::try_from(*at).ok()?)?;
                names.get(usize::try_from(frame.function).ok()?).copied()
            });
            let mut node = 0;
            for name in path {
                let full = self.nodes.len() >= self.max;
                match self.child.get(&(node, name)) {
                    Some(child) => node = *child,
                    None if full => {
                        node = self.grow(node, cut);
                        break;
                    }
                    None => node = self.grow(node, name),
                }
            }
            let value = u64::try_from(sample.value).unwrap_or(0);
            if let Some(node) = usize::try_from(node).ok().and_then(|at| self.nodes.get_mut(at)) {
                let own = match side {
                    Side::Before => &mut node.before,
                    Side::After => &mut node.after,
                };
                *own = own.saturating_add(value);
            }
        }
    }

    /// The child of that name, made where there is none.
    fn grow(&mut self, parent: u32, name: u32) -> u32 {
        if let Some(child) = self.child.get(&(parent, name)) {
            return *child;
        }
        let child = index(self.nodes.len());
        let at = usize::try_from(parent).unwrap_or(usize::MAX);
        let depth = self.nodes.get(at).map_or(0, |node| node.depth) + 1;
        self.nodes.push(Node { depth, name, ..Node::default() });
        self.children.push(Vec::new());
        if let Some(children) = self.children.get_mut(at) {
            children.push(child);
        }
        self.child.insert((parent, name), child);
        child
    }

    /// Preorder, children by name, so that the same profiles give the same page.
    fn finish(mut self) -> Tree<'a> {
        let mut nodes = Vec::with_capacity(self.nodes.len());
        let mut open = vec![0_u32];
        while let Some(at) = open.pop() {
            let Ok(at) = usize::try_from(at) else { continue };
            nodes.extend(self.nodes.get(at).copied());
            let mut children = self.children.get_mut(at).map(std::mem::take).unwrap_or_default();
            children.sort_by_key(|child| Reverse(self.name_of(*child)));
            open.append(&mut children);
        }
        Tree { names: self.names, files: self.files, nodes }
    }

    fn name_of(&self, node: u32) -> &'a str {
        let node = usize::try_from(node).ok().and_then(|at| self.nodes.get(at));
        let name = node.and_then(|node| usize::try_from(node.name).ok());
        name.and_then(|at| self.names.get(at)).copied().unwrap_or("")
    }
}

fn index(at: usize) -> u32 {
    u32::try_from(at).unwrap_or(u32::MAX)
}
