//! The true callers of Go's leaves: what the kernel's walk along frame pointers leaves out is put in.
//!
//! Owns what is remembered of instructions, and the account of what was mended and what could not be. The kernel's walk
//! begins at the frame pointer, which is the caller's while a function has no frame: at its beginning, at its end, and all
//! the time in small ones and in much of Go's assembly. Then the direct caller is missing, in about half of all samples of
//! an etcd. Refuses to touch code that Go did not build, to put in what no table vouches for, and to wait for a file: a
//! thread of its own opens them, and samples that come before go on as they are, counted.

mod answers;
#[cfg(fuzzing)]
pub mod fuzzing;
mod opener;
mod statistics;
mod walk;

use crate::binaries::{Binaries, Binary};
use crate::perf::attr::REGISTERS;
use crate::perf::copied::Copied;
use crate::perf::modules::{Kind, Mappings, Place};
use crate::perf::record::{Sample, Words};
use crate::perf::session::Seen;
use crate::symbols::elf::Machine;
use crate::symbols::gopclntab::{FrameLayout, Pc, Role};

use answers::{Answers, Key};
use opener::{Found, Opener};
pub use statistics::Statistics;
use walk::{At, Ending, Known, Registers, Walked, Why};

/// What we run on, and so what the processes run on whose registers we get.
#[cfg(target_arch = "x86_64")]
const MACHINE: Machine = Machine::X86_64;
/// What we run on, and so what the processes run on whose registers we get.
#[cfg(target_arch = "aarch64")]
const MACHINE: Machine = Machine::Arm64;

/// How far up the stack whoever called the kernel's page of user code is looked for: functions there save at most as much.
const PAGE_WORDS_MAX: u64 = 8;

/// Mends chains. Once what it meets is known it allocates nothing.
#[derive(Debug)]
pub struct Unwinder {
    opener: Opener,
    answers: Answers,
    mended: Vec<u8>,
    statistics: Statistics,
}

impl Unwinder {
    /// With files that others may use too.
    #[must_use]
    pub fn new(binaries: Binaries) -> Unwinder {
        Unwinder {
            opener: Opener::new(binaries),
            answers: Answers::default(),
            mended: Vec::new(),
            statistics: Statistics::default(),
        }
    }

    /// What was done so far.
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        self.statistics
    }

    /// The user addresses of a sample as they should be; as they are where nothing is missing or nothing can be known.
    pub fn callers<'a>(&'a mut self, seen: &Seen<'a>) -> Words<'a> {
        let user = seen.sample.user;
        if let Some(caller) = self.caller_of_page(seen) {
            self.statistics.page += 1;
            let leaf = user.get(0).unwrap_or_default();
            return self.joined(&[leaf, caller], user.iter().skip(1));
        }
        let Some((registers, walked)) = self.walked(seen) else { return user };
        self.count(&walked);
        let is_cut = matches!(walked.ending, Ending::Broken | Ending::Bottom);
        if user.get(0) != Some(registers.instruction) || (walked.added == 0 && !is_cut) {
            return user;
        }
        let rest = if is_cut { user.len() } else { walked.resume };
        self.joined(walked.addresses(), user.iter().skip(rest))
    }

    /// Whether the leaf is code that Go did not build, which [`Unwinder::callers`] gives back as it is.
    pub fn leaves_alone(&mut self, seen: &Seen<'_>) -> bool {
        let Some(registers) = registers(&seen.sample) else { return false };
        let leaf = seen.process.and_then(|process| process.mappings.locate(registers.instruction));
        leaf.is_some_and(|leaf| matches!(self.opener.found(leaf.module, seen.meta), Found::Other))
    }

    fn joined(&mut self, addresses: &[u64], rest: impl Iterator<Item = u64>) -> Words<'_> {
        self.mended.clear();
        for address in addresses.iter().copied().chain(rest) {
            self.mended.extend_from_slice(&address.to_ne_bytes());
        }
        Words::new(&self.mended)
    }

    /// Who called the kernel's page of user code, when the chain does not have it: the page's functions have frame pointers,
    /// but no table that is read here says where they are being set up.
    ///
    /// Go calls it from a few functions in assembly that move to another stack for it, and from nowhere else. Such a
    /// function's address is on that stack only as where the page returns to.
    fn caller_of_page(&mut self, seen: &Seen<'_>) -> Option<u64> {
        let (registers, mappings) = (registers(&seen.sample)?, &seen.process?.mappings);
        if mappings.locate(registers.instruction)?.module.kind != Kind::Vdso {
            return None;
        }
        let copied = Copied { start: registers.stack, bytes: seen.sample.stack };
        let next = seen.sample.user.get(1)?;
        let is_in_page = mappings.locate(next).is_some_and(|place| place.module.kind == Kind::Vdso);
        if is_in_page || self.calls_page(mappings, next, seen) {
            return None;
        }
        let saved =
            (0..PAGE_WORDS_MAX).filter_map(|word| copied.word(registers.stack.wrapping_add(8 * word)));
        registers.link.into_iter().chain(saved).find(|word| self.calls_page(mappings, *word, seen))
    }

    /// Whether a call returns into one of those functions.
    fn calls_page(&mut self, mappings: &Mappings, address: u64, seen: &Seen<'_>) -> bool {
        let at = At::Return(address);
        let Some(place) = mappings.locate(at.instruction()) else { return false };
        let known = known(&mut self.opener, &mut self.answers, (at, place), seen);
        matches!(known, Known::Go { delta: None, role: Role::Plain })
    }

    /// A walk, if the leaf is Go's.
    fn walked(&mut self, seen: &Seen<'_>) -> Option<(Registers, Walked)> {
        let Some(registers) = registers(&seen.sample) else {
            self.statistics.without_registers += 1;
            return None;
        };
        let mappings = &seen.process?.mappings;
        let Some(leaf) = mappings.locate(registers.instruction) else {
            self.statistics.nowhere += 1;
            return None;
        };
        match self.opener.found(leaf.module, seen.meta) {
            Found::Go => {}
            Found::Other => {
                self.statistics.other_code += 1;
                return None;
            }
            Found::NotYet => {
                self.statistics.not_yet += 1;
                return None;
            }
            Found::Missing(missing) => {
                self.statistics.missed(missing);
                return None;
            }
        }
        if self.opener.has_changed() {
            self.answers.forget();
        }
        let copied = Copied { start: registers.stack, bytes: seen.sample.stack };
        let (opener, answers) = (&mut self.opener, &mut self.answers);
        let chain = |at| seen.sample.user.get(at);
        let walked = walk::walk(MACHINE, registers, copied, chain, |at| {
            let place = mappings.locate(at.instruction());
            place.map_or(Known::Nothing, |place| known(opener, answers, (at, place), seen))
        });
        Some((registers, walked))
    }

    fn count(&mut self, walked: &Walked) {
        let counts = &mut self.statistics;
        counts.go += 1;
        counts.added += u64::try_from(walked.added).unwrap_or(0);
        counts.mended += u64::from(walked.added > 0);
        match walked.ending {
            Ending::Linked if walked.added == 0 => counts.complete += 1,
            Ending::Linked => {}
            Ending::Bottom => counts.bottom += 1,
            Ending::Broken => counts.broken += 1,
            Ending::Open(why) => match why {
                Why::NoDelta => counts.no_delta += 1,
                Why::OutOfReach => counts.out_of_reach += 1,
                Why::NotCode => counts.not_code += 1,
            },
        }
    }
}

impl At {
    /// The instruction that is meant: of a call it is the call.
    fn instruction(self) -> u64 {
        match self {
            At::Next(address) => address,
            At::Return(address) => address.wrapping_sub(1),
        }
    }
}

fn registers(sample: &Sample<'_>) -> Option<Registers> {
    let all = sample.registers;
    if all.len() != REGISTERS.len() {
        return None;
    }
    let at = |from_end: usize| all.get(all.len().checked_sub(from_end)?);
    let link = if MACHINE == Machine::Arm64 { Some(at(3)?) } else { None };
    Some(Registers { frame: all.get(0)?, link, stack: at(2)?, instruction: at(1)? })
}

fn known(opener: &mut Opener, answers: &mut Answers, (at, place): (At, Place<'_>), seen: &Seen<'_>) -> Known {
    let key = Key { module: place.module.id, offset: place.offset, is_return: matches!(at, At::Return(_)) };
    if let Some(known) = answers.get(&key) {
        return known;
    }
    let Some(binary) = opener.binary(place.module, seen.meta) else { return Known::Code };
    let known = look_up(&binary, at, place.offset);
    answers.put(key, known);
    known
}

/// What the tables say. Nothing that a damaged one says is more than an address that has no table.
fn look_up(binary: &Binary, at: At, offset: u64) -> Known {
    let Some(address) = binary.address_of(offset) else { return Known::Code };
    let pc = match at {
        At::Next(_) => Pc::Sampled(address),
        At::Return(_) => Pc::Return(address.wrapping_add(1)),
    };
    let mut symbols = binary.go();
    let Some(go) = symbols.as_mut() else { return Known::Code };
    let Ok(Some(FrameLayout { start, role, sp_delta })) = go.frame_layout(pc) else { return Known::Code };
    // Before the first instruction nothing has been pushed, whatever the function does to the stack later.
    let is_first = start == address && matches!(at, At::Next(_));
    Known::Go { delta: if is_first { Some(0) } else { sp_delta }, role }
}
