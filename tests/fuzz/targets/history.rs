//! The ring of profile windows: bytes as they come, and bytes as the parts of well-formed blocks, or the checksums would stop
//! all of them. Whatever is read is within bounds and refers to what exists.
#![no_main]

use std::fs;
use std::path::Path;

use fuzz::seed::Seed;
use libfuzzer_sys::fuzz_target;
use profile::history::reader::Reader;
use profile::history::selection::{Filter, Range};

fn read(bytes: &[u8]) {
    // In memory: thousands of runs a second.
    let folder = Path::new("/dev/shm").join(format!("backburn-fuzz-history-{}", std::process::id()));
    fs::create_dir_all(&folder).expect("memory is there");
    fs::write(folder.join("0000000001.ring"), bytes).expect("memory is there");
    let Ok(reader) = Reader::open(&folder) else { return };
    let selection = reader.select(Range::Windows { first: 0, last: u64::MAX }, &Filter::default());
    let lost = usize::try_from(selection.loss.lost_windows).unwrap();
    assert_eq!(selection.parts.len() + lost, reader.windows().len());
    let stacks = &selection.stacks;
    for frame in &stacks.frames {
        assert!(usize::try_from(frame.function).unwrap() < stacks.functions.len());
        assert!(frame.mapping == u32::MAX || usize::try_from(frame.mapping).unwrap() < stacks.mappings.len());
    }
    for sample in &stacks.samples {
        assert!(sample.frames.iter().all(|at| usize::try_from(*at).unwrap() < stacks.frames.len()));
        assert!(sample.owner == u32::MAX || usize::try_from(sample.owner).unwrap() < stacks.owners.len());
    }
    for share in selection.parts.iter().flat_map(|part| &part.shares) {
        assert!(usize::try_from(share.sample).unwrap() < stacks.samples.len());
    }
    assert_eq!(selection.counts().len(), selection.parts.len());
    drop((reader.gaps(), reader.last(600_000_000_000)));
}

fuzz_target!(|data: &[u8]| {
    let Some((how, rest)) = data.split_first() else { return };
    if how % 4 == 0 {
        return read(rest);
    }
    let mut seed = Seed::new(rest);
    let mut blocks = Vec::new();
    while !seed.is_empty() && blocks.len() < 8 {
        let windows =
            seed.some(4, |seed| [seed.number(), seed.number(), seed.number(), u64::from(seed.byte())]);
        let dictionary = seed.some(256, Seed::byte);
        blocks.push((windows, dictionary, seed.some(256, Seed::byte)));
    }
    read(&profile::history::fuzzing::segment(&blocks));
});
