//! From the registers and the lowest part of a stack to the callers that a chain of frame pointers leaves out.
//!
//! Owns the arithmetic of Go's frames, and nothing else: what is known of an address is asked of the caller, so that all of
//! it can be tried without a process. Go's frames are as its assembler lays them out (cmd/internal/obj/x86/obj6.go and
//! arm64/obj7.go). On x86-64 a function finds its return address `delta` bytes above the stack pointer, and the frame
//! pointer of its caller, once that is saved, right below. On arm64 the return address is in the link register until it is
//! saved at the stack pointer, and the frame record that the frame pointer points to begins 8 bytes below that.

use crate::perf::copied::Copied;
use crate::symbols::elf::Machine;
use crate::symbols::gopclntab::Role;

/// Callers that are put in. One nearly always; a stack that had to grow right at the beginning of a function takes two, and
/// where assembly uses the frame pointer for something else the whole of 512 bytes may have to do.
pub(super) const ADDED_MAX: usize = 16;
/// Frames looked at.
const STEPS_MAX: usize = 24;
/// Go's own limit on a stack: a frame pointer further up points to something else.
const SPAN_MAX: u64 = 1 << 30;

/// What a thread was about to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Registers {
    /// rbp, x29.
    pub(super) frame: u64,
    /// x30; none on x86-64.
    pub(super) link: Option<u64>,
    pub(super) stack: u64,
    pub(super) instruction: u64,
}

/// An address, and how it was come by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) enum At {
    /// This instruction is next.
    Next(u64),
    /// A call returns here.
    Return(u64),
}

/// What is known of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Known {
    /// No code.
    Nothing,
    /// Code, but no table says how its frames look.
    Code,
    /// Go.
    Go {
        /// How far the stack pointer is below where the return address is, or was; `None` in functions that switch stacks.
        delta: Option<u32>,
        /// What is special about the function.
        role: Role,
    },
}

/// How a walk ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    /// At a frame that the chain has: from here on nothing is missing.
    Linked,
    /// At something whose frame is not known, or beyond the copied part of the stack: the chain has the rest, perhaps.
    Open(Why),
    /// The frame pointer was no frame pointer, so what the kernel read through it is not a chain.
    Broken,
    /// At the bottom of the stack.
    Bottom,
}

/// Why a walk did not come to a frame of the chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Why {
    /// No table says how the frame looks.
    NoDelta,
    /// The place of the return address is beyond what was copied.
    OutOfReach,
    /// What is in that place is no address of code.
    NotCode,
}

/// The outcome: addresses from the leaf on, and what of the kernel's chain follows them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Walked {
    /// The leaf, callers that were missing, and those of the chain between them.
    addresses: [u64; ADDED_MAX + 4],
    length: usize,
    /// So many are not in the kernel's chain.
    pub(super) added: usize,
    /// From here on the kernel's chain goes on.
    pub(super) resume: usize,
    pub(super) ending: Ending,
}

impl Walked {
    pub(super) fn addresses(&self) -> &[u64] {
        self.addresses.get(..self.length).unwrap_or_default()
    }

    fn push(&mut self, address: u64) -> bool {
        let Some(place) = self.addresses.get_mut(self.length) else { return false };
        *place = address;
        self.length += 1;
        true
    }
}

/// One frame of the walk.
#[derive(Clone, Copy, Debug)]
struct Frame {
    at: At,
    stack: u64,
    delta: u32,
}

/// Walks as far as it takes to meet the chain.
///
/// `chain` gives the kernel's addresses: the leaf at 0, then what it read at each frame pointer.
pub(super) fn walk(
    machine: Machine,
    registers: Registers,
    copied: Copied<'_>,
    chain: impl Fn(usize) -> Option<u64>,
    mut ask: impl FnMut(At) -> Known,
) -> Walked {
    let addresses = [0; ADDED_MAX + 4];
    let mut walked = Walked { addresses, length: 0, added: 0, resume: 1, ending: Ending::Broken };
    walked.push(registers.instruction);
    let mut at = At::Next(registers.instruction);
    let (mut frame_pointer, mut stack, mut known) = (registers.frame, registers.stack, ask(at));
    for _ in 0..STEPS_MAX {
        let (delta, role) = match known {
            Known::Go { role: Role::Goexit | Role::Mstart | Role::Rt0Go, .. } => {
                walked.ending = Ending::Bottom;
                return walked;
            }
            Known::Go { delta: Some(delta), role } => (delta, role),
            Known::Go { delta: None, .. } | Known::Code | Known::Nothing => {
                walked.ending = Ending::Open(Why::NoDelta);
                return walked;
            }
        };
        let frame = Frame { at, stack, delta };
        let is_interrupted = matches!(role, Role::Sigpanic | Role::AsyncPreempt);
        let above = stack.wrapping_add(u64::from(delta));
        let above = if machine == Machine::X86_64 { above.wrapping_add(8) } else { above };
        if has_record_at(machine, frame, frame_pointer) {
            // What interrupts looks like a call, but where it interrupts there may be no frame yet, or no more.
            let next = chain(walked.resume).filter(|_| is_interrupted);
            let Some((next, below)) =
                next.zip(copied.word(frame_pointer)).filter(|_| walked.length < ADDED_MAX)
            else {
                walked.ending = Ending::Linked;
                return walked;
            };
            walked.push(next);
            walked.resume += 1;
            frame_pointer = below;
            (at, stack) = (At::Next(next), above);
            known = ask(at);
            continue;
        }
        let Some(returns) = return_address(machine, frame, registers.link, copied) else {
            return unmet(walked, (frame_pointer, registers.stack), above);
        };
        at = if is_interrupted { At::Next(returns) } else { At::Return(returns) };
        known = ask(at);
        if known == Known::Nothing {
            walked.ending = Ending::Open(Why::NotCode);
            return walked;
        }
        if walked.added == ADDED_MAX || !walked.push(returns) {
            break;
        }
        walked.added += 1;
        stack = above;
    }
    unmet(walked, (frame_pointer, registers.stack), stack)
}

/// Whether the chain has the caller of this frame: the frame pointer points to what this frame has saved.
fn has_record_at(machine: Machine, frame: Frame, frame_pointer: u64) -> bool {
    match machine {
        Machine::X86_64 => {
            let record = frame.stack.wrapping_add(u64::from(frame.delta)).wrapping_sub(8);
            frame.delta >= 8 && record == frame_pointer
        }
        Machine::Arm64 => frame.delta > 0 && frame.stack.wrapping_sub(8) == frame_pointer,
    }
}

fn return_address(machine: Machine, frame: Frame, link: Option<u64>, copied: Copied<'_>) -> Option<u64> {
    match machine {
        Machine::X86_64 => copied.word(frame.stack.wrapping_add(u64::from(frame.delta))),
        // A function that has called another one has overwritten the register.
        Machine::Arm64 if frame.delta == 0 => {
            link.filter(|_| matches!(frame.at, At::Next(_)) && frame.stack == copied.start)
        }
        Machine::Arm64 => copied.word(frame.stack),
    }
}

/// No frame that was looked at is the one that the frame pointer points to. It may be further up, beyond the copied part.
fn unmet(mut walked: Walked, (frame_pointer, bottom): (u64, u64), reached: u64) -> Walked {
    let span = frame_pointer.wrapping_sub(bottom);
    let may_be_further_up = frame_pointer >= reached && frame_pointer % 8 == 0 && span < SPAN_MAX;
    walked.ending = if may_be_further_up { Ending::Open(Why::OutOfReach) } else { Ending::Broken };
    walked
}

#[cfg(test)]
mod tests;
