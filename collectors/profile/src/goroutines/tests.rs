//! Counts and text of one moment are of one mind, and two moments are joined by stack.

use std::sync::Arc;

use model::profile::{Frame, Function, ProfileKind, StackSample, Stacks};
use model::time::Stamp;

use super::{Moment, Row, Turnover, join, path, shown, text};
use crate::gopprof;

/// Counts and text of one etcd 3.6 (Go 1.26), asked for within a few milliseconds.
const COUNTS: &[u8] = include_bytes!("../../testdata/goroutines/etcd-3.6.pb.gz");
const TEXT: &[u8] = include_bytes!("../../testdata/goroutines/etcd-3.6.txt");

fn etcd() -> Stacks {
    gopprof::decode(COUNTS, ProfileKind::Goroutine, Stamp::default()).unwrap().0
}

/// Counts as Go would send them: the runtime's own frames are in them.
fn counted(stacks: &[(&[&str], i64)]) -> Stacks {
    let mut functions = Vec::new();
    let mut samples = Vec::new();
    for (stack, value) in stacks {
        let begin = u32::try_from(functions.len()).unwrap();
        let named = |name: &&str| Function { name: (*name).to_owned(), ..Function::default() };
        functions.extend(stack.iter().map(named));
        let frames = (begin..).take(stack.len()).collect();
        samples.push(StackSample { frames, value: *value, count: *value, owner: u32::MAX });
    }
    let frames = (0..).take(functions.len()).map(|function| Frame { function, ..Frame::default() }).collect();
    Stacks { functions, samples, frames, ..etcd() }
}

fn listed(stack: &[&str], ids: std::ops::Range<u64>, state: &str) -> String {
    let frames: String = stack.iter().map(|name| format!("{name}(0x1)\n\t/a.go:1 +0x2\n")).collect();
    ids.map(|id| format!("goroutine {id} [{state}]:\n{frames}created by main.start\n\t/a.go:1 +0x2\n\n"))
        .collect()
}

fn row<'a>(rows: &'a [Row], leaf: &str) -> &'a Row {
    rows.iter().find(|row| row.path.first().is_some_and(|name| &**name == leaf)).unwrap()
}

#[test]
fn counts_and_text_of_a_real_member_are_joined() {
    let (groups, _) = text::parse(TEXT);
    let counts = etcd();
    let rows = join(None, Moment { counts: &counts, text: Some(&groups) });
    let total: u64 = rows.iter().map(|row| row.after).sum();
    let with_text: u64 = rows.iter().filter(|row| row.waits.is_some()).map(|row| row.after).sum();
    // All but the goroutine that answered the request, which is elsewhere in the program each time.
    assert!(total > 50 && with_text + 2 >= total, "{with_text} of {total}");
    assert!(rows.iter().all(|row| row.before.is_none() && row.turnover.is_none()));
    assert!(rows.is_sorted_by(|one, other| one.after >= other.after));
    let watches =
        rows.iter().find(|row| row.path.iter().any(|name| name.ends_with("(*watchServer).Watch"))).unwrap();
    assert_eq!((watches.after, watches.waits.as_ref().unwrap().reason.as_str()), (3, "select"));
}

#[test]
fn growth_is_by_stack_with_who_came_and_who_went() {
    let before = counted(&[
        (&["runtime.gopark", "runtime.chanrecv1", "main.take[go.shape.int]", "main.work"], 2),
        (&["runtime.gopark", "main.idle"], 5),
        (&["runtime.gopark", "main.gone"], 1),
    ]);
    let after = counted(&[
        (&["runtime.gopark", "runtime.chanrecv1", "main.take[go.shape.int]", "main.work"], 4),
        (&["runtime.gopark", "main.idle"], 5),
        (&["runtime.gopark", "main.new"], 1),
    ]);
    let texts = [
        listed(&["main.take[...]", "main.work"], 10..12, "chan receive, 3 minutes")
            + &listed(&["main.idle"], 20..25, "select"),
        listed(&["main.take[...]", "main.work"], 10..14, "chan receive, 4 minutes")
            + &listed(&["main.idle"], 21..26, "select")
            + &listed(&["main.new"], 30..31, "running"),
    ];
    let groups = texts.map(|text| text::parse(text.as_bytes()).0);
    let first = Moment { counts: &before, text: Some(&groups[0]) };
    let rows = join(Some(first), Moment { counts: &after, text: Some(&groups[1]) });
    let seen = |leaf: &str| {
        let row = row(&rows, leaf);
        (row.before, row.after, row.turnover.map(|turnover| (turnover.came, turnover.went)))
    };
    assert_eq!(seen("main.take[...]"), (Some(2), 4, Some((2, 0))));
    assert_eq!(seen("main.idle"), (Some(5), 5, Some((1, 1))));
    assert_eq!(seen("main.new"), (Some(0), 1, Some((1, 0))));
    assert_eq!(seen("main.gone"), (Some(1), 0, Some((0, 0))), "the text had not seen it");
    let waits = row(&rows, "main.take[...]").waits.clone().unwrap();
    assert_eq!((waits.long, waits.median_minutes, waits.longest_minutes, waits.leaked), (4, 4, 4, 0));
    assert_eq!(waits.creator.as_deref(), Some("main.start"));
    // Without a text it is counts alone.
    let rows = join(Some(Moment { text: None, ..first }), Moment { counts: &after, text: None });
    assert_eq!(row(&rows, "main.idle").turnover, None::<Turnover>);
    assert_eq!(row(&rows, "main.idle").waits, None);
}

#[test]
fn names_are_those_of_the_text() {
    let check = |name: &str, expected: Option<&str>| assert_eq!(shown(name).as_deref(), expected, "{name}");
    check("runtime.gopark", None);
    check("runtime.Gosched", None);
    check("panic", None);
    check("runtime/pprof.writeGoroutine", Some("runtime/pprof.writeGoroutine"));
    check("main.(*pair[go.shape.int,go.shape.map[string]int]).add", Some("main.(*pair[...]).add"));
    check("main.odd]name[", Some("main.odd]name["));
    let stack: Vec<Arc<str>> = ["panic", "main.f[...]", "main.g"].map(Arc::from).to_vec();
    assert_eq!(path(&stack).iter().map(|name| &**name).collect::<Vec<_>>(), ["main.f[...]", "main.g"]);
}
