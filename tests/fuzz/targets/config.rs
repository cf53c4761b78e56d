//! Configuration texts, as `agent validate` walks them.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    // Each key once, each with a list of its own at most: nothing multiplies what was written.
    let (problems, values) = agent::fuzzing::config(text);
    assert!(problems + values <= 1_000 + 16 * text.len());
});
