//! The units of a file, by address: which one to read for an instruction.
//!
//! Owns their index. A unit that does not say where its code is has none here.

use std::sync::Arc;

use gimli::{Abbreviations, DebugLineOffset, DwLang, Unit, UnitHeader, UnitType};

use super::{
    super::{
        Refusal,
        piece::Piece,
        store::{Shared, Trouble},
    },
    Code, Sections,
    places::Place,
};
use crate::symbols::file::{ReadAt, ReadError};

/// A browser has 30,000; eight bytes each.
const UNITS_MAX: usize = 256 << 10;
/// Twelve bytes each; where each function is a section of its own, as Rust has them, there is one for each function. The
/// ranges of a unit with nobody else's between them become one.
const RANGES_MAX: usize = 2 << 20;
/// For one table of abbreviations: the largest real ones take a fifth.
const ABBREVIATIONS_STEPS_MAX: u64 = 100_000;
/// Ranges that begin before an address and are looked at: units within others' ranges are rare.
const LOOKED_AT_MAX: usize = 16;
/// Of them, those that cover it and are asked.
const ASKED_MAX: usize = 4;

#[derive(Clone, Copy, Debug)]
struct Range {
    begin: u32,
    end: u32,
    unit: u32,
}

/// All units, in the order of the file, and their ranges, in the order of addresses.
#[derive(Debug, Default)]
pub(super) struct Units {
    offsets: Vec<u64>,
    ranges: Vec<Range>,
}

/// The first entry of a unit.
pub(super) struct Root<'a, R: ReadAt> {
    pub(super) unit: Unit<Piece<'a, R>>,
    pub(super) lines: Option<DebugLineOffset<u64>>,
    place: Place<'a, R>,
    language: Option<DwLang>,
}

impl<'a, R: ReadAt> Root<'a, R> {
    pub(super) fn read(
        sections: &Sections<'a, R>,
        header: UnitHeader<Piece<'a, R>>,
        abbreviations: Arc<Abbreviations>,
    ) -> gimli::Result<Root<'a, R>> {
        let mut root = Root {
            unit: unit(sections, header, abbreviations),
            lines: None,
            place: Place::new(),
            language: None,
        };
        let (mut name, mut folder) = (None, None);
        let abbreviations = Arc::clone(&root.unit.abbreviations);
        let mut entries = root.unit.header.entries_raw(&abbreviations, None)?;
        let Some(entry) = entries.read_abbreviation()? else { return Ok(root) };
        for attribute in entry.attributes() {
            let attribute = entries.read_attribute(*attribute)?;
            root.place.take(&attribute);
            match (attribute.name(), attribute.value()) {
                (gimli::DW_AT_name, value) => name = Some(value),
                (gimli::DW_AT_comp_dir, value) => folder = Some(value),
                (gimli::DW_AT_stmt_list, gimli::AttributeValue::DebugLineRef(at)) => root.lines = Some(at),
                (gimli::DW_AT_language, gimli::AttributeValue::Language(language)) => {
                    root.language = Some(language);
                }
                (_, gimli::AttributeValue::DebugStrOffsetsBase(base)) => root.unit.str_offsets_base = base,
                (_, gimli::AttributeValue::DebugAddrBase(base)) => root.unit.addr_base = base,
                (_, gimli::AttributeValue::DebugRngListsBase(base)) => root.unit.rnglists_base = base,
                _ => {}
            }
        }
        // Only now are the bases known that these are counted from.
        root.unit.name = name.and_then(|name| sections.attr_string(&root.unit, name).ok());
        root.unit.comp_dir = folder.and_then(|folder| sections.attr_string(&root.unit, folder).ok());
        root.unit.low_pc = root.place.low(sections, &root.unit)?.unwrap_or(0);
        Ok(root)
    }

    /// Is it C++ or Rust?
    pub(super) fn is_scoped(&self) -> bool {
        matches!(
            self.language,
            Some(
                gimli::DW_LANG_C_plus_plus
                    | gimli::DW_LANG_C_plus_plus_03
                    | gimli::DW_LANG_C_plus_plus_11
                    | gimli::DW_LANG_C_plus_plus_14
                    | gimli::DW_LANG_C_plus_plus_17
                    | gimli::DW_LANG_C_plus_plus_20
                    | gimli::DW_LANG_Rust
            )
        )
    }
}

/// A unit of which only the header is known. The program of its lines is opened when a line is asked for.
fn unit<'a, R: ReadAt>(
    sections: &Sections<'a, R>,
    header: UnitHeader<Piece<'a, R>>,
    abbreviations: Arc<Abbreviations>,
) -> Unit<Piece<'a, R>> {
    let (encoding, kind) = (header.encoding(), sections.file_type);
    Unit {
        abbreviations,
        name: None,
        comp_dir: None,
        low_pc: 0,
        str_offsets_base: gimli::DebugStrOffsetsBase::default_for_encoding_and_file(encoding, kind),
        addr_base: gimli::DebugAddrBase(0),
        loclists_base: gimli::DebugLocListsBase::default_for_encoding_and_file(encoding, kind),
        rnglists_base: gimli::DebugRngListsBase::default_for_encoding_and_file(encoding, kind),
        line_program: None,
        dwo_id: None,
        header,
    }
}

impl Units {
    /// Reads each unit's first entry. Units that make no sense are left out; what stops the reading is a refusal.
    pub(super) fn load<R: ReadAt>(
        store: &Shared<R>,
        sections: &Sections<'_, R>,
        code: Code,
    ) -> Result<Units, Refusal> {
        let mut units = Units::default();
        let mut headers = sections.debug_info.units();
        let mut last: Option<(u64, Arc<Abbreviations>)> = None;
        while let Ok(Some(header)) = headers.next() {
            let Some(offset) = header.debug_info_offset() else { continue };
            if units.offsets.len() >= UNITS_MAX {
                return Err(Refusal::TooManyUnits);
            }
            let number = u32::try_from(units.offsets.len()).unwrap_or(u32::MAX);
            units.offsets.push(offset.0);
            if !matches!(header.type_(), UnitType::Compilation | UnitType::Skeleton(_)) {
                continue;
            }
            let table = header.debug_abbrev_offset().0;
            let abbreviations = match last.take().filter(|(offset, _)| *offset == table) {
                Some((_, known)) => known,
                None => match abbreviations_of(store, sections, &header) {
                    Ok(read) => read,
                    Err(_) => continue,
                },
            };
            last = Some((table, Arc::clone(&abbreviations)));
            if let Ok(root) = Root::read(sections, header, abbreviations) {
                units.add(sections, &root, code, number);
            }
            if units.ranges.len() > RANGES_MAX {
                return Err(Refusal::TooManyUnits);
            }
        }
        // Damage makes a unit useless and the next one is read; out of steps or bytes, all the rest would be missing.
        match store.borrow().trouble() {
            Some(Trouble::Work | Trouble::Read(ReadError::Budget)) => return Err(Refusal::Costly),
            Some(Trouble::Read(error @ ReadError::Io(_))) => return Err(error.into()),
            Some(Trouble::Read(ReadError::Truncated)) | None => {}
        }
        units.sort();
        Ok(units)
    }

    fn add<'a, R: ReadAt>(&mut self, sections: &Sections<'a, R>, root: &Root<'a, R>, code: Code, unit: u32) {
        let ranges = &mut self.ranges;
        // What was there before damage is as good as the rest.
        let _is_whole = root.place.each(sections, &root.unit, code, |begin, end| {
            if ranges.len() <= RANGES_MAX {
                ranges.push(Range { begin, end, unit });
            }
        });
    }

    /// Orders the ranges. Neighbours of one unit become one range, whatever is between them: nobody else's is.
    fn sort(&mut self) {
        self.ranges.sort_unstable_by_key(|range| (range.begin, range.end, range.unit));
        self.ranges.dedup_by(|next, kept| {
            let is_same = next.unit == kept.unit;
            if is_same {
                kept.end = kept.end.max(next.end);
            }
            is_same
        });
        self.ranges.shrink_to_fit();
    }

    /// Units that may have code at a place, the likeliest first.
    pub(super) fn covering(&self, at: u32) -> impl Iterator<Item = u32> + use<> {
        let before = self.ranges.partition_point(|range| range.begin <= at);
        let before = self.ranges.get(..before).unwrap_or_default().iter().rev().take(LOOKED_AT_MAX);
        let units: Vec<u32> =
            before.filter(|range| at < range.end).map(|range| range.unit).take(ASKED_MAX).collect();
        units.into_iter()
    }

    /// Where a unit begins.
    pub(super) fn offset(&self, unit: u32) -> Option<u64> {
        self.offsets.get(usize::try_from(unit).ok()?).copied()
    }

    /// The unit that an offset in the section belongs to.
    pub(super) fn at(&self, offset: u64) -> Option<u32> {
        let after = self.offsets.partition_point(|start| *start <= offset);
        u32::try_from(after.checked_sub(1)?).ok()
    }
}

/// The abbreviations of a unit, within their own bound.
pub(super) fn abbreviations_of<'a, R: ReadAt>(
    store: &Shared<R>,
    sections: &Sections<'a, R>,
    header: &UnitHeader<Piece<'a, R>>,
) -> gimli::Result<Arc<Abbreviations>> {
    let rest = store.borrow_mut().lend(ABBREVIATIONS_STEPS_MAX);
    let read = sections.abbreviations(header);
    store.borrow_mut().give_back(rest);
    read
}
