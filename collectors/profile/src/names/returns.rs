//! Stacks that a process took of itself, as an allocator's profile has them: return addresses, and a list of what is mapped.
//!
//! Owns how such addresses become places in files. Refuses to look at the process: its list says what was mapped then.

use std::sync::Arc;

use model::profile::{ProfileKind, Stacks};
use model::time::Stamp;

use crate::perf::maps;
use crate::perf::modules::{Mappings, Modules};
use crate::perf::stacks::{Frame, NOWHERE};

use super::known::Ends;
use super::output::{How, Output};
use super::{Capture, Names, Naming};

/// Functions that the process entered only to take the stack, innermost first, are not shown.
pub type IsOwn = fn(&str) -> bool;

/// One stack with its weight.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Returns {
    /// Where each call returns to, innermost first.
    pub addresses: Vec<u64>,
    /// In the unit of the kind.
    pub value: i64,
    /// How many observations that is, scaled as the value is.
    pub count: i64,
}

/// What was taken.
#[derive(Clone, Copy, Debug)]
pub struct Taken<'a> {
    /// The process.
    pub pid: u32,
    /// Its `/proc/PID/maps` of that moment.
    pub maps: &'a [u8],
    /// What the stacks count.
    pub kind: ProfileKind,
    /// When.
    pub at: Stamp,
    /// What one observation stands for, in the unit of the kind.
    pub period: u64,
    /// Tells functions by which the stack was taken.
    pub is_own: IsOwn,
}

impl Names {
    /// Names them. A stack in which only [`Taken::is_own`] functions are known keeps them all.
    #[must_use]
    pub fn name_returns(&mut self, taken: &Taken<'_>, stacks: &[Returns]) -> Stacks {
        let mappings = mappings(taken);
        let mut naming = Naming::new(self);
        let mut output = Output::default();
        for stack in stacks {
            output.begin();
            for address in &stack.addresses {
                // What is returned to may be the first byte behind the mapping: the call lies before it.
                let place = mappings.locate(address.saturating_sub(1));
                let module = place.map(|place| Arc::clone(place.module));
                let frame = match place {
                    Some(place) => Frame { module: place.module.id, offset: place.offset.saturating_add(1) },
                    None => Frame { module: NOWHERE, offset: *address },
                };
                let how = How { is_return: true, is_panic: false };
                let named = match output.again(frame, how) {
                    Some(named) => named,
                    None => naming.user_frame(frame, (how, taken.pid), module, &mut output),
                };
                if !output.push(named) || named.ends == Ends::Stack {
                    break;
                }
            }
            output.leave_out(taken.is_own);
            output.sample(stack.value, stack.count, u32::MAX);
        }
        self.finish();
        let capture = Capture { kind: taken.kind, at: taken.at, duration_ns: 0, period_ns: taken.period };
        output.finish(&capture)
    }
}

fn mappings(taken: &Taken<'_>) -> Mappings {
    let (mut modules, mut mappings) = (Modules::default(), Mappings::default());
    for line in taken.maps.split(|byte| *byte == b'\n') {
        if let Some(range) = maps::mapping(taken.pid, line) {
            // What finds no room has no name.
            mappings.take(&range, &mut modules);
        }
    }
    mappings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::binaries::Binaries;

    /// Where a call of this test returns to, as an unwinder would find it.
    #[inline(never)]
    fn own_address() -> u64 {
        u64::try_from((own_address as fn() -> u64 as *const ()).addr()).unwrap() + 1
    }

    fn named(addresses: &[u64], maps: &[u8]) -> Vec<String> {
        let taken = Taken {
            pid: std::process::id(),
            maps,
            kind: ProfileKind::Heap,
            at: Stamp::default(),
            period: 512 << 10,
            is_own: |name| name.ends_with("::own_address"),
        };
        let returns = Returns { addresses: addresses.to_vec(), value: 1_024, count: 2 };
        let stacks = Names::new(Binaries::default()).name_returns(&taken, &[returns]);
        assert_eq!((stacks.kind, stacks.period), (ProfileKind::Heap, 512 << 10));
        assert_eq!((stacks.samples[0].value, stacks.samples[0].count), (1_024, 2));
        let frames = &stacks.samples[0].frames;
        let function = |frame: &u32| stacks.frames[usize::try_from(*frame).unwrap()].function;
        frames
            .iter()
            .map(|frame| stacks.functions[usize::try_from(function(frame)).unwrap()].name.clone())
            .collect()
    }

    #[test]
    fn a_process_names_its_own_addresses() {
        let maps = std::fs::read("/proc/self/maps").unwrap();
        let here = own_address();
        assert_eq!(named(&[here, u64::MAX], &maps), ["[unknown]"], "what took the stack is not shown");
        let names = named(&[u64::MAX, here], &maps);
        assert!(names[1].ends_with("::own_address"), "where nothing else is behind it, it stays: {names:?}");
    }

    #[test]
    fn a_list_of_nothing_names_nothing() {
        assert_eq!(named(&[1, 2], b"garbage\n\xff\n"), ["[unknown]", "[unknown]"]);
    }
}
