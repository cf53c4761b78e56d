//! Protocol buffers, written in one pass and read just enough to understand a reply.
//!
//! Owns the writer and the reader's cursor. A nested message gets a four byte length that is patched when it is closed, so
//! nothing is measured before it is written and nothing is copied afterwards. Refuses to know any message: field numbers
//! live with whoever writes the message.

/// Bytes of a nested message's length: a varint padded to four bytes, which every decoder takes.
const LENGTH_BYTES: usize = 4;
/// What four varint bytes can say. Requests end below 20 MiB, so this is out of reach; a longer message is left out whole.
const MESSAGE_BYTES_MAX: usize = (1 << 28) - 1;

const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const BYTES: u32 = 2;
const FIXED32: u32 = 5;

/// Protobuf bytes in the making.
#[derive(Debug, Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

/// An open nested message.
#[derive(Clone, Copy, Debug)]
#[must_use]
pub(crate) struct Mark {
    start: usize,
    body: usize,
}

/// A value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Value<'a> {
    Str(&'a str),
    Int(i64),
    Double(f64),
    Bool(bool),
}

impl Writer {
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(crate) fn into_bytes(self) -> Vec<u8> {
        self.bytes
    }

    /// The bytes so far; the writer starts anew.
    pub(crate) fn take(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }

    /// Forgets what was written after `len`.
    pub(crate) fn truncate(&mut self, len: usize) {
        self.bytes.truncate(len);
    }

    pub(crate) fn raw(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    pub(crate) fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push(low_byte(value) | 0x80);
            value >>= 7;
        }
        self.bytes.push(low_byte(value));
    }

    fn tag(&mut self, field: u32, wire: u32) {
        self.varint(u64::from(field << 3 | wire));
    }

    pub(crate) fn uint(&mut self, field: u32, value: u64) {
        self.tag(field, VARINT);
        self.varint(value);
    }

    pub(crate) fn fixed64(&mut self, field: u32, value: u64) {
        self.tag(field, FIXED64);
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn fixed32(&mut self, field: u32, value: u32) {
        self.tag(field, FIXED32);
        self.raw(&value.to_le_bytes());
    }

    pub(crate) fn double(&mut self, field: u32, value: f64) {
        self.fixed64(field, value.to_bits());
    }

    pub(crate) fn bytes(&mut self, field: u32, value: &[u8]) {
        self.length(field, value.len());
        self.raw(value);
    }

    /// A string; an empty one is the default and is not written.
    pub(crate) fn string(&mut self, field: u32, value: &str) {
        if !value.is_empty() {
            self.bytes(field, value.as_bytes());
        }
    }

    /// The tag and length of a nested message or packed field whose size is known; the body follows.
    pub(crate) fn length(&mut self, field: u32, len: usize) {
        self.tag(field, BYTES);
        self.varint(wide(len));
    }

    /// Begins a nested message of unknown length.
    pub(crate) fn open(&mut self, field: u32) -> Mark {
        let start = self.bytes.len();
        self.tag(field, BYTES);
        self.raw(&[0; LENGTH_BYTES]);
        Mark { start, body: self.bytes.len() }
    }

    /// Ends it.
    pub(crate) fn close(&mut self, mark: Mark) {
        let len = self.bytes.len().saturating_sub(mark.body);
        let place = mark.body.saturating_sub(LENGTH_BYTES)..mark.body;
        match self.bytes.get_mut(place) {
            Some(place) if len <= MESSAGE_BYTES_MAX => place.copy_from_slice(&padded(len)),
            _ => self.bytes.truncate(mark.start),
        }
    }

    /// One `KeyValue` in `field`.
    pub(crate) fn attribute(&mut self, field: u32, key: &str, value: Value<'_>) {
        let any = match value {
            Value::Str(text) => field_len(text.len()),
            Value::Int(number) => 1 + varint_len(number.cast_unsigned()),
            Value::Double(_) => 9,
            Value::Bool(_) => 2,
        };
        self.length(field, field_len(key.len()) + field_len(any));
        self.bytes(1, key.as_bytes());
        self.length(2, any);
        self.any(value);
    }

    /// The inside of an `AnyValue`.
    pub(crate) fn any(&mut self, value: Value<'_>) {
        match value {
            Value::Str(text) => self.bytes(1, text.as_bytes()),
            Value::Bool(yes) => self.uint(2, u64::from(yes)),
            Value::Int(number) => self.uint(3, number.cast_unsigned()),
            Value::Double(number) => self.double(4, number),
        }
    }
}

/// Bytes of a field below 16 whose body has `len` bytes: tag, length, body.
pub(crate) fn field_len(len: usize) -> usize {
    1 + varint_len(wide(len)) + len
}

fn varint_len(value: u64) -> usize {
    let bits = usize::try_from(u64::BITS - value.leading_zeros()).unwrap_or(64);
    bits.div_ceil(7).max(1)
}

fn low_byte(value: u64) -> u8 {
    u8::try_from(value & 0x7f).unwrap_or(0)
}

/// A length as the wire has it.
pub(crate) fn wide(len: usize) -> u64 {
    u64::try_from(len).unwrap_or(u64::MAX)
}

fn padded(len: usize) -> [u8; LENGTH_BYTES] {
    let len = wide(len);
    [low_byte(len) | 0x80, low_byte(len >> 7) | 0x80, low_byte(len >> 14) | 0x80, low_byte(len >> 21)]
}

/// One field of a message that came from outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Field<'a> {
    Number(u32, u64),
    Bytes(u32, &'a [u8]),
}

/// The fields of a message; ends at the first byte that is not protobuf, and then `torn` is set.
#[derive(Debug)]
pub(crate) struct Fields<'a> {
    rest: &'a [u8],
    pub(crate) torn: bool,
}

impl<'a> Fields<'a> {
    pub(crate) fn new(bytes: &'a [u8]) -> Fields<'a> {
        Fields { rest: bytes, torn: false }
    }

    /// The next field with its bytes as they stand, tag included.
    pub(crate) fn next_raw(&mut self) -> Option<(Field<'a>, &'a [u8])> {
        let before = self.rest;
        let field = self.next()?;
        Some((field, before.get(..before.len() - self.rest.len()).unwrap_or_default()))
    }

    fn varint(&mut self) -> Option<u64> {
        let mut value = 0_u64;
        for shift in (0..64).step_by(7) {
            let (&byte, rest) = self.rest.split_first()?;
            self.rest = rest;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    fn slice(&mut self, len: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(len)?;
        self.rest = rest;
        Some(head)
    }

    fn field(&mut self) -> Option<Field<'a>> {
        let tag = u32::try_from(self.varint()?).ok()?;
        let number = tag >> 3;
        if number == 0 {
            return None;
        }
        match tag & 7 {
            VARINT => Some(Field::Number(number, self.varint()?)),
            FIXED64 => Some(Field::Number(number, u64::from_le_bytes(self.slice(8)?.try_into().ok()?))),
            FIXED32 => {
                Some(Field::Number(number, u64::from(u32::from_le_bytes(self.slice(4)?.try_into().ok()?))))
            }
            BYTES => {
                let len = usize::try_from(self.varint()?).ok()?;
                Some(Field::Bytes(number, self.slice(len)?))
            }
            _ => None,
        }
    }
}

impl<'a> Iterator for Fields<'a> {
    type Item = Field<'a>;

    fn next(&mut self) -> Option<Field<'a>> {
        if self.rest.is_empty() || self.torn {
            return None;
        }
        let field = self.field();
        self.torn = field.is_none();
        field
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_reads_back() {
        let mut writer = Writer::default();
        writer.uint(1, 300);
        let mark = writer.open(2);
        writer.string(3, "inside");
        writer.string(4, "");
        writer.close(mark);
        writer.fixed64(5, 7);
        writer.fixed32(6, 8);
        let bytes = writer.into_bytes();
        let fields: Vec<_> = Fields::new(&bytes).collect();
        assert_eq!(
            fields,
            [
                Field::Number(1, 300),
                Field::Bytes(2, b"\x1a\x06inside"),
                Field::Number(5, 7),
                Field::Number(6, 8)
            ]
        );
    }

    #[test]
    fn the_largest_length_fits_its_four_bytes() {
        assert_eq!(padded(MESSAGE_BYTES_MAX), [0xff, 0xff, 0xff, 0x7f]);
        assert_eq!(padded(5), [0x85, 0x80, 0x80, 0]);
    }

    #[test]
    fn varints_have_the_length_that_is_promised() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut writer = Writer::default();
            writer.varint(value);
            assert_eq!(writer.len(), varint_len(value), "{value}");
        }
    }

    #[test]
    fn torn_bytes_end_the_reading_and_say_so() {
        for bytes in [
            &b"\x08"[..],
            b"\x0a\x05abc",
            b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff",
            b"\x00\x00",
            b"\x0b",
        ] {
            let mut fields = Fields::new(bytes);
            assert_eq!(fields.by_ref().count(), 0, "{bytes:?}");
            assert!(fields.torn, "{bytes:?}");
        }
    }
}
