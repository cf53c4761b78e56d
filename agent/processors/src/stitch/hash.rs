//! FNV-1a: ids that are the same in every run. Owns derivation; refuses to yield the all-zero id that W3C forbids.

const OFFSET: u128 = 0x6c62_272e_07bb_0142_62b8_2175_6295_c58d;
const PRIME: u128 = 0x0000_0000_0100_0000_0000_0000_0000_013b;

/// A 128-bit id of these parts; their borders count.
#[must_use]
pub(super) fn id128(parts: &[&[u8]]) -> u128 {
    let mut hash = OFFSET;
    for part in parts {
        let length = part.len().to_le_bytes();
        for &byte in length.iter().chain(part.iter()) {
            hash = (hash ^ u128::from(byte)).wrapping_mul(PRIME);
        }
    }
    hash.max(1)
}

/// A span id of these parts.
#[must_use]
pub(super) fn span(parts: &[&[u8]]) -> [u8; 8] {
    let wide = id128(parts);
    let folded = (wide >> 64) ^ (wide & u128::from(u64::MAX));
    u64::try_from(folded).unwrap_or(1).max(1).to_be_bytes()
}
