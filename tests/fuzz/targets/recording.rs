//! Recordings: bytes as they come, and bytes as the content of a well-formed block, or the checksum would stop all of them.
#![no_main]

use std::fs;
use std::io::Write;
use std::path::Path;

use libfuzzer_sys::fuzz_target;

fn read(bytes: &[u8]) {
    // In memory: thousands of runs a second.
    let path = Path::new("/dev/shm").join(format!("backburn-fuzz-{}.rec", std::process::id()));
    fs::write(&path, bytes).expect("memory is there");
    let entries = agent::fuzzing::recording(&path);
    assert!(entries <= bytes.len() * 64 + 64);
}

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let mut file = b"BACKBURN\x01\x00".to_vec();
    if how % 2 == 0 {
        file.extend_from_slice(rest);
        return read(&file);
    }
    // Entries are split where the fuzzer says, so that it need not guess lengths.
    let mut block = Vec::new();
    for entry in rest.split(|byte| *byte == 0xfe) {
        block.extend_from_slice(&u32::try_from(entry.len()).unwrap().to_le_bytes());
        block.extend_from_slice(entry);
    }
    let mut encoder = zstd::Encoder::new(Vec::new(), 1).unwrap();
    encoder.include_checksum(true).unwrap();
    encoder.write_all(&block).unwrap();
    let packed = encoder.finish().unwrap();
    file.extend_from_slice(&u32::try_from(packed.len()).unwrap().to_le_bytes());
    file.extend_from_slice(&packed);
    read(&file);
});
