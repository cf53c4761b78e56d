//! Names of kernel code from the kernel itself, for some addresses.
//!
//! Owns the question. To print its whole list takes a kernel 40 ms and more, which for a short capture is half of what it
//! costs; its own search for one address takes a microsecond, and what prints addresses for its log does that search. A
//! program of a few instructions calls it (`bpf_snprintf`, Linux 5.14). It is attached to nothing, runs when it is asked,
//! and is gone with the question. Refuses to guess: an answer that may not be what the list has is none.

use std::{borrow::Cow, io, path::Path};

use rustix::thread::{self, CapabilitySet, SecureComputingMode};

use super::{
    LIST, is_shown,
    list::MARKS,
    sys::{Array, Instruction, Program},
};

/// Addresses a run. So many are some 250 instructions.
const ADDRESSES: usize = 32;
const ADDRESS_BYTES: usize = 8;
/// A name and its module. The longest of a plain kernel has some 60 bytes; the list is read where one does not fit.
const NAME_BYTES: usize = 256;
const VALUE_BYTES: usize = ADDRESSES * (ADDRESS_BYTES + NAME_BYTES);

/// `name`, or `name [module]`, or the address where there is none (the kernel's `printk-formats`).
const FORMAT: &[u8; 8] = b"%ps\0\0\0\0\0";
/// The helper's number in `linux/bpf.h`.
const SNPRINTF: i32 = 165;
/// What `bpftool` shows.
const TITLE: &[u8; 16] = b"backburn_names\0\0";

/// Takes each of these addresses that has a name, in their order; false where the kernel may not be asked, or cannot say.
pub(super) fn each(addresses: &[u64], take: impl FnMut(u64, &str)) -> bool {
    // Names are withheld with addresses. And a filter of system calls may kill who tries one.
    may_ask() && is_shown(Path::new(LIST)) && ask(addresses, take).is_ok()
}

fn may_ask() -> bool {
    let needed = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let has = thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    has && thread::secure_computing_mode().is_ok_and(|mode| mode == SecureComputingMode::Disabled)
}

fn ask(addresses: &[u64], mut take: impl FnMut(u64, &str)) -> io::Result<()> {
    let format = Array::constant(FORMAT, TITLE)?;
    let answers = Array::new(VALUE_BYTES, TITLE)?;
    let program = Program::load(&program(&answers, &format), TITLE)?;
    let mut value = vec![0; VALUE_BYTES];
    for asked in addresses.chunks(ADDRESSES) {
        let (questions, _) = value.split_at_mut(ADDRESSES * ADDRESS_BYTES);
        for (place, address) in questions.chunks_exact_mut(ADDRESS_BYTES).zip(asked) {
            place.copy_from_slice(&address.to_ne_bytes());
        }
        answers.put(&value)?;
        program.run()?;
        answers.get(&mut value)?;
        let (_, answers) = value.split_at(ADDRESSES * ADDRESS_BYTES);
        for (answer, address) in answers.chunks_exact(NAME_BYTES).zip(asked) {
            name(answer).into_iter().for_each(|name| take(*address, &name));
        }
    }
    Ok(())
}

/// The name in an answer, as the list has it.
fn name(answer: &[u8]) -> Option<Cow<'_, str>> {
    let end = memchr::memchr(0, answer)?;
    // One that fills its place may have been longer.
    let text = answer.get(..end).filter(|_| end + 1 < NAME_BYTES)?;
    // The list has better names for what begins at a mark.
    let text = str::from_utf8(text).ok().filter(|text| !MARKS.contains(&text.as_bytes()))?;
    let is_address = text.starts_with("0x");
    // Called after where code hooks in, as functions of the kernel are too: the list says which it is.
    let may_be_made = ["bpf_dispatcher_", "bpf__"].iter().any(|prefix| text.starts_with(prefix));
    match is_made(text) {
        _ if text.is_empty() || is_address || may_be_made => None,
        true => Some(Cow::Owned(format!("{text} [bpf]"))),
        false => Some(Cow::Borrowed(text)),
    }
}

/// Whether it was made while the kernel ran, which an answer does not say: programs have their tag in their name, trampolines
/// a number, and functions of the kernel that deal with these have neither.
fn is_made(name: &str) -> bool {
    let is_tag =
        |rest: &str| rest.get(..16).is_some_and(|tag| tag.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let is_number = |rest: &str| rest.starts_with(|digit: char| digit.is_ascii_digit());
    name.strip_prefix("bpf_prog_").is_some_and(is_tag)
        || name.strip_prefix("bpf_trampoline_").is_some_and(is_number)
}

/// Prints each address to its place, one after the other: without a loop that the kernel would have to see the end of.
fn program(answers: &Array, format: &Array) -> Vec<Instruction> {
    let mut code = Vec::with_capacity(6 + ADDRESSES * 8);
    code.extend(value_of(answers, 7));
    code.extend(value_of(format, 8));
    let (mut question_at, mut answer_at) = (0, immediate(ADDRESSES * ADDRESS_BYTES));
    for _ in 0..ADDRESSES {
        code.extend([
            copy(1, 7),
            add(1, answer_at),
            set(2, immediate(NAME_BYTES)),
            copy(3, 8),
            copy(4, 7),
            add(4, question_at),
            set(5, immediate(ADDRESS_BYTES)),
            Instruction { code: 0x85, registers: 0, offset: 0, immediate: SNPRINTF },
        ]);
        question_at += immediate(ADDRESS_BYTES);
        answer_at += immediate(NAME_BYTES);
    }
    code.extend([set(0, 0), Instruction { code: 0x95, registers: 0, offset: 0, immediate: 0 }]);
    code
}

/// Where the value of an array is: `BPF_LD | BPF_DW | BPF_IMM` of an array's number, over two instructions.
fn value_of(array: &Array, register: u8) -> [Instruction; 2] {
    /// `BPF_PSEUDO_MAP_VALUE`.
    const VALUE: u8 = 2;
    let number = i32::try_from(array.number()).unwrap_or(-1);
    [
        Instruction { code: 0x18, registers: VALUE << 4 | register, offset: 0, immediate: number },
        Instruction { code: 0, registers: 0, offset: 0, immediate: 0 },
    ]
}

/// `BPF_ALU64 | BPF_MOV | BPF_X`.
fn copy(to: u8, from: u8) -> Instruction {
    Instruction { code: 0xbf, registers: from << 4 | to, offset: 0, immediate: 0 }
}

/// `BPF_ALU64 | BPF_MOV | BPF_K`.
fn set(register: u8, immediate: i32) -> Instruction {
    Instruction { code: 0xb7, registers: register, offset: 0, immediate }
}

/// `BPF_ALU64 | BPF_ADD | BPF_K`.
fn add(register: u8, immediate: i32) -> Instruction {
    Instruction { code: 0x07, registers: register, offset: 0, immediate }
}

/// Of numbers that are all below [`VALUE_BYTES`].
fn immediate(number: usize) -> i32 {
    i32::try_from(number).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::symbols::kernel::KernelSymbols;

    #[test]
    fn every_function_has_the_name_that_the_list_has() {
        if !may_ask() || !is_shown(Path::new(LIST)) {
            eprintln!(
                "not tried: it takes CAP_BPF, CAP_PERFMON and CAP_SYSLOG, and no filter of system calls"
            );
            return;
        }
        let list = KernelSymbols::read().unwrap();
        let made = list.made.iter().map(|(start, made)| (*start, made.end));
        let code = list.entries.iter().map(|entry| (entry.start, entry.start + u64::from(entry.size)));
        let mut ends: Vec<u64> = code.chain(made).flat_map(|(start, end)| [start, end - 1]).collect();
        ends.sort_unstable();
        ends.dedup();
        let mut named = 0;
        // Where a kernel before 5.14 is asked, this fails.
        ask(&ends, |address, name| {
            assert_eq!(list.name(address).as_deref(), Some(name), "{address:x}");
            named += 1;
        })
        .unwrap();
        assert!(named * 1_000 > ends.len() * 999, "{named} of {} have a name", ends.len());
    }

    #[test]
    fn an_answer_that_may_not_be_the_lists_is_none() {
        let padded = |text: &str| {
            let mut answer = text.as_bytes().to_vec();
            answer.resize(NAME_BYTES, 0);
            answer
        };
        let check = |text: &str, expected: Option<&str>| {
            assert_eq!(name(&padded(text)).as_deref(), expected, "{text}");
        };
        check("schedule", Some("schedule"));
        check("nft_do_chain [nf_tables]", Some("nft_do_chain [nf_tables]"));
        check("bpf_prog_free_deferred", Some("bpf_prog_free_deferred"));
        check("bpf_trampoline_get", Some("bpf_trampoline_get"));
        check("bpf_prog_59508cc40cb8a3cf", Some("bpf_prog_59508cc40cb8a3cf [bpf]"));
        check("bpf_prog_59508cc40cb8a3cf_sd_devices", Some("bpf_prog_59508cc40cb8a3cf_sd_devices [bpf]"));
        check("bpf_trampoline_6442536467", Some("bpf_trampoline_6442536467 [bpf]"));
        check("bpf__tcp_congestion_ops_init", None);
        check("0xffffffffc0211000", None);
        check("_stext", None);
        check("", None);
        check(&"n".repeat(NAME_BYTES - 2), Some(&"n".repeat(NAME_BYTES - 2)));
        check(&"n".repeat(NAME_BYTES - 1), None);
        assert_eq!(name(&[b'n'; NAME_BYTES]), None);
    }
}
