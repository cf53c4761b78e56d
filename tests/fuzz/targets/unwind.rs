//! Go's callers from registers, a piece of stack and what tables say, all of it made up: every walk ends, within bounds, and
//! twice the same.
#![no_main]

use fuzz::seed::Seed;
use libfuzzer_sys::fuzz_target;
use profile::unwind::fuzzing::{Thread, walked};

/// Where a stack lies. Registers and words of the stack are near it or near the code more often than anywhere.
const STACK: u64 = 0xc000_0000;
const CODE: u64 = 0x40_0000;

fn address(seed: &mut Seed<'_>) -> u64 {
    match seed.byte() % 8 {
        0..4 => STACK + u64::from(seed.byte()) * 8,
        4..7 => CODE + u64::from(seed.byte() % 16),
        _ => seed.number(),
    }
}

fuzz_target!(|data: &[u8]| {
    let mut seed = Seed::new(data);
    let is_arm64 = seed.byte() % 2 == 0;
    let registers = [(); 4].map(|()| address(&mut seed));
    let chain = seed.some(32, address);
    let places = seed.some(16, |seed| (seed.byte(), seed.byte(), u32::from(seed.byte()) * 8));
    let stack: Vec<u8> = seed.some(64, address).into_iter().flat_map(u64::to_le_bytes).collect();
    let place = |address: u64| {
        let at = usize::try_from(address % 16).unwrap();
        places.get(at).copied().unwrap_or_default()
    };
    let walk = || walked(Thread { is_arm64, registers }, &stack, &chain, place);
    let (addresses, resume) = walk();
    assert!(addresses <= 20 && resume <= chain.len().max(1), "{addresses} {resume}");
    assert_eq!(walk(), (addresses, resume));
});
