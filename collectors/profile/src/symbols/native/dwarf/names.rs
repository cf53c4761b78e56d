//! What a function is called, and where it begins in its file.
//!
//! Owns the walk from an entry to those it refers to, which may be in other units.

use gimli::{AttributeValue, DebugInfoOffset, UnitOffset};

use super::{Reading, units::Root};
use crate::symbols::file::ReadAt;

/// From the code to the abstract function to its declaration: two steps, three where units refer to each other.
const STEPS_MAX: usize = 8;

/// What entries say of a function.
#[derive(Debug, Default)]
pub(in super::super) struct Described {
    /// The linker's name for it, mangled.
    pub(in super::super) symbol: Option<String>,
    /// In its own scope.
    pub(in super::super) name: Option<String>,
    /// Where it begins.
    pub(in super::super) line: Option<u32>,
}

impl<'a, R: ReadAt> Reading<'_, 'a, R> {
    /// Follows an entry to its name.
    pub(super) fn describe(
        &mut self,
        root: &Root<'a, R>,
        entry: UnitOffset<u64>,
    ) -> gimli::Result<Described> {
        let (mut described, mut entry) = (Described::default(), entry);
        let mut other: Option<Root<'a, R>> = None;
        for _ in 0..STEPS_MAX {
            let next = self.add(other.as_ref().unwrap_or(root), entry, &mut described)?;
            if described.symbol.is_some() && described.line.is_some() {
                break;
            }
            match next {
                Some(AttributeValue::UnitRef(offset)) => entry = offset,
                Some(AttributeValue::DebugInfoRef(DebugInfoOffset(offset))) => {
                    let Some(unit) = self.units.at(offset) else { break };
                    let Ok(opened) = self.open(unit) else { break };
                    let Some(within) = DebugInfoOffset(offset).to_unit_offset(&opened.unit.header) else {
                        break;
                    };
                    (other, entry) = (Some(opened), within);
                }
                _ => break,
            }
        }
        Ok(described)
    }

    /// Adds what one entry says, and returns where it refers to.
    fn add(
        &self,
        root: &Root<'a, R>,
        entry: UnitOffset<u64>,
        described: &mut Described,
    ) -> gimli::Result<Option<AttributeValue<super::Piece<'a, R>>>> {
        let mut next = None;
        let mut entries = root.unit.entries_raw(Some(entry))?;
        let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(None) };
        for attribute in abbreviation.attributes() {
            let attribute = entries.read_attribute(*attribute)?;
            let text = |value| {
                let text = self.sections.attr_string(&root.unit, value).ok()?;
                gimli::Reader::to_string_lossy(&text).ok().map(|text| text.into_owned())
            };
            match attribute.name() {
                gimli::DW_AT_linkage_name | gimli::DW_AT_MIPS_linkage_name if described.symbol.is_none() => {
                    described.symbol = text(attribute.value()).filter(|text| !text.is_empty());
                }
                gimli::DW_AT_name if described.name.is_none() => {
                    described.name = text(attribute.value()).filter(|text| !text.is_empty());
                }
                gimli::DW_AT_decl_line if described.line.is_none() => {
                    let line = attribute.udata_value().and_then(|line| u32::try_from(line).ok());
                    described.line = line.filter(|line| *line > 0);
                }
                gimli::DW_AT_abstract_origin | gimli::DW_AT_specification => next = Some(attribute.value()),
                _ => {}
            }
        }
        Ok(next)
    }
}
