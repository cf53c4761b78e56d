//! DWARF: function, file and line of each instruction, and the calls that were inlined there.
//!
//! Owns an index of the units by address, and the functions and lines of a few units that were asked about last. Units are
//! read when an address of them is asked for. Each question has a bound on its steps and the file one on all of them: a
//! unit that takes more is refused for good, and so is the file. Refuses split debug information (`.dwo`), supplementary
//! files (`dwz`) and type units, of which no address is.

mod functions;
mod inlined;
mod lines;
mod names;
mod places;
mod units;

use std::{convert::Infallible, sync::Arc};

use gimli::{Abbreviations, DebugInfoOffset, UnitOffset};

use super::{
    Refusal,
    piece::Piece,
    store::{Extent, Shared, Trouble},
};
use crate::symbols::{
    elf::Elf,
    file::{ReadAt, ReadError},
    gopclntab::Source,
};
use functions::Functions;
use lines::Lines;
use names::Described;
use places::Code;
use units::{Root, Units};

/// To index the units: a browser has 30,000, of some 200 steps each, and a few million ranges. Two seconds at most.
const INDEX_STEPS_MAX: u64 = 100_000_000;
const INDEX_BYTES_MAX: u64 = 512 << 20;
/// To read the functions and lines of one unit: 10 MiB of entries are about as many steps. A third of a second at most.
const UNIT_STEPS_MAX: u64 = 20_000_000;
const UNIT_BYTES_MAX: u64 = 128 << 20;
/// To answer when the unit is known: the entries of one function, and names from other units.
const LOOKUP_STEPS_MAX: u64 = 2_000_000;
const LOOKUP_BYTES_MAX: u64 = 16 << 20;
/// For all questions to one file, some ten seconds of a CPU.
const STEPS_MAX: u64 = 1_000_000_000;
/// What is kept of units, beside the index.
const KEPT_BYTES_MAX: usize = 12 << 20;
/// Units of which something is kept, also that they are of no use.
const KEPT_MAX: usize = 256;
/// Tables of abbreviations that are kept: neighbours and what they refer to.
const ABBREVIATIONS_MAX: usize = 16;

/// Sections that are read, in the order of [`Dwarf::extents`].
const SECTIONS: [&str; 9] = [
    ".debug_info",
    ".debug_abbrev",
    ".debug_str",
    ".debug_line",
    ".debug_line_str",
    ".debug_str_offsets",
    ".debug_addr",
    ".debug_ranges",
    ".debug_rnglists",
];

/// gimli's view of the sections, while one question is answered.
pub(super) type Sections<'a, R> = gimli::Dwarf<Piece<'a, R>>;

/// Why a unit is of no use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Flaw {
    /// It makes no sense.
    Damaged,
    /// It takes more steps, or more memory, than one may.
    Costly,
}

/// One function at an instruction.
#[derive(Debug, Default)]
pub(super) struct Found {
    pub(super) described: Described,
    pub(super) source: Option<Source>,
    pub(super) inlined: bool,
}

/// What is known of an instruction: innermost first; without functions, perhaps its line.
#[derive(Debug, Default)]
pub(super) struct Answer {
    pub(super) functions: Vec<Found>,
    pub(super) source: Option<Source>,
    /// Its unit is C++ or Rust, where a name without its scope is not all of it.
    pub(super) is_scoped: bool,
    pub(super) flaw: Option<Flaw>,
}

#[derive(Debug)]
struct Kept {
    unit: u32,
    used: u64,
    functions: Result<Functions, Flaw>,
    lines: Result<Lines, Flaw>,
}

impl Kept {
    fn bytes(&self) -> usize {
        self.functions.as_ref().map_or(0, Functions::bytes) + self.lines.as_ref().map_or(0, Lines::bytes)
    }
}

/// The debug information of one file.
#[derive(Debug)]
pub(super) struct Dwarf {
    extents: [Extent; SECTIONS.len()],
    code: Code,
    units: Units,
    abbreviations: Vec<(u64, Arc<Abbreviations>)>,
    kept: Vec<Kept>,
    uses: u64,
    steps: u64,
}

impl Dwarf {
    /// Indexes the units; `None` where there is no debug information.
    pub(super) fn load<R: ReadAt>(store: &Shared<R>, elf: &Elf) -> Result<Option<Dwarf>, Refusal> {
        if elf.section(SECTIONS[0]).is_none() {
            return Ok(None);
        }
        let code = Code::of(elf).ok_or(Refusal::Damaged)?;
        let mut extents = [Extent::default(); SECTIONS.len()];
        store.borrow_mut().allow(INDEX_STEPS_MAX, INDEX_BYTES_MAX);
        for (extent, name) in extents.iter_mut().zip(SECTIONS) {
            if let Some(section) = elf.section(name) {
                *extent = store.borrow_mut().section(section)?;
            }
        }
        let mut dwarf = Dwarf {
            extents,
            code,
            units: Units::default(),
            abbreviations: Vec::new(),
            kept: Vec::new(),
            uses: 0,
            steps: 0,
        };
        dwarf.units = Units::load(store, &dwarf.sections(store), code)?;
        Ok(Some(dwarf))
    }

    fn sections<'a, R: ReadAt>(&self, store: &'a Shared<R>) -> Sections<'a, R> {
        let Ok(sections) = gimli::Dwarf::load(|id| {
            let at = SECTIONS.iter().position(|name| *name == id.name());
            let extent = at.and_then(|at| self.extents.get(at)).copied();
            Ok::<_, Infallible>(Piece::new(store, extent.unwrap_or_default()))
        });
        sections
    }

    /// What is at an address.
    pub(super) fn find<R: ReadAt>(&mut self, store: &Shared<R>, address: u64) -> Answer {
        let mut answer = Answer::default();
        let Some(at) = self.code.at(address) else { return answer };
        let sections = self.sections(store);
        for unit in self.units.covering(at) {
            let flaw = answer.flaw;
            answer = match self.steps < STEPS_MAX {
                true => self.find_in(&sections, store, unit, at),
                false => Answer { flaw: Some(Flaw::Costly), ..Answer::default() },
            };
            answer.flaw = answer.flaw.or(flaw);
            if !answer.functions.is_empty() || answer.source.is_some() {
                break;
            }
        }
        answer
    }

    fn find_in<'a, R: ReadAt>(
        &mut self,
        sections: &Sections<'a, R>,
        store: &'a Shared<R>,
        unit: u32,
        at: u32,
    ) -> Answer {
        store.borrow_mut().allow(UNIT_STEPS_MAX, UNIT_BYTES_MAX);
        let mut reading = Reading {
            sections,
            store,
            code: self.code,
            units: &self.units,
            abbreviations: &mut self.abbreviations,
        };
        let root = match reading.open(unit) {
            Ok(root) => root,
            Err(flaw) => return Answer { flaw: Some(flaw), ..Answer::default() },
        };
        self.uses += 1;
        let known = self.kept.iter().position(|kept| kept.unit == unit);
        let kept = known.map_or_else(|| reading.keep(unit, &root), |known| self.kept.swap_remove(known));
        self.steps += UNIT_STEPS_MAX - store.borrow().steps_left();
        store.borrow_mut().allow(LOOKUP_STEPS_MAX, LOOKUP_BYTES_MAX);
        let answer = reading.answer(&root, &kept, at);
        self.steps += LOOKUP_STEPS_MAX - store.borrow().steps_left();
        self.keep(kept);
        answer
    }

    /// Keeps a unit that was used just now, and forgets those that were not for the longest time.
    fn keep(&mut self, mut kept: Kept) {
        kept.used = self.uses;
        let room = KEPT_BYTES_MAX.saturating_sub(kept.bytes());
        while self.kept.len() >= KEPT_MAX || self.kept.iter().map(Kept::bytes).sum::<usize>() > room {
            let oldest = self.kept.iter().enumerate().min_by_key(|(_, kept)| kept.used).map(|(at, _)| at);
            let Some(oldest) = oldest else { break };
            self.kept.swap_remove(oldest);
        }
        self.kept.push(kept);
    }
}

/// What one question needs.
struct Reading<'s, 'a, R> {
    sections: &'s Sections<'a, R>,
    store: &'a Shared<R>,
    code: Code,
    units: &'s Units,
    abbreviations: &'s mut Vec<(u64, Arc<Abbreviations>)>,
}

impl<'a, R: ReadAt> Reading<'_, 'a, R> {
    fn flaw(&self) -> Flaw {
        match self.store.borrow().trouble() {
            Some(Trouble::Work | Trouble::Read(ReadError::Budget)) => Flaw::Costly,
            _ => Flaw::Damaged,
        }
    }

    fn open(&mut self, unit: u32) -> Result<Root<'a, R>, Flaw> {
        let offset = self.units.offset(unit).ok_or(Flaw::Damaged)?;
        let header = self.sections.debug_info.header_from_offset(DebugInfoOffset(offset));
        let header = header.map_err(|_| self.flaw())?;
        let table = header.debug_abbrev_offset().0;
        let abbreviations = match self.abbreviations.iter().position(|(offset, _)| *offset == table) {
            Some(at) => self.abbreviations.remove(at).1,
            None => units::abbreviations_of(self.store, self.sections, &header).map_err(|_| self.flaw())?,
        };
        // The last used is the last of them.
        if self.abbreviations.len() >= ABBREVIATIONS_MAX {
            self.abbreviations.remove(0);
        }
        self.abbreviations.push((table, Arc::clone(&abbreviations)));
        Root::read(self.sections, header, abbreviations).map_err(|_| self.flaw())
    }

    fn keep(&mut self, unit: u32, root: &Root<'a, R>) -> Kept {
        let functions = Functions::load(self.sections, self.store, root, self.code);
        let functions = functions.map_err(|_| self.flaw());
        let lines = Lines::load(self.sections, self.store, root, self.code);
        Kept { unit, used: 0, functions, lines: lines.map_err(|_| self.flaw()) }
    }

    fn answer(&mut self, root: &Root<'a, R>, kept: &Kept, at: u32) -> Answer {
        let mut answer = Answer { is_scoped: root.is_scoped(), ..Answer::default() };
        answer.flaw = kept.functions.as_ref().err().or(kept.lines.as_ref().err()).copied();
        let mut files = lines::Files::new(self.sections, root);
        let place = kept.lines.as_ref().ok().and_then(|lines| lines.find(at));
        answer.source = place.and_then(|place| files.source(place));
        let function = kept.functions.as_ref().ok().and_then(|functions| functions.find(at));
        if let Some(entry) = function {
            match self.functions(root, (UnitOffset(u64::from(entry)), at), &mut files, answer.source.clone())
            {
                Ok(functions) => answer.functions = functions,
                Err(_) => answer.flaw = Some(self.flaw()),
            }
        }
        answer
    }

    /// The chain of calls at an instruction: each is described, and its caller's line is where it was called.
    fn functions(
        &mut self,
        root: &Root<'a, R>,
        (entry, at): (UnitOffset<u64>, u32),
        files: &mut lines::Files<'_, 'a, R>,
        mut source: Option<Source>,
    ) -> gimli::Result<Vec<Found>> {
        let calls = inlined::calls(self.sections, &root.unit, entry, (self.code, at))?;
        let mut found = Vec::with_capacity(calls.len() + 1);
        for call in calls.iter().rev() {
            let described = self.describe(root, call.entry)?;
            let from = call.place.and_then(|place| files.source(place));
            found.push(Found { described, source: std::mem::replace(&mut source, from), inlined: true });
        }
        found.push(Found { described: self.describe(root, entry)?, source, inlined: false });
        Ok(found)
    }
}
