//! The functions of one unit that have code of their own.
//!
//! Owns one pass over its entries.

use super::{Code, Sections, places::Place, units::Root};
use crate::symbols::{file::ReadAt, native::store::Shared};

/// 12 MiB of ranges: as much as all that is kept.
const FUNCTIONS_MAX: usize = 1 << 20;
/// Functions whose ranges begin before an address and are looked at: ranges lie within one another where identical
/// functions were made one.
const LOOKED_AT_MAX: usize = 8;

#[derive(Clone, Copy, Debug)]
struct Range {
    begin: u32,
    end: u32,
    /// Its entry, from the beginning of the unit.
    entry: u32,
}

/// In the order of addresses.
#[derive(Debug)]
pub(super) struct Functions(Vec<Range>);

impl Functions {
    pub(super) fn load<'a, R: ReadAt>(
        sections: &Sections<'a, R>,
        store: &Shared<R>,
        root: &Root<'a, R>,
        code: Code,
    ) -> gimli::Result<Functions> {
        let mut found = Vec::new();
        let mut entries = root.unit.entries_raw(None)?;
        while !entries.is_empty() {
            let offset = entries.next_offset().0;
            let Some(abbreviation) = entries.read_abbreviation()? else { continue };
            if abbreviation.tag() != gimli::DW_TAG_subprogram {
                entries.skip_attributes(abbreviation.attributes())?;
                continue;
            }
            let mut place = Place::new();
            for attribute in abbreviation.attributes() {
                place.take(&entries.read_attribute(*attribute)?);
            }
            let Some(entry) = u32::try_from(offset).ok().filter(|_| !place.is_none()) else { continue };
            place.each(sections, &root.unit, code, |begin, end| found.push(Range { begin, end, entry }))?;
            if found.len() > FUNCTIONS_MAX {
                store.borrow_mut().spend(u64::MAX);
                return Err(gimli::Error::Io);
            }
        }
        found.sort_unstable_by_key(|range| (range.begin, range.end, range.entry));
        found.shrink_to_fit();
        Ok(Functions(found))
    }

    /// The entry of the function at a place.
    pub(super) fn find(&self, at: u32) -> Option<u32> {
        let before = self.0.partition_point(|range| range.begin <= at);
        let before = self.0.get(..before)?.iter().rev().take(LOOKED_AT_MAX);
        before.into_iter().find(|range| at < range.end).map(|range| range.entry)
    }

    pub(super) fn bytes(&self) -> usize {
        self.0.capacity() * size_of::<Range>()
    }
}
