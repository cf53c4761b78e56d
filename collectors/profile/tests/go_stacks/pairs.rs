//! Stacks of functions, and which pairs of a leaf and its caller are in them.

use std::collections::HashSet;

use model::profile::{FrameKind, Stacks};

/// Functions that call the kernel's page of user code, in each version of Go. While they do, Go's own profiles begin at their
/// caller (`vdsoPC` in the runtime), so on both sides they and what they call are left out of the leaf's end.
const CALL_VDSO: [&str; 5] =
    ["runtime.nanotime1", "runtime.walltime1", "runtime.walltime", "time.now", "runtime.vgetrandom1"];

/// A stack as names, leaf first, and how many samples it stands for.
pub(crate) type Named<'s> = (Vec<&'s str>, u64);

/// What of a stack is compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Every function, inlined ones too.
    Functions,
    /// Functions with code of their own: what unwinding alone must get right.
    Code,
}

/// User functions of each stack that has any.
pub(crate) fn stacks(profile: &Stacks, level: Level) -> Vec<Named<'_>> {
    let at = |id: u32| usize::try_from(id).unwrap();
    let name = |frame: u32| {
        let frame = &profile.frames[at(frame)];
        let name = profile.functions[at(frame.function)].name.as_str();
        // What is native in a program that is all Go is that page.
        let is_counted = !matches!(frame.kind, FrameKind::Kernel | FrameKind::Native);
        (is_counted && (level == Level::Functions || !frame.inlined)).then_some(name)
    };
    let samples = profile.samples.iter().map(|sample| {
        let names: Vec<&str> = sample.frames.iter().filter_map(|frame| name(*frame)).collect();
        let calls_out = |name: &&&str| name.starts_with("[vdso") || CALL_VDSO.contains(*name);
        let outside = names.iter().take_while(calls_out).count();
        (names[outside..].to_vec(), u64::try_from(sample.count).unwrap())
    });
    samples.filter(|(names, _)| !names.is_empty()).collect()
}

/// A leaf and its caller; none at the bottom of a stack.
pub(crate) fn pair<'s>(stack: &Named<'s>) -> (&'s str, &'s str) {
    (stack.0[0], stack.0.get(1).copied().unwrap_or_default())
}

/// All pairs.
pub(crate) fn pairs<'s>(stacks: &[Named<'s>]) -> HashSet<(&'s str, &'s str)> {
    stacks.iter().map(pair).collect()
}

/// How many samples there are, and how many of them have a pair that occurs.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Share {
    pub(crate) found: u64,
    pub(crate) all: u64,
}

impl Share {
    pub(crate) fn of(stacks: &[Named<'_>], occur: &HashSet<(&str, &str)>) -> Share {
        let count = |is_wanted: &dyn Fn(&Named<'_>) -> bool| {
            stacks.iter().filter(|stack| is_wanted(stack)).map(|stack| stack.1).sum()
        };
        Share { found: count(&|stack| occur.contains(&pair(stack))), all: count(&|_| true) }
    }

    pub(crate) fn and(self, other: Share) -> Share {
        Share { found: self.found + other.found, all: self.all + other.all }
    }

    pub(crate) fn percent(self) -> f64 {
        let number = |count: u64| f64::from(u32::try_from(count).unwrap());
        number(self.found) * 100.0 / number(self.all.max(1))
    }
}

impl std::fmt::Display for Share {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:6.2} % ({} of {})", self.percent(), self.found, self.all)
    }
}
