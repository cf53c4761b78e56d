//! One window as bytes: its samples by owner and stack, the numbers being those of the segment's dictionary.
//!
//! Owns that layout in both directions. Refuses to know what the numbers stand for.

use super::dictionary::NONE;
use super::wire::{Cursor, put, put_signed, put_size};

/// Bytes one sample takes at least: two deltas, a count, a value.
const SAMPLE_BYTES_MIN: usize = 4;

/// One stack of one owner.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Row {
    /// [`NONE`] when not known.
    pub(super) owner: u32,
    /// 0 is the empty stack.
    pub(super) stack: u32,
    pub(super) count: i64,
    pub(super) value: i64,
}

/// All of one window.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Samples {
    pub(super) period: u64,
    /// Samples that never came.
    pub(super) lost: u64,
    /// Samples, by count, that found no room here.
    pub(super) left_out: u64,
    pub(super) rows: Vec<Row>,
}

impl Samples {
    /// Sorts, adds up equals and appends the bytes.
    pub(super) fn write(&mut self, out: &mut Vec<u8>) {
        self.rows.sort_unstable();
        self.rows.dedup_by(|next, kept| {
            let is_same = (next.owner, next.stack) == (kept.owner, kept.stack);
            if is_same {
                kept.count = kept.count.saturating_add(next.count);
                kept.value = kept.value.saturating_add(next.value);
            }
            is_same
        });
        put(out, self.period);
        put(out, self.lost);
        put(out, self.left_out);
        put_size(out, self.rows.len());
        let mut owner = 0_u32;
        for row in &self.rows {
            // With one more, an unknown owner is 0 and takes one byte.
            let next = row.owner.wrapping_add(1);
            put_signed(out, i64::from(next) - i64::from(owner));
            owner = next;
        }
        let mut stack = 0_u32;
        for row in &self.rows {
            put_signed(out, i64::from(row.stack) - i64::from(stack));
            stack = row.stack;
        }
        for row in &self.rows {
            put_signed(out, row.count);
        }
        for row in &self.rows {
            // On-CPU time is samples by period: a column of zeros.
            put_signed(out, row.value.wrapping_sub(expected(row.count, self.period)));
        }
    }

    /// Reads one window; `None` when it is not one, or refers to what does not exist.
    pub(super) fn read(bytes: &[u8], owners: usize, stacks: usize) -> Option<Samples> {
        let cursor = &mut Cursor::new(bytes);
        let (period, lost, left_out) = (cursor.unsigned()?, cursor.unsigned()?, cursor.unsigned()?);
        let count = cursor.count().filter(|count| count.saturating_mul(SAMPLE_BYTES_MIN) <= bytes.len())?;
        let mut rows = vec![Row::default(); count];
        let mut owner = 0_u32;
        for row in &mut rows {
            owner = shifted(owner, cursor.signed()?)?;
            row.owner = owner.wrapping_sub(1);
            let is_known = usize::try_from(row.owner).is_ok_and(|owner| owner < owners);
            if row.owner != NONE && !is_known {
                return None;
            }
        }
        let mut stack = 0_u32;
        for row in &mut rows {
            stack = shifted(stack, cursor.signed()?)?;
            // 0 is the empty one, so as many as there are is the last.
            row.stack = Some(stack).filter(|stack| usize::try_from(*stack).is_ok_and(|at| at <= stacks))?;
        }
        for row in &mut rows {
            row.count = cursor.signed()?;
        }
        for row in &mut rows {
            row.value = cursor.signed()?.wrapping_add(expected(row.count, period));
        }
        cursor.is_empty().then_some(Samples { period, lost, left_out, rows })
    }
}

fn expected(count: i64, period: u64) -> i64 {
    count.wrapping_mul(period.cast_signed())
}

fn shifted(from: u32, by: i64) -> Option<u32> {
    u32::try_from(i64::from(from).checked_add(by)?).ok()
}
