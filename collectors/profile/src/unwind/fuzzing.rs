//! A door for tests/fuzz: a walk in which all that a process and its tables could say is the input's. No other build
//! contains it.

use super::walk::{ADDED_MAX, At, Known, Registers, walk};
use crate::perf::copied::Copied;
use crate::symbols::elf::Machine;
use crate::symbols::gopclntab::Role;

/// All roles.
const ROLES: [Role; 9] = [
    Role::Plain,
    Role::Goexit,
    Role::Mstart,
    Role::Rt0Go,
    Role::Mcall,
    Role::Systemstack,
    Role::SystemstackSwitch,
    Role::Sigpanic,
    Role::AsyncPreempt,
];

/// What is known of an address: what kind of place, by what it is special, and how large its frame is.
pub type Place = (u8, u8, u32);

/// Frame pointer, link register, stack pointer and instruction of a thread on either machine.
#[derive(Clone, Copy, Debug)]
pub struct Thread {
    /// On arm64; on x86-64 otherwise.
    pub is_arm64: bool,
    /// In that order.
    pub registers: [u64; 4],
}

/// Walks; says how many addresses came of it and from where the chain goes on. Panics where more came than may.
pub fn walked(thread: Thread, stack: &[u8], chain: &[u64], place: impl Fn(u64) -> Place) -> (usize, usize) {
    let Thread { is_arm64, registers: [frame, link, pointer, instruction] } = thread;
    let machine = if is_arm64 { Machine::Arm64 } else { Machine::X86_64 };
    let registers = Registers { frame, link: is_arm64.then_some(link), stack: pointer, instruction };
    let ask = |at: At| {
        let (At::Next(address) | At::Return(address)) = at;
        let (kind, role, delta) = place(address);
        let role = ROLES.get(usize::from(role) % ROLES.len()).copied().unwrap_or(Role::Plain);
        match kind % 8 {
            0 => Known::Nothing,
            1 => Known::Code,
            2 => Known::Go { delta: None, role },
            _ => Known::Go { delta: Some(delta), role },
        }
    };
    let walked =
        walk(machine, registers, Copied { start: pointer, bytes: stack }, |at| chain.get(at).copied(), ask);
    assert!(walked.added <= ADDED_MAX && walked.addresses().first() == Some(&instruction));
    (walked.addresses().len(), walked.resume)
}
