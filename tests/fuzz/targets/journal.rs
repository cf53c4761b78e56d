//! The journal of rollback signals: opened on any bytes, twice; what a first start repairs, the second finds whole.
#![no_main]

use std::fs;
use std::path::Path;

use exporters::rollback::{Config, Rollback};
use libfuzzer_sys::fuzz_target;
use model::ledger::Ledger;
use model::time::{Clock, Stamp};
use sha2::{Digest, Sha256};

/// A line as the journal writes it: with its checksum, or no entry would ever be read.
fn line(entry: &[u8]) -> Vec<u8> {
    let sum: String = Sha256::digest(entry).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    [br#"{"sum":""#, sum.as_bytes(), br#"","entry":"#, entry, b"}\n"].concat()
}

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    let folder = Path::new("/dev/shm").join(format!("backburn-fuzz-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("memory is there");
    let text =
        if how % 2 == 0 { rest.to_vec() } else { rest.split(|byte| *byte == b'\n').flat_map(line).collect() };
    let path = folder.join("journal.jsonl");
    fs::write(&path, &text).expect("memory is there");
    let clock = Clock::new(Stamp::default);
    let mut sizes = Vec::new();
    for _ in 0..2 {
        let config = Config { journal_dir: folder.clone(), receivers: Vec::new() };
        let opened = Rollback::new(config, clock.clone(), Ledger::default());
        assert!(opened.is_ok(), "{:?}", opened.err());
        drop(opened);
        sizes.push(fs::metadata(&path).expect("it is there").len());
    }
    assert_eq!(sizes.first(), sizes.last());
});
