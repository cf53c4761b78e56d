//! The engine on any records: never a panic, the same conclusions twice, and the same after a snapshot in the middle.
#![no_main]

use fuzz::records;
use libfuzzer_sys::fuzz_target;
use model::record::Record;
use processors::{Config, Engine};

/// As bytes: floats without order compare too.
fn apply(engine: &mut Engine, record: &Record) -> Vec<u8> {
    postcard::to_stdvec(&engine.apply(record)).expect("conclusions are plain data")
}

fn snapshot(engine: &Engine) -> Vec<u8> {
    postcard::to_stdvec(engine).expect("state is plain data")
}

fuzz_target!(|data: &[u8]| {
    let records = records::records(data);
    let middle = records.len() / 2;
    let (mut engine, mut twin) = (Engine::new(Config::default()), Engine::new(Config::default()));
    for (place, record) in records.iter().enumerate() {
        if place == middle {
            twin = postcard::from_bytes(&snapshot(&engine)).expect("our own snapshot");
        }
        let (said, again) = (apply(&mut engine, record), apply(&mut twin, record));
        assert!(said == again, "record {place} of {}: {record:?}", records.len());
    }
    assert!(snapshot(&engine) == snapshot(&twin), "the states differ at the end");
    if let Some(last) = records.last() {
        let board = engine.board(last.at);
        assert!(board.findings.len() <= model::board::FINDINGS_MAX);
        drop((engine.skipped(), serde_json::to_string(&board)));
    }
});
