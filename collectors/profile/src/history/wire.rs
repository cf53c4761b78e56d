//! Numbers of variable length, and a cursor that gives none where bytes end.
//!
//! Owns LEB128 and zigzag for the ring's files. Refuses to allocate: what a count promises is for its caller to believe.

/// Seven bits a byte, low ones first.
pub(super) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(low_byte(value) | 0x80);
        value >>= 7;
    }
    out.push(low_byte(value));
}

/// Small numbers of either sign stay short.
pub(super) fn put_signed(out: &mut Vec<u8>, value: i64) {
    put(out, (value.cast_unsigned() << 1) ^ (value >> 63).cast_unsigned());
}

/// A length or an index.
pub(super) fn put_size(out: &mut Vec<u8>, value: usize) {
    put(out, u64::try_from(value).unwrap_or(u64::MAX));
}

fn low_byte(value: u64) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or(0)
}

/// What is left to read.
#[derive(Clone, Copy, Debug)]
pub(super) struct Cursor<'a> {
    rest: &'a [u8],
}

impl<'a> Cursor<'a> {
    pub(super) fn new(rest: &'a [u8]) -> Cursor<'a> {
        Cursor { rest }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.rest.is_empty()
    }

    pub(super) fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            let bits = u64::from(byte & 0x7f);
            // Bits that do not fit are damage, not a number.
            if shift == 63 && bits > 1 {
                return None;
            }
            value |= bits << shift;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    pub(super) fn signed(&mut self) -> Option<i64> {
        let value = self.unsigned()?;
        Some((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    /// A number of 32 bits.
    pub(super) fn short(&mut self) -> Option<u32> {
        u32::try_from(self.unsigned()?).ok()
    }

    /// How many entries of at least one byte each follow: never more than there are bytes.
    pub(super) fn count(&mut self) -> Option<usize> {
        let count = usize::try_from(self.unsigned()?).ok()?;
        (count <= self.rest.len()).then_some(count)
    }

    pub(super) fn bytes(&mut self, length: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.rest.split_at_checked(length)?;
        self.rest = rest;
        Some(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::{Cursor, put, put_signed};

    #[test]
    fn numbers_come_back_and_torn_ones_do_not() {
        for value in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX - 1, u64::MAX] {
            let mut bytes = Vec::new();
            put(&mut bytes, value);
            assert_eq!(Cursor::new(&bytes).unsigned(), Some(value));
            assert_eq!(Cursor::new(&bytes[..bytes.len() - 1]).unsigned(), None);
            let signed = value.cast_signed();
            bytes.clear();
            put_signed(&mut bytes, signed);
            assert_eq!(Cursor::new(&bytes).signed(), Some(signed));
        }
        assert_eq!(Cursor::new(&[0xff; 10]).unsigned(), None);
        assert_eq!(Cursor::new(&[0xff; 11]).unsigned(), None);
    }

    #[test]
    fn a_count_is_never_more_than_the_bytes_that_are_left() {
        assert_eq!(Cursor::new(&[3, 0, 0, 0]).count(), Some(3));
        assert_eq!(Cursor::new(&[4, 0, 0, 0]).count(), None);
    }
}
