//! In which order what was counted is named: places by their code, so that few pieces of files are read twice.

use foldhash::{HashMap, HashMapExt};

use crate::perf::stacks::{Frame, KERNEL, NOWHERE, Stack, Stacks};

/// A place in a module, as its stacks have it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct Met {
    pub(super) frame: Frame,
    /// It is a call that has not returned yet, by where it stands.
    pub(super) is_return: bool,
}

/// Where the kernel was.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct InKernel {
    /// Addresses, in order and each once, and what was counted with a frame there.
    pub(super) met: Vec<(u64, u64)>,
    /// All that was counted with a frame of the kernel's.
    pub(super) count: u64,
}

impl InKernel {
    pub(super) fn of(counted: &Stacks) -> InKernel {
        let (mut met, mut count) = (Vec::new(), 0);
        for stack in counted.iter() {
            let before = met.len();
            let frames = stack.frames().filter(|frame| frame.module == KERNEL);
            met.extend(frames.map(|frame| (frame.offset, stack.count)));
            count = if met.len() > before { stack.count.saturating_add(count) } else { count };
        }
        met.sort_unstable();
        met.dedup_by(|(address, more), (kept, count)| {
            let is_same = address == kept;
            *count = if is_same { more.saturating_add(*count) } else { *count };
            is_same
        });
        InKernel { met, count }
    }
}

/// The places in modules, by module and offset and each once, with a process that was there.
pub(super) fn places(stacks: &[Stack<'_>]) -> Vec<(Met, u32)> {
    let mut found = HashMap::new();
    for stack in stacks {
        let user = stack.frames().filter(|frame| frame.module != KERNEL).enumerate();
        for (at, frame) in user.filter(|(_, frame)| frame.module != NOWHERE) {
            found.entry(Met { frame, is_return: at > 0 }).or_insert(stack.pid);
        }
    }
    let mut all: Vec<(Met, u32)> = found.into_iter().collect();
    all.sort_unstable();
    all
}

/// Stacks of one process follow each other: what it compiled while it ran is in a list of its own.
pub(super) fn by_process(counted: &Stacks) -> Vec<Stack<'_>> {
    let mut all: Vec<Stack<'_>> = counted.iter().collect();
    all.sort_by_key(|stack| stack.pid);
    all
}
