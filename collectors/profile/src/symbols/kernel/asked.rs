//! Names of kernel code from the kernel itself, for some addresses.
//!
//! Owns the question. To print its whole list takes a kernel some 50 ms, which for a short capture is half of what it
//! costs; its own search for one address takes a microsecond, and what prints addresses for its log does that search. A
//! program of a few instructions calls it (`bpf_snprintf`, Linux 5.14). It is attached to nothing, runs when it is asked,
//! and is gone with the question. Refuses to guess: an answer that may not be what the list has is none.

use std::{io, path::Path};

use rustix::thread::{self, CapabilitySet, SecureComputingMode};

use super::{
    LIST, is_shown,
    list::MARKS,
    sys::{Array, Instruction, Program},
    written,
};

/// Addresses a run. So many are some 250 instructions.
const ADDRESSES: usize = 32;
const ADDRESS_BYTES: usize = 8;
/// A name and its module. The longest of a plain kernel has some 60 bytes; one that does not fit counts as none.
const NAME_BYTES: usize = 256;
const VALUE_BYTES: usize = ADDRESSES * (ADDRESS_BYTES + NAME_BYTES);

/// `name`, or `name [module]`, or the address where there is none (the kernel's `printk-formats`).
const FORMAT: &[u8; 8] = b"%ps\0\0\0\0\0";
/// The helper's number in `linux/bpf.h`.
const SNPRINTF: i32 = 165;
/// What `bpftool` shows.
const TITLE: &[u8; 16] = b"backburn_names\0\0";
/// What our own program is called as code, behind its tag.
const OURS: &str = "_backburn_names";

/// Of so many: in a module the kernel looks at each function it has, and a thousand such searches take as long as the list.
const ADDRESSES_MAX: usize = 4 << 10;
/// A signal that comes while the kernel proves that a program does no harm ends the proof.
const ATTEMPTS: u32 = 5;

/// What the kernel says of an address.
#[derive(Debug, PartialEq, Eq)]
enum Answer<'a> {
    /// The name that is in the list too.
    Name(&'a str),
    /// There is none, or it is not sure to be the list's.
    Nameless,
    /// It is code that was made while the kernel ran. Of it the list knows more, and what it said of others that were there.
    Made,
}

/// Takes each of these addresses that has a name, in their order; false where only the list will do.
pub(super) fn each(addresses: &[u64], take: impl FnMut(u64, &str)) -> bool {
    addresses.len() <= ADDRESSES_MAX && may_ask() && ask(addresses, take).is_ok_and(|is_all| is_all)
}

fn may_ask() -> bool {
    // A filter of system calls may kill who tries one.
    let is_free = thread::secure_computing_mode().is_ok_and(|mode| mode == SecureComputingMode::Disabled);
    let needed = CapabilitySet::BPF | CapabilitySet::PERFMON;
    let is_able = is_free && thread::capabilities(None).is_ok_and(|sets| sets.effective.contains(needed));
    // Names are withheld with addresses.
    is_able && is_shown(Path::new(LIST))
}

/// False when it met code that was made.
fn ask(addresses: &[u64], mut take: impl FnMut(u64, &str)) -> io::Result<bool> {
    let format = Array::constant(FORMAT, TITLE)?;
    let answers = Array::new(VALUE_BYTES, TITLE)?;
    let program = load(&program(&answers, &format))?;
    let mut value = vec![0; VALUE_BYTES];
    for asked in addresses.chunks(ADDRESSES) {
        // An address that is not answered has no name of an earlier one.
        value.fill(0);
        for (place, address) in value.chunks_exact_mut(ADDRESS_BYTES).zip(asked) {
            place.copy_from_slice(&address.to_ne_bytes());
        }
        answers.put(&value)?;
        program.run()?;
        answers.get(&mut value)?;
        let (_, answers) = value.split_at(ADDRESSES * ADDRESS_BYTES);
        for (answer, address) in answers.chunks_exact(NAME_BYTES).zip(asked) {
            match Answer::of(answer) {
                Answer::Name(name) => take(*address, name),
                Answer::Nameless => {}
                Answer::Made => return Ok(false),
            }
        }
    }
    Ok(true)
}

fn load(code: &[Instruction]) -> io::Result<Program> {
    let mut attempt = 1;
    loop {
        match Program::load(code, TITLE) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock && attempt < ATTEMPTS => attempt += 1,
            done => return done,
        }
    }
}

impl Answer<'_> {
    fn of(answer: &[u8]) -> Answer<'_> {
        let Some(end) = memchr::memchr(0, answer) else { return Answer::Nameless };
        // One that fills its place may have been longer.
        let text = answer.get(..end).filter(|_| end + 1 < NAME_BYTES);
        // What is cut from a name stands before its module.
        let text = text.filter(|text| !text.ends_with(b"]") || written(text) == *text).map(written);
        // The list has better names for what begins at a mark.
        let text = text.filter(|text| !MARKS.contains(text)).and_then(|text| str::from_utf8(text).ok());
        match text {
            // We came after the samples, where another was that went.
            Some(text) if text.contains(OURS) => Answer::Nameless,
            Some(text) if is_made(text) => Answer::Made,
            Some(text) if !text.is_empty() && !text.starts_with("0x") => Answer::Name(text),
            Some(_) | None => Answer::Nameless,
        }
    }
}

/// Programs have their tag in their name, trampolines a number; functions of the kernel that deal with these have neither.
/// Others are called after where they hook in, as functions of the kernel are too.
fn is_made(name: &str) -> bool {
    let is_tag =
        |rest: &str| rest.get(..16).is_some_and(|tag| tag.bytes().all(|digit| digit.is_ascii_hexdigit()));
    let is_number = |rest: &str| rest.starts_with(|digit: char| digit.is_ascii_digit());
    let name = name.strip_prefix("__cfi_").unwrap_or(name);
    name.strip_prefix("bpf_prog_").is_some_and(is_tag)
        || name.strip_prefix("bpf_trampoline_").is_some_and(is_number)
        || ["bpf_dispatcher_", "bpf__"].iter().any(|prefix| name.starts_with(prefix))
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
    use crate::symbols::kernel::{Entry, KernelSymbols};

    #[test]
    fn every_function_has_the_name_that_the_list_has() {
        if !may_ask() {
            eprintln!(
                "not tried: it takes CAP_BPF, CAP_PERFMON and CAP_SYSLOG, and no filter of system calls"
            );
            return;
        }
        let list = KernelSymbols::read().unwrap();
        // Some functions of the kernel's are taken for code that was made, by their names.
        let is_plain = |entry: &&Entry| !is_made(&list.text(entry.name));
        let ends: Vec<u64> = list
            .entries
            .iter()
            .filter(is_plain)
            .flat_map(|entry| [entry.start, entry.start + u64::from(entry.size) - 1])
            .collect();
        let mut named = 0;
        let asked = ask(&ends, |address, name| {
            assert_eq!(list.name(address).as_deref(), Some(name), "{address:x}");
            named += 1;
        });
        match asked {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => eprintln!("not tried: {error}"),
            // Fails where a kernel before 5.14 is asked, too.
            asked => {
                assert!(asked.unwrap(), "the list calls code that was made a function of the kernel's");
                assert!(named * 1_000 > ends.len() * 999, "{named} of {} have a name", ends.len());
            }
        }
    }

    #[test]
    fn an_answer_that_may_not_be_the_lists_is_no_name() {
        let check = |text: &str, expected: Answer<'_>| {
            let mut answer = text.as_bytes().to_vec();
            answer.resize(NAME_BYTES, 0);
            assert_eq!(Answer::of(&answer), expected, "{text}");
        };
        for name in ["schedule", "nft_do_chain [nf_tables]", "bpf_prog_free_deferred", "bpf_trampoline_get"] {
            check(name, Answer::Name(name));
        }
        check("alloc.llvm.1302", Answer::Name("alloc"));
        for made in [
            "bpf_prog_59508cc40cb8a3cf",
            "bpf_prog_59508cc40cb8a3cf_sd_devices",
            "__cfi_bpf_prog_59508cc40cb8a3cf_sd_devices",
            "bpf_trampoline_6442536467",
            "bpf__tcp_congestion_ops_init",
        ] {
            check(made, Answer::Made);
        }
        for none in [
            "",
            "alloc.llvm.1302 [zfs]",
            "0xffffffffc0211000",
            "_stext",
            "bpf_prog_59508cc40cb8a3cf_backburn_names",
        ] {
            check(none, Answer::Nameless);
        }
        let long = "n".repeat(NAME_BYTES - 1);
        check(&long, Answer::Nameless);
        check(&long[1..], Answer::Name(&long[1..]));
        assert_eq!(Answer::of(&[b'n'; NAME_BYTES]), Answer::Nameless);
    }
}
