//! Go's tables: whatever a file says of its functions, each answer is one of them or an error, and comes soon.
#![no_main]

use libfuzzer_sys::fuzz_target;
use profile::symbols::gopclntab::{GoSymbols, Pc};

/// Addresses that are asked about in one file.
const ASKED: u64 = 64;

fuzz_target!(|data: &[u8]| {
    let Ok(mut symbols) = GoSymbols::open(data) else { return };
    let code = symbols.code();
    let entries: Vec<u64> = symbols.entries().collect();
    assert!(entries.is_sorted() && entries.len() <= symbols.functions());
    // Every function's record lies within the file.
    assert!(entries.len() <= data.len() / 8);
    let step = ((code.end - code.start) / ASKED).max(1);
    let spread = (0..=ASKED).map(|at| code.start.saturating_add(at * step));
    for pc in spread.chain(entries.iter().copied().take(64)).chain([0, code.end, u64::MAX]) {
        let function = symbols.function(Pc::Sampled(pc));
        if let Ok(Some(function)) = &function {
            assert!((function.start..function.end).contains(&pc) && code.contains(&pc));
        }
        if let Ok(frames) = symbols.frames(Pc::Sampled(pc)) {
            assert!(frames.len() <= 129);
            assert!(frames.iter().rev().skip(1).all(|frame| frame.inlined));
            assert_eq!(frames.last().map(|frame| frame.inlined), frames.last().map(|_| false));
            // Who has frames has a function, and it is the last of them.
            if let Ok(function) = function {
                assert_eq!(
                    frames.last().map(|frame| &frame.function),
                    function.as_ref().map(|function| &function.name)
                );
            }
        }
        if let Ok(Some(layout)) = symbols.frame_layout(Pc::Return(pc)) {
            assert_eq!(layout.sp_delta.unwrap_or_default() % 8, 0);
        }
    }
});
