//! A process's memory, as if it had these bytes: whatever they say, a reading ends soon, and what it reports can be.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profile::goheap;

/// Where the program keeps what it keeps, in the image.
const HEAD: u64 = 0;
const CYCLE: u64 = 8;
/// Where code is: low addresses, so that few bits have to be right.
const CODE: std::ops::Range<u64> = 0..256;
/// Buckets whose hashes are made right.
const MENDED: usize = 64;

fn word(image: &[u8], at: usize) -> Option<u64> {
    image.get(at..at.checked_add(8)?)?.try_into().ok().map(u64::from_le_bytes)
}

/// Makes the hashes of the chain right, as far as it goes: else hardly an input got behind them.
fn mend(image: &mut [u8]) -> Option<()> {
    let mut at = usize::try_from(word(image, 0)?).ok()?;
    for _ in 0..MENDED {
        let depth = usize::try_from(word(image, at.checked_add(40)?)?).ok().filter(|depth| *depth < 64)?;
        let size = word(image, at + 32)?;
        let mut hash = 0_u64;
        let stack = (0..depth).map(|nth| word(image, at + 48 + nth * 8));
        for word in stack.chain([Some(size)]) {
            hash = hash.wrapping_add(word?);
            hash = hash.wrapping_add(hash << 10);
            hash ^= hash >> 6;
        }
        hash = hash.wrapping_add(hash << 3);
        hash ^= hash >> 11;
        image.get_mut(at + 24..at + 32)?.copy_from_slice(&hash.to_le_bytes());
        at = usize::try_from(word(image, at + 8)?).ok()?;
    }
    Some(())
}

fuzz_target!(|data: &[u8]| {
    let Some((choice, image)) = data.split_first() else { return };
    let mut image = image.to_vec();
    if choice & 1 != 0 {
        mend(&mut image);
    }
    let version = ["go1.18", "go1.26.8", "go1.27.3", "go1.99"][usize::from(choice >> 1 & 3)];
    let Ok(sites) = goheap::read_image(&image[..], (HEAD, CYCLE), CODE, version) else { return };
    // Each bucket has a place of its own.
    assert!(sites.len() * 48 <= image.len());
    for (stack, allocs, frees) in sites {
        assert!(frees <= allocs);
        assert!(stack.first().is_none_or(|leaf| (1..=256).contains(leaf)));
        assert!(stack.len() * 8 <= image.len());
    }
});
