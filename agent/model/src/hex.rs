//! Ids as people and backends write them: lower-case hex in JSON, bytes in compact formats. For `#[serde(with)]`.

use serde::de::Error;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// Lower-case hex digits of `bytes`.
#[must_use]
pub fn text(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// The bytes of exactly `N` pairs of hex digits.
#[must_use]
pub fn parse<const N: usize>(text: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if text.len() != 2 * N || !text.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(text.get(2 * index..2 * index + 2)?, 16).ok()?;
    }
    Some(bytes)
}

/// # Errors
/// The serializer's.
pub fn serialize<const N: usize, S: Serializer>(id: &[u8; N], to: S) -> Result<S::Ok, S::Error> {
    if to.is_human_readable() { to.serialize_str(&text(id)) } else { id.as_slice().serialize(to) }
}

/// # Errors
/// What is not an id of `N` bytes.
pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(from: D) -> Result<[u8; N], D::Error> {
    if from.is_human_readable() {
        let text = String::deserialize(from)?;
        return parse(&text).ok_or_else(|| D::Error::custom("not an id in hex"));
    }
    let bytes = Vec::<u8>::deserialize(from)?;
    bytes.try_into().map_err(|_| D::Error::custom("not an id of the right length"))
}

/// The same for ids that may be missing.
pub mod option {
    use serde::de::Error;
    use serde::{Deserialize, Deserializer, Serialize, Serializer};

    /// # Errors
    /// The serializer's.
    pub fn serialize<const N: usize, S: Serializer>(id: &Option<[u8; N]>, to: S) -> Result<S::Ok, S::Error> {
        if to.is_human_readable() {
            id.as_ref().map(|id| super::text(id)).serialize(to)
        } else {
            id.as_ref().map(<[u8; N]>::as_slice).serialize(to)
        }
    }

    /// # Errors
    /// What is not an id of `N` bytes.
    pub fn deserialize<'de, const N: usize, D: Deserializer<'de>>(
        from: D,
    ) -> Result<Option<[u8; N]>, D::Error> {
        if from.is_human_readable() {
            let text = Option::<String>::deserialize(from)?;
            return text
                .map(|text| super::parse(&text).ok_or_else(|| D::Error::custom("not an id in hex")))
                .transpose();
        }
        let bytes = Option::<Vec<u8>>::deserialize(from)?;
        bytes
            .map(|bytes| bytes.try_into().map_err(|_| D::Error::custom("not an id of the right length")))
            .transpose()
    }
}

#[cfg(test)]
mod tests {
    use super::{parse, text};

    #[test]
    fn ids_are_read_as_they_are_written() {
        let id = [0x00, 0x7f, 0xff, 0x10, 1, 2, 3, 4];
        assert_eq!(parse::<8>(&text(&id)), Some(id));
        for wrong in ["", "00", "00ff00ff00ff00f", "zz7fff1001020304", "0×7fff1001020304"] {
            assert_eq!(parse::<8>(wrong), None, "{wrong}");
        }
    }
}
