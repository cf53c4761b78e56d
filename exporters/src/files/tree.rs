//! The call tree of one profile or of two laid over each other, in preorder and bounded.
//!
//! Owns the merge by function name, whose stacks they are as the first levels, and the cut when there are too many nodes.

use std::cmp::Reverse;

use foldhash::HashMap;
use model::profile::{Owner, StackSample, Stacks};

/// Nodes of one tree: a page of 3 MiB. The smallest stacks are cut off first.
pub(super) const NODES_MAX: usize = 120_000;
/// Where the value of stacks goes that were cut off.
const CUT: &str = "(smaller stacks)";
/// Samples whose owner is not known, among others whose is.
const NOBODY: &str = "(unknown process)";

/// What stands before the stacks where a profile knows several owners.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Levels {
    /// The name of the process.
    Process,
    /// That, and the thread's where it has one of its own.
    ProcessAndThread,
}

/// What a name names: a process called `main` is not the function.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum Named {
    /// A function.
    Function,
    /// A process or a thread.
    Owner,
}

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
    pub(super) kinds: Vec<Named>,
    pub(super) nodes: Vec<Node>,
}

#[derive(Default)]
struct Growing<'a> {
    names: Vec<&'a str>,
    files: Vec<&'a str>,
    kinds: Vec<Named>,
    by_name: HashMap<(Named, &'a str), u32>,
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
    /// Owners are levels only where both sides know them: else nothing would be under the same path.
    pub(super) fn of(before: Option<&'a Stacks>, after: &'a Stacks, levels: Levels, max: usize) -> Tree<'a> {
        let mut growing = Growing { max, ..Growing::default() };
        let root = growing.name(Named::Function, "", "");
        growing.nodes.push(Node { name: root, ..Node::default() });
        growing.children.push(Vec::new());
        let known = [Some(after), before].into_iter().flatten().all(|stacks| !stacks.owners.is_empty());
        let levels = Some(levels).filter(|_| known);
        growing.add(after, levels, Side::After);
        if let Some(before) = before {
            growing.add(before, levels, Side::Before);
        }
        growing.finish()
    }
}

/// The process's name, or that it is not known.
pub(super) fn process(owner: Option<&Owner>) -> &str {
    owner.map(|owner| owner.process.as_str()).filter(|name| !name.is_empty()).unwrap_or(NOBODY)
}

impl<'a> Growing<'a> {
    fn name(&mut self, kind: Named, name: &'a str, file: &'a str) -> u32 {
        if let Some(id) = self.by_name.get(&(kind, name)) {
            return *id;
        }
        let id = index(self.names.len());
        self.names.push(name);
        self.files.push(file);
        self.kinds.push(kind);
        self.by_name.insert((kind, name), id);
        id
    }

    /// Process, and thread where it says more.
    fn owner(
        &mut self,
        stacks: &'a Stacks,
        sample: &StackSample,
        levels: Option<Levels>,
    ) -> [Option<u32>; 2] {
        let Some(levels) = levels else { return [None, None] };
        let owner = usize::try_from(sample.owner).ok().and_then(|at| stacks.owners.get(at));
        let own_thread = |owner: &&Owner| {
            levels == Levels::ProcessAndThread && !owner.thread.is_empty() && owner.thread != owner.process
        };
        let thread = owner.filter(own_thread).map(|owner| self.name(Named::Owner, &owner.thread, ""));
        [Some(self.name(Named::Owner, process(owner), "")), thread]
    }

    fn add(&mut self, stacks: &'a Stacks, levels: Option<Levels>, side: Side) {
        let functions = stacks.functions.iter();
        let names: Vec<u32> =
            functions.map(|function| self.name(Named::Function, &function.name, &function.file)).collect();
        let cut = self.name(Named::Function, CUT, "");
        let mut samples: Vec<&StackSample> = stacks.samples.iter().collect();
        samples.sort_by_key(|sample| Reverse(sample.value));
        for sample in samples {
            let owner = self.owner(stacks, sample, levels);
            let frames = sample.frames.iter().rev().filter_map(|at| {
                let frame = stacks.frames.get(usize::try_from(*at).ok()?)?;
                names.get(usize::try_from(frame.function).ok()?).copied()
            });
            let mut node = 0;
            for name in owner.into_iter().flatten().chain(frames) {
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
        Tree { names: self.names, files: self.files, kinds: self.kinds, nodes }
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
