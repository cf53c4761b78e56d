//! Stacks of code without frame pointers: the callers that unwinding tables tell of, from three registers and a copy of the
//! stack.
//!
//! Owns the decision how each frame is left. Where a table covers it, by the table. Where none does (memory, Go, a file
//! that cannot be read), by the frame pointer, as the kernel has done. Where the copy ends, by the kernel's walk again, but
//! only through functions of which the table says that they keep a frame record. Refuses names, and refuses to go on where
//! none of this holds: such a stack is cut short and says so.
//!
//! The tables are read with `gimli`. A ready-made unwinder (`framehop`) was weighed: it goes on by frame pointer wherever a
//! table fails without a word, does not follow signal frames, sets no bound to the expressions of a hostile file, and wants
//! whole sections in memory for each process.

mod chain;
mod expression;
pub mod image;
mod rule;
pub mod table;
mod tables;

use crate::binaries::Binaries;
use crate::perf::attr::REGISTERS;
use crate::perf::modules::Mappings;
use crate::perf::record::Sample;

use crate::perf::copied::Copied;
use chain::Chain;
use rule::{Fault, RECORD_BYTES, Registers, Rule};
use tables::Tables;
pub use tables::Work;

/// Frames of one stack. What recursion piles up beyond says nothing new, and every output has to carry it.
pub const FRAMES_MAX: usize = 512;

/// How a stack was made.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Walk {
    /// As the kernel walked it.
    FramePointer,
    /// By tables, from the leaf to the end.
    Dwarf,
    /// By tables here and by frame pointers there.
    Mixed,
    /// It goes on, but not for us: the copy of the stack ends, or nothing tells where the caller is. What is there is
    /// right.
    CutShort,
}

/// The user part of one sample's stack.
#[derive(Clone, Copy, Debug)]
pub struct Walked<'a> {
    /// Where it was, then where each call returns to, the one after the other up to the program's beginning.
    pub addresses: &'a [u64],
    /// How that was found.
    pub walk: Walk,
    /// Whether it goes on beyond the copy of the stack, or is deeper than [`FRAMES_MAX`]: more bytes would help.
    pub is_truncated: bool,
}

/// What came of the walks so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// As the kernel walked them.
    pub frame_pointer: u64,
    /// By tables alone.
    pub dwarf: u64,
    /// By both.
    pub mixed: u64,
    /// That do not reach their end.
    pub cut_short: u64,
    /// Those of them for which more bytes of stack would have helped.
    pub truncated: u64,
}

impl Counts {
    fn add(&mut self, walked: &Walked<'_>) {
        match walked.walk {
            Walk::FramePointer => self.frame_pointer += 1,
            Walk::Dwarf => self.dwarf += 1,
            Walk::Mixed => self.mixed += 1,
            Walk::CutShort => self.cut_short += 1,
        }
        self.truncated += u64::from(walked.is_truncated);
    }
}

/// Walks stacks, of all processes.
#[derive(Debug)]
pub struct Walker {
    tables: Tables,
    addresses: Vec<u64>,
    counts: Counts,
}

/// Where a walk stands.
#[derive(Clone, Copy, Debug)]
enum Stand {
    /// All registers of the frame are known.
    Known(Registers),
    /// Only where it is: the address at this place of the kernel's chain.
    Chained(usize),
}

/// Why there is no next frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stop {
    /// Nobody called the last one.
    End,
    /// The copy of the stack ends.
    Beyond,
    /// Nothing tells.
    Lost,
}

impl Walker {
    /// Reads tables of these files.
    #[must_use]
    pub fn new(binaries: Binaries) -> Walker {
        Walker { tables: Tables::new(binaries), addresses: Vec::new(), counts: Counts::default() }
    }

    /// The user part of a sample's stack. `pid` is only for finding files; what is mapped where is in `mappings`.
    pub fn walk(&mut self, pid: u32, mappings: &Mappings, sample: &Sample<'_>) -> Walked<'_> {
        self.tables.begin_walk();
        self.addresses.clear();
        let (walk, is_truncated) = match registers(sample) {
            Some(registers) if !mappings.is_empty() => self.follow((pid, mappings), sample, registers),
            // Nothing is known of this process but what the kernel says.
            _ => {
                self.addresses.extend(sample.user.iter());
                (Walk::FramePointer, false)
            }
        };
        let walked = Walked { addresses: &self.addresses, walk, is_truncated };
        self.counts.add(&walked);
        walked
    }

    /// What came of the walks so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        self.counts
    }

    /// What it took.
    #[must_use]
    pub fn work(&self) -> Work {
        self.tables.work()
    }

    fn follow(
        &mut self,
        (pid, mappings): (u32, &Mappings),
        sample: &Sample<'_>,
        leaf: Registers,
    ) -> (Walk, bool) {
        let stack = Copied { start: leaf.sp, bytes: sample.stack };
        let chain = Chain { addresses: sample.user, fp: leaf.fp, stack };
        let (mut stand, mut is_exact) = (Stand::Known(leaf), true);
        let (mut by_table, mut by_chain) = (0_usize, 0_usize);
        self.addresses.push(leaf.pc);
        let stop = loop {
            let Some(pc) = self.addresses.last().copied() else { break Stop::Lost };
            if self.addresses.len() >= FRAMES_MAX {
                break Stop::Beyond;
            }
            // A call may be the last instruction of its function: what it returns to is another one's.
            let place = mappings.locate(if is_exact { pc } else { pc.wrapping_sub(1) });
            let rule = match place {
                Some(place) => self.tables.rule(pid, place.module, place.offset),
                None => &Rule::Unknown,
            };
            let is_leaf = self.addresses.len() == 1;
            let (next, address, is_by_table) = match left(rule, stand, &chain, is_leaf) {
                Ok(next) => next,
                Err(stop) => break stop,
            };
            is_exact = rule.is_signal();
            // By frame pointer one may land anywhere; by a table too, when the stack is not what the table thinks.
            let before = if is_exact { address } else { address.wrapping_sub(1) };
            if mappings.locate(before).is_none() {
                break Stop::Lost;
            }
            by_table += usize::from(is_by_table);
            by_chain += usize::from(!is_by_table);
            stand = next;
            self.addresses.push(address);
        };
        let walk = match (stop, by_table, by_chain) {
            (Stop::Beyond | Stop::Lost, ..) => Walk::CutShort,
            (Stop::End, 0, _) => Walk::FramePointer,
            (Stop::End, _, 0) => Walk::Dwarf,
            (Stop::End, ..) => Walk::Mixed,
        };
        (walk, stop == Stop::Beyond)
    }
}

/// Leaves one frame: where the walk stands then, the address there, and whether a table led to it.
fn left(rule: &Rule, stand: Stand, chain: &Chain<'_>, is_leaf: bool) -> Result<(Stand, u64, bool), Stop> {
    let has_record = match rule {
        Rule::End => return Err(Stop::End),
        Rule::Unknown => true,
        Rule::Frame(frame) => frame.is_record(),
        Rule::Computed(_) => false,
    };
    let registers = match stand {
        Stand::Known(registers) => registers,
        Stand::Chained(place) if has_record => return chained(chain, place, rule),
        Stand::Chained(_) => return Err(Stop::Beyond),
    };
    if *rule == Rule::Unknown {
        return by_record(&registers, chain, is_leaf);
    }
    match rule::step(rule, &registers, &chain.stack, is_leaf) {
        Ok(Some(next)) => Ok((Stand::Known(next), next.pc, true)),
        Ok(None) => Err(Stop::End),
        Err(Fault::Beyond) if has_record => by_record(&registers, chain, is_leaf),
        Err(Fault::Beyond) => Err(Stop::Beyond),
        Err(Fault::Nonsense) => Err(Stop::Lost),
    }
}

/// By the frame record that the frame pointer points to: in the copy, or as the kernel has seen it.
fn by_record(registers: &Registers, chain: &Chain<'_>, is_leaf: bool) -> Result<(Stand, u64, bool), Stop> {
    let record = registers.fp;
    if record == 0 {
        // So begin threads of programs that keep frame pointers; but a leaf that nobody has called is none.
        return Err(if is_leaf { Stop::Lost } else { Stop::End });
    }
    let is_above = record >= registers.sp;
    let words = chain.stack.word(record).zip(chain.stack.word(record.wrapping_add(8)));
    if let Some((fp, pc)) = words.filter(|_| is_above) {
        if pc == 0 {
            return Err(Stop::End);
        }
        let sp = record.saturating_add(RECORD_BYTES);
        return Ok((Stand::Known(Registers { pc, sp, fp, lr: None }), pc, false));
    }
    // Beyond the copy, or on another stack, as where Go has changed to the thread's.
    let lost = if is_above { Stop::Beyond } else { Stop::Lost };
    let place = chain.place_of(record).ok_or(lost)?;
    let address = chain.addresses.get(place).ok_or(lost)?;
    Ok((Stand::Chained(place), address, false))
}

/// On along the kernel's chain, where the copy does not reach.
fn chained(chain: &Chain<'_>, place: usize, rule: &Rule) -> Result<(Stand, u64, bool), Stop> {
    match chain.addresses.get(place + 1) {
        Some(address) => Ok((Stand::Chained(place + 1), address, false)),
        // Where nothing but frame pointers is known, their end is the end.
        None if *rule == Rule::Unknown => Err(Stop::End),
        None => Err(Stop::Beyond),
    }
}

/// A sample's registers, in the order of [`REGISTERS`].
fn registers(sample: &Sample<'_>) -> Option<Registers> {
    let at = |place| sample.registers.get(place);
    let last = REGISTERS.len() - 1;
    let lr = if cfg!(target_arch = "aarch64") { at(1) } else { None };
    Some(Registers { pc: at(last)?, sp: at(last - 1)?, fp: at(0)?, lr })
}

/// For tests and fuzzers: walks by the table of one file alone, which is taken to be mapped at its own offsets, and says
/// how many frames that gives.
#[cfg(any(test, fuzzing))]
pub fn walk_file(file: &[u8], [pc, sp, fp]: [u64; 3], stack: &[u8]) -> usize {
    let Ok(mut table) = table::Table::open(file) else { return 0 };
    let (mut evaluator, stack) = (table::Evaluator::default(), Copied { start: sp, bytes: stack });
    let mut registers = Registers { pc, sp, fp, lr: None };
    let mut frames = 1;
    while frames < FRAMES_MAX {
        let (rule, _cost) = table.rule(registers.pc, &mut evaluator);
        match rule::step(&rule, &registers, &stack, frames == 1) {
            Ok(Some(next)) => registers = next,
            Ok(None) | Err(_) => break,
        }
        frames += 1;
    }
    frames
}

#[cfg(test)]
mod tests;
