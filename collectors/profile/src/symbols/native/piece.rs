//! A section as gimli wants to read it.
//!
//! Owns nothing: a piece is a place in a [`Store`], copied freely, and what it reads is counted there.

use std::{borrow::Cow, fmt};

use gimli::{LittleEndian, Reader, ReaderOffsetId};

use super::{
    super::file::ReadAt,
    store::{Extent, Shared},
};

/// The longest text that is looked at: names and paths.
const TEXT_BYTES_MAX: u64 = 16 << 10;

/// Some bytes of a section.
pub(super) struct Piece<'a, R> {
    store: &'a Shared<R>,
    extent: Extent,
}

impl<'a, R> Piece<'a, R> {
    pub(super) fn new(store: &'a Shared<R>, extent: Extent) -> Piece<'a, R> {
        Piece { store, extent }
    }
}

impl<R> Clone for Piece<'_, R> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<R> Copy for Piece<'_, R> {}

impl<R> fmt::Debug for Piece<'_, R> {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.extent.fmt(formatter)
    }
}

impl<R: ReadAt> Piece<'_, R> {
    fn advance(&mut self, length: u64) {
        self.extent.offset = self.extent.offset.saturating_add(length);
        self.extent.length -= length;
    }

    fn eof<T>(&self) -> gimli::Result<T> {
        Err(gimli::Error::UnexpectedEof(self.offset_id()))
    }
}

impl<R: ReadAt> Reader for Piece<'_, R> {
    type Endian = LittleEndian;
    type Offset = u64;

    fn endian(&self) -> LittleEndian {
        LittleEndian
    }

    fn len(&self) -> u64 {
        self.extent.length
    }

    fn empty(&mut self) {
        self.extent.length = 0;
    }

    fn truncate(&mut self, length: u64) -> gimli::Result<()> {
        if length > self.extent.length {
            return self.eof();
        }
        self.extent.length = length;
        Ok(())
    }

    fn offset_from(&self, base: &Self) -> u64 {
        self.extent.offset.saturating_sub(base.extent.offset)
    }

    fn offset_id(&self) -> ReaderOffsetId {
        ReaderOffsetId(self.extent.offset)
    }

    fn lookup_offset_id(&self, id: ReaderOffsetId) -> Option<u64> {
        id.0.checked_sub(self.extent.offset).filter(|into| *into <= self.extent.length)
    }

    fn find(&self, byte: u8) -> gimli::Result<u64> {
        // Only ever asked for the end of a text.
        if byte != 0 {
            return Err(gimli::Error::Io);
        }
        let most = self.extent.length.min(TEXT_BYTES_MAX);
        let found = self.store.borrow_mut().find_zero(self.extent.space, self.extent.offset, most);
        found.ok_or(gimli::Error::Io)
    }

    fn skip(&mut self, length: u64) -> gimli::Result<()> {
        if length > self.extent.length {
            return self.eof();
        }
        self.advance(length);
        Ok(())
    }

    fn split(&mut self, length: u64) -> gimli::Result<Self> {
        if length > self.extent.length {
            return self.eof();
        }
        let first = Piece { store: self.store, extent: Extent { length, ..self.extent } };
        self.advance(length);
        Ok(first)
    }

    fn to_slice(&self) -> gimli::Result<Cow<'_, [u8]>> {
        let length = usize::try_from(self.extent.length.min(TEXT_BYTES_MAX + 1)).unwrap_or(0);
        if self.extent.length > TEXT_BYTES_MAX {
            return Err(gimli::Error::Io);
        }
        let mut bytes = vec![0; length];
        match self.store.borrow_mut().read(self.extent.space, self.extent.offset, &mut bytes) {
            true => Ok(bytes.into()),
            false => Err(gimli::Error::Io),
        }
    }

    fn to_string(&self) -> gimli::Result<Cow<'_, str>> {
        String::from_utf8(self.to_slice()?.into_owned()).map(Cow::Owned).map_err(|_| gimli::Error::BadUtf8)
    }

    fn to_string_lossy(&self) -> gimli::Result<Cow<'_, str>> {
        let bytes = self.to_slice()?.into_owned();
        Ok(Cow::Owned(String::from_utf8_lossy(&bytes).into_owned()))
    }

    #[inline]
    fn read_slice(&mut self, into: &mut [u8]) -> gimli::Result<()> {
        let length = u64::try_from(into.len()).unwrap_or(u64::MAX);
        if length > self.extent.length {
            return self.eof();
        }
        if !self.store.borrow_mut().read(self.extent.space, self.extent.offset, into) {
            return Err(gimli::Error::Io);
        }
        self.advance(length);
        Ok(())
    }
}
