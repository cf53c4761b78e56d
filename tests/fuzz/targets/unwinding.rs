//! Unwinding tables, as if somebody had put such a program on the node: the input is a whole file, or the table and the
//! code of one that is well-formed otherwise.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profile::dwarf::table::Table;
use profile::dwarf::{FRAMES_MAX, walk_file};

/// Where in the file, and where in memory, the index, the table and the code are.
const INDEX_AT: usize = 0x200;
const TABLE_AT: usize = 0x240;
const CODE_AT: usize = 0x1000;
const SP: u64 = 0x7000;

/// A program with one segment, whose index has one pair, which leads to the second entry of the table: what the input says.
fn program(table: &[u8]) -> Vec<u8> {
    let table = &table[..table.len().min(CODE_AT - TABLE_AT)];
    let mut bytes = vec![0; CODE_AT + 0x100];
    let machine: u64 = if cfg!(target_arch = "aarch64") { 183 } else { 62 };
    let mut put = |at: usize, value: u64| bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
    put(0, 0x0001_0102_464c_457f);
    put(16, 2 | machine << 16 | 1 << 32);
    put(32, 64);
    put(52, 64 | 56 << 16 | 2 << 32 | 64 << 48);
    // Mapped at its own offsets, readable and executable.
    put(64, 1 | 5 << 32);
    put(64 + 32, 0x1100);
    put(120, 0x6474_e550 | 4 << 32);
    put(120 + 8, INDEX_AT as u64);
    put(120 + 16, INDEX_AT as u64);
    put(120 + 32, 0x40);
    let second = table.first_chunk().map_or(0, |raw| u64::from(u32::from_le_bytes(*raw) % 64)) + 4;
    let relative = |address: u64| address.wrapping_sub(INDEX_AT as u64) & 0xffff_ffff;
    put(INDEX_AT, 0x3b03_1b01);
    put(INDEX_AT + 8, 1 | relative(CODE_AT as u64) << 32);
    put(INDEX_AT + 16, relative(TABLE_AT as u64 + second));
    bytes[TABLE_AT..TABLE_AT + table.len()].copy_from_slice(table);
    bytes
}

fuzz_target!(|data: &[u8]| {
    let stack: Vec<u8> =
        data.iter().rev().copied().cycle().take(if data.is_empty() { 0 } else { 512 }).collect();
    let made = program(data);
    for file in [data, &made] {
        if let Ok(mut table) = Table::open(file) {
            assert!(table.bytes() <= 2 << 20);
            assert!((0..100).map_while(|at| table.start(at)).count() <= 100);
        }
        for pc in [CODE_AT as u64, CODE_AT as u64 + 9, 0, u64::MAX] {
            for fp in [0, SP + 16, u64::MAX] {
                assert!((0..=FRAMES_MAX).contains(&walk_file(file, [pc, SP, fp], &stack)));
            }
        }
    }
});
