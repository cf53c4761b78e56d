//! A door for tests/fuzz: files whose checksums are right, whatever is in them. No other build contains it.

use model::time::Stamp;

use super::Boot;
use super::block::{self, Listed};
use super::segment::Open;

/// A window's wall, monotonic time, length and place; the plain dictionary; the plain samples.
pub type Parts = (Vec<[u64; 4]>, Vec<u8>, Vec<u8>);

/// A segment of these blocks.
#[must_use]
pub fn segment(blocks: &[Parts]) -> Vec<u8> {
    let mut open = Open::new(block::Segment { boot: Boot::default(), life: 0, at: Stamp::default() });
    for (windows, dictionary, samples) in blocks {
        let listed = windows.iter().map(|[wall_ns, mono_ns, duration_ns, offset]| Listed {
            at: Stamp { mono_ns: *mono_ns, wall_ns: *wall_ns },
            duration_ns: *duration_ns,
            offset: u32::try_from(*offset).unwrap_or(u32::MAX),
        });
        drop(open.push(dictionary, samples, listed.collect()));
    }
    open.unwritten().1.to_vec()
}
