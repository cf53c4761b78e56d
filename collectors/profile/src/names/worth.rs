//! Whose debug information is worth reading.
//!
//! Owns the rule: a file of native code has lines and inlined calls where at least [`SAMPLES_MIN`] samples are of its own
//! instructions, neither of what it calls in other files nor in the kernel; else its functions are called by its symbol
//! table, for a hundredth of the price. Refuses shares of the whole: how a program is named must not depend on what else
//! ran.

use std::collections::HashMap;

use model::profile::ProfileKind;

use crate::perf::stacks::{KERNEL, NOWHERE, Stacks};

use super::frames::Depth;

/// A second of a CPU at 99 Hz. Fewer, spread over lines, are one or two each: that says nothing, and costs from ten
/// milliseconds (a program of 10 MB) to a hundred (one of 100 MB, or a C library whose debug information is packed).
const SAMPLES_MIN: u64 = 100;

/// What files have of the samples of one capture.
#[derive(Debug, Default)]
pub(super) struct Worth {
    by_module: HashMap<u32, u64>,
}

impl Worth {
    pub(super) fn of(counted: &Stacks, kind: ProfileKind) -> Worth {
        let mut worth = Worth::default();
        // Who waits does so in the kernel: what counts is whence he went there.
        let counts = |module: &u32| kind != ProfileKind::OffCpu || *module != KERNEL;
        for stack in counted.iter() {
            let leaf = stack.frames().map(|frame| frame.module).find(counts);
            if let Some(module) = leaf.filter(|module| !matches!(*module, KERNEL | NOWHERE)) {
                *worth.by_module.entry(module).or_default() += stack.samples;
            }
        }
        worth
    }

    /// How much to ask for, of this module.
    pub(super) fn depth(&self, module: u32) -> Depth {
        match self.by_module.get(&module) {
            Some(samples) if *samples >= SAMPLES_MIN => Depth::Lines,
            _ => Depth::Sparing,
        }
    }
}
