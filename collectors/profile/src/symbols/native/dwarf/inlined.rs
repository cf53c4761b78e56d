//! The calls that were inlined at an instruction.
//!
//! Owns one walk down the entries of a function, without recursion: entries may lie as deep in one another as the file is
//! long.

use gimli::{EntriesRaw, Unit, UnitOffset};

use super::{super::piece::Piece, Code, Sections, lines::LineOf, places::Place};
use crate::symbols::file::ReadAt;

/// Calls inlined into one another at one instruction. Real programs stay below forty.
const INLINED_MAX: usize = 128;

/// One call that has no code of its own.
#[derive(Debug)]
pub(super) struct Call {
    /// Of what was called.
    pub(super) entry: UnitOffset<u64>,
    /// Where it was called.
    pub(super) place: Option<LineOf>,
}

/// Calls at a place in the function of an entry: the outermost first.
pub(super) fn calls<'a, R: ReadAt>(
    sections: &Sections<'a, R>,
    unit: &Unit<Piece<'a, R>>,
    function: UnitOffset<u64>,
    (code, at): (Code, u32),
) -> gimli::Result<Vec<Call>> {
    let mut calls = Vec::new();
    let mut entries = unit.entries_raw(Some(function))?;
    let mut floor = entries.next_depth();
    let Some(abbreviation) = entries.read_abbreviation()? else { return Ok(calls) };
    entries.skip_attributes(abbreviation.attributes())?;
    while entries.next_depth() > floor && !entries.is_empty() {
        let (depth, entry) = (entries.next_depth(), entries.next_offset());
        let Some(abbreviation) = entries.read_abbreviation()? else { continue };
        match abbreviation.tag() {
            gimli::DW_TAG_inlined_subroutine => {
                let (mut place, mut called) = (Place::new(), LineOf { file: u64::MAX, line: 0 });
                for attribute in abbreviation.attributes() {
                    let attribute = entries.read_attribute(*attribute)?;
                    place.take(&attribute);
                    called.take(&attribute);
                }
                let mut is_here = false;
                place.each(sections, unit, code, |begin, end| is_here |= (begin..end).contains(&at))?;
                if !is_here {
                    skip(&mut entries, depth)?;
                } else if calls.len() < INLINED_MAX {
                    // What is inlined here further is within this one, and nothing behind it is here.
                    floor = depth;
                    calls.push(Call { entry, place: called.known() });
                } else {
                    return Err(gimli::Error::Io);
                }
            }
            gimli::DW_TAG_subprogram => {
                entries.skip_attributes(abbreviation.attributes())?;
                skip(&mut entries, depth)?;
            }
            _ => entries.skip_attributes(abbreviation.attributes())?,
        }
    }
    Ok(calls)
}

/// Goes past what is within the entry just read.
fn skip<R: ReadAt>(entries: &mut EntriesRaw<'_, Piece<'_, R>>, depth: isize) -> gimli::Result<()> {
    while entries.next_depth() > depth && !entries.is_empty() {
        if let Some(abbreviation) = entries.read_abbreviation()? {
            entries.skip_attributes(abbreviation.attributes())?;
        }
    }
    Ok(())
}
