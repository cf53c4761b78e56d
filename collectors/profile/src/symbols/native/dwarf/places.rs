//! Where in the code an entry is: one range or a list of them.
//!
//! Owns the test whether a range is code at all: linkers leave ranges of functions they dropped, at 0, at 1, or at the end
//! of the address space.

use gimli::{Attribute, AttributeValue, Unit};

use super::{super::piece::Piece, Sections};
use crate::symbols::{elf::Elf, file::ReadAt};

/// The addresses of code in a file, from which all others are counted in 32 bits.
#[derive(Clone, Copy, Debug)]
pub(super) struct Code {
    start: u64,
    end: u64,
}

impl Code {
    pub(super) fn of(elf: &Elf) -> Option<Code> {
        elf.code().map(|code| Code { start: code.start, end: code.end })
    }

    /// Where an address is, from the first one.
    pub(super) fn at(self, address: u64) -> Option<u32> {
        let into = address.checked_sub(self.start).filter(|_| address < self.end)?;
        u32::try_from(into).ok()
    }

    /// First and end of a range that is code.
    pub(super) fn range(self, begin: u64, end: u64) -> Option<(u32, u32)> {
        let is_code = begin > 1 && begin < end && end <= self.end;
        Some((self.at(begin).filter(|_| is_code)?, u32::try_from(end.checked_sub(self.start)?).ok()?))
    }
}

/// What an entry says of its addresses.
#[derive(Debug)]
pub(super) struct Place<'a, R: ReadAt> {
    low: Option<AttributeValue<Piece<'a, R>>>,
    high: Option<AttributeValue<Piece<'a, R>>>,
    ranges: Option<AttributeValue<Piece<'a, R>>>,
}

impl<'a, R: ReadAt> Place<'a, R> {
    pub(super) fn new() -> Place<'a, R> {
        Place { low: None, high: None, ranges: None }
    }

    /// Keeps an attribute if it is of its kind.
    pub(super) fn take(&mut self, attribute: &Attribute<Piece<'a, R>>) {
        match attribute.name() {
            gimli::DW_AT_low_pc => self.low = Some(attribute.value()),
            gimli::DW_AT_high_pc => self.high = Some(attribute.value()),
            gimli::DW_AT_ranges => self.ranges = Some(attribute.value()),
            _ => {}
        }
    }

    pub(super) fn is_none(&self) -> bool {
        self.low.is_none() && self.ranges.is_none()
    }

    /// Where it begins, if it says so.
    pub(super) fn low(
        &self,
        sections: &Sections<'a, R>,
        unit: &Unit<Piece<'a, R>>,
    ) -> gimli::Result<Option<u64>> {
        match &self.low {
            Some(low) => sections.attr_address(unit, *low),
            None => Ok(None),
        }
    }

    /// All its ranges of code.
    pub(super) fn each(
        &self,
        sections: &Sections<'a, R>,
        unit: &Unit<Piece<'a, R>>,
        code: Code,
        mut found: impl FnMut(u32, u32),
    ) -> gimli::Result<()> {
        if let Some(ranges) = &self.ranges
            && let Some(offset) = sections.attr_ranges_offset(unit, *ranges)?
        {
            let mut ranges = sections.ranges(unit, offset)?;
            while let Some(range) = ranges.next()? {
                if let Some((begin, end)) = code.range(range.begin, range.end) {
                    found(begin, end);
                }
            }
            return Ok(());
        }
        let Some(low) = self.low(sections, unit)? else { return Ok(()) };
        let high = match &self.high {
            Some(AttributeValue::Udata(size)) => low.checked_add(*size),
            Some(value) => sections.attr_address(unit, *value)?,
            None => None,
        };
        if let Some((begin, end)) = high.and_then(|high| code.range(low, high)) {
            found(begin, end);
        }
        Ok(())
    }
}
