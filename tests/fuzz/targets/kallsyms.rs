//! The kernel's list of its symbols: what is read of the whole list, and what is read around a few addresses, is the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profile::symbols::kernel::KernelSymbols;

fuzz_target!(|list: &[u8]| {
    let words = list.split(|byte| *byte == b'\n').filter_map(|line| line.split(|byte| *byte == b' ').next());
    let starts = words.filter_map(|word| u64::from_str_radix(std::str::from_utf8(word).ok()?, 16).ok());
    let mut addresses: Vec<u64> = starts
        .take(64)
        .flat_map(|start| [start, start.saturating_add(1), start.saturating_add(99)])
        .collect();
    addresses.sort_unstable();
    addresses.dedup();
    let (whole, around) = (KernelSymbols::parse(list), KernelSymbols::parse_around(list, &addresses));
    assert_eq!(whole.as_ref().err(), around.as_ref().err());
    let (Ok(mut whole), Ok(around)) = (whole, around) else { return };
    for address in addresses {
        assert_eq!(whole.name(address), around.name(address), "{address:#x}");
    }
    for address in [0, 1 << 40, u64::MAX] {
        whole.add(address, 4_096, list.get(..16).unwrap_or(list));
        assert!(whole.name(address).is_some() || list.is_empty() || address == u64::MAX);
        whole.remove(address);
    }
});
