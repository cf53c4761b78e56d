//! Go's text of goroutines: whatever a process answers, it is read soon, within bounds, and joined with counts.
#![no_main]

use libfuzzer_sys::fuzz_target;
use model::profile::{Frame, Function, Losses, ProfileKind, StackSample, Stacks};
use model::time::Stamp;
use profile::goroutines::text::{self, FRAMES_MAX, GOROUTINES_MAX, Group};
use profile::goroutines::{self, DEPTH, Moment};

fuzz_target!(|data: &[u8]| {
    let half = data.split_at(data.len() / 2);
    let [(first, _), (last, rejects)] = [half.0, data].map(text::parse);
    let goroutines: usize = last.iter().map(|group| group.goroutines.len()).sum();
    assert!(goroutines <= GOROUTINES_MAX);
    // Each took a line that begins so, and so did each that was left out for its first line.
    let headers = data.windows(10).filter(|window| window == b"goroutine ").count() as u64;
    assert!(goroutines as u64 + rejects.over + rejects.torn + rejects.bad_headers <= headers);
    for group in &last {
        assert!((1..=FRAMES_MAX).contains(&group.stack.len()) && !group.goroutines.is_empty());
        let (longest, median) = group.minutes();
        assert!(median <= longest && !group.reason().is_empty());
        assert!(goroutines::path(&group.stack).len() <= DEPTH);
    }
    let counts = counted(&last);
    let first = Moment { counts: &Stacks { samples: Vec::new(), ..counts.clone() }, text: Some(&first) };
    let rows = goroutines::join(Some(first), Moment { counts: &counts, text: Some(&last) });
    // The same goroutines, once counted and once listed: every one is found again, with what it waits for.
    assert_eq!(rows.iter().map(|row| row.after).sum::<u64>(), goroutines as u64);
    for row in rows {
        let (waits, turnover) = (row.waits.expect("it was listed"), row.turnover.expect("both were"));
        assert!(waits.long <= row.after && waits.leaked <= row.after && turnover.came <= row.after);
    }
});

/// What Go's own counts of these would be.
fn counted(groups: &[Group]) -> Stacks {
    let (mut functions, mut frames, mut samples) = (Vec::new(), Vec::new(), Vec::new());
    for group in groups {
        let from = frames.len() as u32;
        for name in &group.stack {
            frames.push(Frame { function: functions.len() as u32, ..Frame::default() });
            functions.push(Function { name: name.to_string(), ..Function::default() });
        }
        let value = group.goroutines.len() as i64;
        samples.push(StackSample {
            frames: (from..frames.len() as u32).collect(),
            value,
            count: value,
            owner: u32::MAX,
        });
    }
    Stacks {
        kind: ProfileKind::Goroutine,
        at: Stamp::default(),
        duration_ns: 0,
        period: 1,
        mappings: Vec::new(),
        functions,
        frames,
        owners: Vec::new(),
        samples,
        losses: Losses::default(),
        pprof: Vec::new(),
    }
}
