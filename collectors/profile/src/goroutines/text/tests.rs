//! Texts of real programs, of every version's making, torn ones, and what nobody has written.

use proptest::prelude::*;

use super::{FRAMES_MAX, GOROUTINES_MAX, Group, Rejects, parse};

/// `?debug=2` of a member of etcd 3.6 (Go 1.26) a minute after its start, with three clients that watch.
const ETCD: &[u8] = include_bytes!("../../../testdata/goroutines/etcd-3.6.txt");

/// One goroutine's lines.
fn written(id: u64, state: &str, functions: &[&str]) -> String {
    let frames: String =
        functions.iter().map(|name| format!("{name}(0xc000, {{0x1, 0x2}})\n\t/src/a.go:7 +0x1d\n")).collect();
    format!("goroutine {id} [{state}]:\n{frames}created by main.start in goroutine 1\n\t/src/a.go:3 +0x2\n\n")
}

fn one(text: &str) -> Group {
    let (groups, rejects) = parse(text.as_bytes());
    assert_eq!(rejects, Rejects::default(), "{text}");
    let [group] = <[Group; 1]>::try_from(groups).unwrap();
    group
}

#[test]
fn a_real_member_is_read_whole() {
    let (groups, rejects) = parse(ETCD);
    assert_eq!(rejects, Rejects::default());
    let goroutines: usize = groups.iter().map(|group| group.goroutines.len()).sum();
    let headers = ETCD.split(|byte| *byte == b'\n').filter(|line| line.starts_with(b"goroutine ")).count();
    assert_eq!((goroutines, headers), (54, 54));
    let main =
        groups.iter().find(|group| group.stack.last().is_some_and(|name| &**name == "main.main")).unwrap();
    assert_eq!(&*main.stack[0], "go.etcd.io/etcd/server/v3/etcdmain.startEtcdOrProxyV2");
    assert_eq!((main.reason(), main.minutes(), &main.creator), ("select", (1, 1), &None));
    let idle = groups.iter().find(|group| &*group.stack[0] == "internal/poll.runtime_pollWait").unwrap();
    assert_eq!(idle.reason(), "IO wait");
    let names = groups.iter().flat_map(|group| &group.stack);
    assert!(names.clone().all(|name| !name.contains("0x") && !name.contains('{')), "an argument was kept");
    assert!(names.clone().any(|name| name.contains("(*watchServer)")));
}

#[test]
fn each_form_of_the_first_line_is_read() {
    let check = |header: &str, expected: (&str, u64, bool, bool)| {
        let group = one(&format!("goroutine {header}:\nmain.f(...)\n\t/a.go:1\n"));
        let goroutine = &group.goroutines[0];
        let seen = (&*goroutine.reason, goroutine.minutes, goroutine.is_leaked, goroutine.is_locked);
        assert_eq!((goroutine.id, seen), (12, expected), "{header}");
    };
    check("12 [running]", ("running", 0, false, false));
    check("12 [select (no cases), 1 minutes]", ("select (no cases)", 1, false, false));
    check("12 [syscall, 1441 minutes, locked to thread]", ("syscall", 1_441, false, true));
    check("12 [chan receive (leaked)]", ("chan receive", 0, true, false));
    check("12 [chan send (leaked) (scan), 2 minutes]", ("chan send", 2, true, false));
    check("12 [chan receive (nil chan), 9 minutes]", ("chan receive (nil chan)", 9, false, false));
    check("12 gp=0xc000002380 m=3 mp=0xc000100008 [runnable]", ("runnable", 0, false, false));
    check("12 [select (durable), 3 minutes, synctest bubble 4]", ("select (durable)", 3, false, false));
    // Labels as 1.26 and as 1.27 has them: not ours to keep, whatever is in them.
    check(r#"12 [select, 3 minutes labels:{"who": "a], 7 minutes"}]"#, ("select", 3, false, false));
    check("12 [select, 3 minutes] {who: a]b:, path: [x], 9 minutes}", ("select", 3, false, false));
}

#[test]
fn what_nobody_writes_is_counted_and_the_rest_is_read() {
    let check = |text: &str, groups: usize, expected: Rejects| {
        let (seen, rejects) = parse(text.as_bytes());
        assert_eq!((seen.len(), rejects), (groups, expected), "{text:?}");
    };
    let headers = |bad_headers| Rejects { bad_headers, ..Rejects::default() };
    let good = written(1, "select", &["main.f"]);
    check("", 0, Rejects::default());
    check(&good, 1, Rejects::default());
    for bad in
        ["x [select]", "1 [select", "1 []", "1", "", "1 [select, x minutes]", "99999999999999999999 [select]"]
    {
        check(&format!("goroutine {bad}:\nmain.g()\n\t/a.go:1\nnonsense\n\n{good}"), 1, headers(1));
    }
    check(&format!("goroutine 1 [{}]:\nmain.g()\n\n{good}", "x".repeat(65)), 1, headers(1));
    check("goroutine 1 [select]:\n\tgoroutine running on other thread; stack unavailable\n\n", 0, headers(1));
    check(&format!("<html>\n\n{good}nonsense\n"), 1, Rejects { bad_lines: 2, ..Rejects::default() });
    let elided = "goroutine 1 [select]:\nmain.f()\n\t/a.go:1\n...23 frames elided...\nmain.g()\n\t/a.go:1\n";
    check(elided, 1, Rejects { cut_stacks: 1, ..Rejects::default() });
    // Torn within a line, torn behind one: who knows what would have followed.
    let torn = Rejects { torn: 1, ..Rejects::default() };
    check(&format!("{good}goroutine 2 [select]:\nmain.f(0x"), 1, torn);
    check("goroutine 2 [select]:\nmain.f()\n\t/a.go:1 +0x", 0, torn);
}

#[test]
fn goroutines_of_one_stack_are_one_group() {
    let minutes = [0, 1, 7, 3];
    let state =
        |n: u64| if n == 0 { "chan receive".to_owned() } else { format!("chan receive, {n} minutes") };
    let text: String =
        (10..).zip(minutes).map(|(id, n)| written(id, &state(n), &["main.take", "main.work"])).collect();
    let group = one(&text);
    assert_eq!(group.minutes(), (7, 1));
    assert_eq!((group.reason(), group.creator.as_deref()), ("chan receive", Some("main.start")));
    assert_eq!(group.goroutines.iter().map(|goroutine| goroutine.id).collect::<Vec<_>>(), [10, 11, 12, 13]);
    let other = written(20, "select", &["main.take", "main.other"]);
    assert_eq!(parse((text + &other).as_bytes()).0.len(), 2);
}

#[test]
fn bounds_hold_and_are_counted() {
    let many: String =
        (0..GOROUTINES_MAX + 3).map(|id| format!("goroutine {id} [select]:\nmain.f()\n\n")).collect();
    let (groups, rejects) = parse(many.as_bytes());
    assert_eq!((groups[0].goroutines.len(), rejects.over), (GOROUTINES_MAX, 3));
    let deep = vec!["main.f"; FRAMES_MAX + 5];
    let (groups, rejects) = parse(written(1, "select", &deep).as_bytes());
    assert_eq!((groups[0].stack.len(), rejects.cut_stacks), (FRAMES_MAX, 1));
    let long = "m".repeat(1 << 20);
    let (groups, _) = parse(written(1, "select", &[&long]).as_bytes());
    assert_eq!(groups[0].stack[0].len(), 4_096);
}

fn name() -> impl Strategy<Value = String> {
    "[a-z]{1,6}(/[a-z.]{1,6})?\\.(\\(\\*[A-Z][a-z]{0,5}(\\[\\.\\.\\.\\])?\\)\\.)?[a-zA-Z][a-z0-9.]{0,8}"
}

proptest! {
    #[test]
    fn what_is_written_is_read(
        written_down in prop::collection::vec((1_u64..1_000, 0_u64..100, prop::collection::vec(name(), 1..6)), 0..40)
    ) {
        let text: String = written_down.iter().map(|(id, minutes, stack)| {
            let state = if *minutes == 0 { "select".to_owned() } else { format!("select, {minutes} minutes") };
            written(*id, &state, &stack.iter().map(String::as_str).collect::<Vec<_>>())
        }).collect();
        let (groups, rejects) = parse(text.as_bytes());
        prop_assert_eq!(rejects, Rejects::default());
        let mut read: Vec<(u64, u64, Vec<String>)> = Vec::new();
        for group in &groups {
            let stack: Vec<String> = group.stack.iter().map(|name| name.to_string()).collect();
            read.extend(group.goroutines.iter().map(|one| (one.id, one.minutes, stack.clone())));
        }
        let mut expected = written_down;
        read.sort();
        expected.sort();
        prop_assert_eq!(read, expected);
    }

    #[test]
    fn a_text_cut_anywhere_loses_one_goroutine_at_most(at in 0..ETCD.len()) {
        let cut = &ETCD[..at];
        let (groups, rejects) = parse(cut);
        let seen: usize = groups.iter().map(|group| group.goroutines.len()).sum();
        let whole = cut.split_inclusive(|byte| *byte == b'\n').filter(|line| line.ends_with(b"\n"));
        let begun = whole.filter(|line| line.starts_with(b"goroutine ")).count();
        let left_out = usize::try_from(rejects.torn + rejects.bad_headers).unwrap();
        prop_assert!(left_out <= 1);
        prop_assert_eq!(seen + left_out, begun);
    }

    #[test]
    fn no_bytes_are_too_much(noise in prop::collection::vec(any::<u8>(), 0..2_000), at in 0..ETCD.len()) {
        let end = (at + noise.len()).min(ETCD.len());
        let (groups, _) = parse(&[&ETCD[..at], &noise, &ETCD[end..]].concat());
        prop_assert!(groups.iter().all(|group| !group.stack.is_empty() && !group.goroutines.is_empty()));
    }
}
