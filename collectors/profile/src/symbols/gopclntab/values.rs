//! Values that change along a function: pairs of "so much more" and "for so many instructions".

use super::{GoError, header::Header};
use crate::symbols::file::{ReadAt, Windows};

/// Pairs in one look-up. The longest table of an etcd has 20,000; a look-up reads three for each inlined call.
const STEPS_MAX: u32 = 1 << 20;
/// A pair is at most two numbers of five bytes.
const PAIR_BYTES_MAX: usize = 10;
/// Read at once: most tables are shorter, and a longer piece lies on two pages of the file more often.
const CHUNK_BYTES: u64 = 128;

/// How many pairs a look-up may still read.
#[derive(Debug)]
pub(super) struct Steps {
    left: u32,
}

impl Default for Steps {
    fn default() -> Steps {
        Steps { left: STEPS_MAX }
    }
}

/// The value of a table at so many bytes into its function. `None` where the table says there is none, or ends before.
pub(super) fn at<R: ReadAt>(
    file: &mut Windows<R>,
    header: &Header,
    table: u32,
    target: u32,
    steps: &mut Steps,
) -> Result<Option<u32>, GoError> {
    const DAMAGED: GoError = GoError::Damaged("a table of values is");
    if table == 0 {
        return Ok(None);
    }
    let mut next = u64::from(table);
    let (mut value, mut reached, mut is_first) = (-1_i32, 0_u64, true);
    loop {
        let here = header.values.length.checked_sub(next).filter(|here| *here > 0).ok_or(DAMAGED)?;
        let offset = header.values.piece(next, here.min(CHUNK_BYTES)).ok_or(DAMAGED)?;
        let mut bytes = file.bytes(offset, usize::try_from(here.min(CHUNK_BYTES)).unwrap_or(0))?;
        let (before, is_last) = (bytes.len(), here <= CHUNK_BYTES);
        while bytes.len() >= PAIR_BYTES_MAX || (is_last && !bytes.is_empty()) {
            steps.left = steps.left.checked_sub(1).ok_or(DAMAGED)?;
            let more = number(&mut bytes).ok_or(DAMAGED)?;
            if more == 0 && !is_first {
                return Ok(None);
            }
            is_first = false;
            value = value.wrapping_add(zigzag(more));
            reached += u64::from(number(&mut bytes).ok_or(DAMAGED)?) * u64::from(header.quantum);
            if u64::from(target) < reached {
                return Ok(u32::try_from(value).ok());
            }
        }
        next += u64::try_from(before - bytes.len()).unwrap_or(0);
    }
}

/// Seven bits a byte, the lowest first, while the eighth is set.
fn number(bytes: &mut &[u8]) -> Option<u32> {
    let mut number = 0_u32;
    for shift in [0, 7, 14, 21, 28] {
        let (first, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u32::from(first & 0x7f) << shift;
        if first & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// 0, −1, 1, −2, 2, ...
fn zigzag(number: u32) -> i32 {
    let half = (number >> 1).cast_signed();
    if number & 1 == 0 { half } else { !half }
}
