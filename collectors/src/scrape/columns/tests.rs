//! Pages in, values out: generations, ends, restarts, limits.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::ops::Range;

use model::scrape::{MetricKind, Point, PointShape, is_absent, is_stale};
use proptest::prelude::*;

use super::*;

const PAGE: &str = "\
# HELP a_total Things.
# TYPE a_total counter
a_total{x=\"1\"} 10
a_total{x=\"2\"} 20
# HELP h Times.
# TYPE h histogram
h_bucket{le=\"0.1\"} 1
h_bucket{le=\"+Inf\"} 3
h_sum 0.5
h_count 3
# TYPE process_start_time_seconds gauge
process_start_time_seconds 1.7e+09
# TYPE g gauge
g -1
";

fn read(columns: &mut Columns, page: &str) -> Reading {
    columns.read(page.as_bytes(), 5_000_000).unwrap()
}

/// The value of `family{x="label"}`, or of a synthetic series.
fn value(reading: &Reading, family: &str, label: &str) -> f64 {
    let labels = [("x", label)];
    let labels = if label.is_empty() { &[][..] } else { &labels[..] };
    match reading.layout.find(family, labels).unwrap().shape {
        PointShape::Value { series } => reading.values[index(series)],
        ref other => panic!("{other:?}"),
    }
}

/// `m{x="N"} 1` for each N.
fn numbered(range: Range<u32>) -> String {
    range.fold(String::new(), |page, n| page + &format!("m{{x=\"{n}\"}} 1\n"))
}

#[test]
fn the_steady_state_keeps_the_layout() {
    let mut columns = Columns::new(100);
    let first = read(&mut columns, PAGE);
    assert_eq!((first.samples, first.kept, first.layout.series), (8, 8, 13));
    assert_eq!(value(&first, "scrape_series_added", ""), 8.0);
    let second = read(&mut columns, &PAGE.replace("} 10", "} 11"));
    assert!(Arc::ptr_eq(&first.layout, &second.layout));
    assert_eq!(value(&second, "a_total", "1"), 11.0);
    assert_eq!(value(&second, "up", ""), 1.0);
    assert_eq!(value(&second, "scrape_duration_seconds", ""), 0.005);
    assert_eq!(value(&second, "scrape_samples_scraped", ""), 8.0);
    assert_eq!(value(&second, "scrape_series_added", ""), 0.0);
    assert_eq!(second.process_start_ns, Some(1_700_000_000_000_000_000));
    assert_eq!(second.restarted, None);
}

#[test]
fn another_order_is_the_same_layout() {
    let mut columns = Columns::new(100);
    let first = read(&mut columns, PAGE);
    let mut lines: Vec<&str> = PAGE.lines().collect();
    lines.reverse();
    let turned = read(&mut columns, &(lines.join("\r\n") + "\n"));
    assert!(Arc::ptr_eq(&first.layout, &turned.layout));
    assert_eq!(first.values[..8], turned.values[..8]);
}

#[test]
fn a_longer_name_is_not_taken_for_the_expected_one() {
    let mut columns = Columns::new(100);
    read(&mut columns, "a 1\nb 2\n");
    let next = read(&mut columns, "ab 7\na 3\nb 4\n");
    assert_eq!(next.kept, 3);
    assert_eq!((value(&next, "ab", ""), value(&next, "a", ""), value(&next, "b", "")), (7.0, 3.0, 4.0));
    let digit = read(&mut columns, "ab 7\na5 1\na 3\nb 4\n");
    assert_eq!(
        (value(&digit, "a5", ""), value(&digit, "a", "")),
        (1.0, 3.0),
        "a5 1 is not a with a timestamp"
    );
    let spaced = read(&mut columns, "ab  8\na\t5\nb {} 6\n");
    assert_eq!((value(&spaced, "ab", ""), value(&spaced, "a", "")), (8.0, 5.0));
    assert_eq!(spaced.kept, 3, "another spelling of b is b");
}

#[test]
fn a_series_that_vanishes_is_stale_once_then_absent_then_back() {
    let mut columns = Columns::new(100);
    let first = read(&mut columns, PAGE);
    let without = PAGE.replace("a_total{x=\"2\"} 20\n", "");
    let second = read(&mut columns, &without);
    assert!(is_stale(value(&second, "a_total", "2")));
    assert!(is_absent(value(&read(&mut columns, &without), "a_total", "2")));
    let back = read(&mut columns, PAGE);
    assert_eq!(value(&back, "a_total", "2"), 20.0);
    assert_eq!(value(&back, "scrape_series_added", ""), 1.0);
    assert!(Arc::ptr_eq(&first.layout, &back.layout), "coming and going is no new shape");
}

#[test]
fn a_new_series_is_a_new_generation_that_still_ends_what_vanished_with_it() {
    let mut columns = Columns::new(100);
    let first = read(&mut columns, PAGE);
    let changed = PAGE.replace("a_total{x=\"2\"} 20", "a_total{x=\"3\"} 30");
    let second = read(&mut columns, &changed);
    assert_eq!(second.layout.generation, first.layout.generation + 1);
    assert_eq!(value(&second, "a_total", "3"), 30.0);
    assert!(is_stale(value(&second, "a_total", "2")));
    assert_eq!(value(&second, "scrape_series_added", ""), 1.0);
    let third = read(&mut columns, &changed);
    assert!(is_absent(value(&third, "a_total", "2")));
    assert_eq!(third.layout.generation, second.layout.generation);
}

#[test]
fn many_tombstones_are_dropped_by_a_new_generation() {
    let mut columns = Columns::new(1000);
    let full = read(&mut columns, &numbered(0..200));
    let stale = read(&mut columns, &numbered(0..100));
    assert_eq!(stale.values.iter().filter(|value| is_stale(**value)).count(), 100);
    assert_eq!(stale.layout.generation, full.layout.generation);
    let lean = read(&mut columns, &numbered(0..100));
    assert_eq!((lean.layout.generation, lean.layout.series), (full.layout.generation + 1, 105));
    assert_eq!(value(&lean, "scrape_series_added", ""), 0.0);
    assert_eq!(read(&mut columns, &numbered(0..100)).layout.generation, lean.layout.generation);
}

#[test]
fn a_failed_scrape_ends_every_series_once_and_says_up_is_0() {
    let mut columns = Columns::new(100);
    let before = columns.fail(1);
    assert_eq!(before.values.len(), 5);
    assert_eq!(value(&before, "up", ""), 0.0);
    let up = read(&mut columns, PAGE);
    let down = columns.fail(2_000_000_000);
    assert!(Arc::ptr_eq(&up.layout, &down.layout));
    assert!(down.values[..8].iter().all(|value| is_stale(*value)));
    assert_eq!((value(&down, "up", ""), value(&down, "scrape_duration_seconds", "")), (0.0, 2.0));
    assert!(columns.fail(1).values[..8].iter().all(|value| is_absent(*value)));
    let back = read(&mut columns, PAGE);
    assert!(Arc::ptr_eq(&up.layout, &back.layout));
    assert_eq!((value(&back, "scrape_series_added", ""), back.restarted), (8.0, None));
}

#[test]
fn a_target_that_stays_down_shrinks_to_the_synthetic_series_and_still_shows_a_restart() {
    let mut columns = Columns::new(100);
    let up = read(&mut columns, PAGE);
    for _ in 1..FAILURES_MAX {
        assert_eq!(columns.fail(1).layout.generation, up.layout.generation);
    }
    for _ in 0..3 {
        let quiet = columns.fail(1);
        assert_eq!((quiet.layout.generation, quiet.values.len()), (up.layout.generation + 1, 5));
    }
    let back = read(&mut columns, &PAGE.replace("1.7e+09", "1.70000001e+09"));
    assert_eq!((back.layout.generation, back.kept), (up.layout.generation + 2, 8));
    assert_eq!(back.restarted, Some(Restart::StartTime));
}

#[test]
fn a_restart_is_seen_by_start_time_or_by_the_counters() {
    let mut columns = Columns::new(100);
    read(&mut columns, PAGE);
    let jitter = PAGE.replace("1.7e+09", "1.700000001e+09");
    assert_eq!(read(&mut columns, &jitter).restarted, None, "a second is rounding");
    let one_fell = jitter.replace("} 10", "} 9").replace("} 20", "} 21");
    assert_eq!(read(&mut columns, &one_fell).restarted, None, "one counter is not the process");
    let mut all_fell = String::new();
    for line in jitter.lines().filter(|line| !line.starts_with("process_start")) {
        let reset = match line.rsplit_once(' ') {
            Some((key, value)) if !line.starts_with('#') && value != "0.5" => format!("{key} 0"),
            _ => line.to_owned(),
        };
        writeln!(all_fell, "{reset}").unwrap();
    }
    let reset = read(&mut columns, &all_fell);
    assert_eq!((reset.restarted, reset.process_start_ns), (Some(Restart::Values), None));
    assert_eq!(read(&mut columns, &all_fell).restarted, None);
    let moved = PAGE.replace("1.7e+09", "1.8e+09");
    assert_eq!(read(&mut columns, &moved).restarted, Some(Restart::StartTime));
}

#[test]
fn rejects_are_counted_each_scrape_and_make_no_generations() {
    let mut columns = Columns::new(100);
    let bad = "a 1\na 2\na{b=\"1\",b=\"2\"} 3\n???\nup 0\n# TYPE a gauge\n# TYPE a counter\n\
               b{c=\"1\"} x\nc 1 1700000000000\nd 1 # {} 2\nlast 5";
    let first = read(&mut columns, bad);
    for _ in 0..3 {
        let reading = read(&mut columns, bad);
        assert_eq!(reading.layout.generation, first.layout.generation);
        let seen = |reject: &Reject| reading.rejects.count(*reject) > 0;
        let reasons: Vec<_> = Reject::ALL.into_iter().filter(seen).map(Reject::reason).collect();
        let expected =
            ["bad_line", "bad_labels", "bad_value", "torn", "duplicate", "type_conflict", "reserved"];
        assert_eq!(reasons, expected);
        assert_eq!(reading.rejects.total(), 7);
        assert_eq!((reading.kept, reading.timestamps, reading.exemplars), (3, 1, 1));
        assert_eq!(value(&reading, "a", ""), 1.0, "the first one stays");
        assert_eq!(reading.rejects.sample, Some((Reject::Duplicate, "a 2".to_owned())));
    }
}

#[test]
fn a_series_is_kept_again_once_the_one_in_its_way_has_gone() {
    let mut columns = Columns::new(100);
    let page = "a 1\n# TYPE h histogram\nh_bucket{le=\"+Inf\"} 2\n";
    // The same bound in other letters, on one page only.
    read(&mut columns, &page.replace("h_bucket", "h_bucket{le=\"1e999\"} 1\nh_bucket"));
    let blocked = read(&mut columns, page);
    assert_eq!((blocked.kept, blocked.rejects.count(Reject::Duplicate)), (1, 1));
    let free = read(&mut columns, page);
    assert_eq!((free.kept, free.rejects.total()), (2, 0));
    let generation = free.layout.generation;
    assert_eq!(read(&mut columns, page).layout.generation, generation, "and it stays so");
}

#[test]
fn a_changed_help_is_only_words_but_a_changed_type_is_a_shape() {
    let mut columns = Columns::new(100);
    let first = read(&mut columns, PAGE);
    let help = read(&mut columns, &PAGE.replace("Things.", "Other things."));
    assert!(Arc::ptr_eq(&first.layout, &help.layout));
    let kind = read(&mut columns, &PAGE.replace("a_total counter", "a_total gauge"));
    assert_eq!(kind.layout.generation, first.layout.generation + 1);
    let family = kind.layout.families.iter().find(|family| family.name == "a_total").unwrap();
    assert_eq!((family.kind, family.help.as_str()), (MetricKind::Gauge, "Things."));
}

#[test]
fn series_beyond_the_limit_are_counted_and_build_nothing() {
    let mut columns = Columns::new(10);
    let first = read(&mut columns, &numbered(0..20));
    assert_eq!((first.layout.series, first.samples, first.kept), (15, 20, 10));
    assert_eq!(first.rejects.count(Reject::SeriesLimit), 10);
    let second = read(&mut columns, &numbered(1..21));
    assert_eq!(second.layout.generation, first.layout.generation);
    assert_eq!((second.kept, second.rejects.count(Reject::SeriesLimit)), (9, 11));
}

#[test]
fn what_holds_only_rejects_is_no_page_and_an_empty_page_is_one() {
    let mut columns = Columns::new(10);
    assert_eq!(columns.read(b"<html>\n<body>\n", 1).unwrap_err().total(), 2);
    let utf16: Vec<u8> = "a 1\nb 2\n".encode_utf16().flat_map(u16::to_le_bytes).collect();
    assert!(columns.read(&utf16, 1).is_err());
    let empty = read(&mut columns, "");
    assert_eq!((empty.samples, value(&empty, "up", "")), (0, 1.0));
    assert_eq!(read(&mut columns, "# EOF").samples, 0);
}

#[test]
fn two_hundred_thousand_series_stay_within_the_limit() {
    let mut page = String::new();
    for n in 0..200_000 {
        writeln!(page, "m{{x=\"{n}\"}} {n}").unwrap();
    }
    let reading = read(&mut Columns::new(100_000), &page);
    assert_eq!((reading.layout.series, reading.rejects.count(Reject::SeriesLimit)), (100_005, 100_000));
    assert_eq!(value(&reading, "m", "99999"), 99_999.0);
}

#[test]
fn a_large_page_that_changes_all_the_time_is_built_anew_only_now_and_then() {
    let mut columns = Columns::new(100_000);
    let first = read(&mut columns, &numbered(0..30_000));
    let mut built = 0;
    let mut generation = first.layout.generation;
    for page in 1..=9 {
        let reading = read(&mut columns, &numbered(page..30_000 + page));
        assert_eq!(reading.kept + reading.rejects.count(Reject::TooSoon), 30_000);
        built += u32::from(reading.layout.generation != generation);
        generation = reading.layout.generation;
    }
    assert_eq!(built, 3);
}

#[test]
fn one_histogram_of_a_hundred_thousand_buckets_costs_no_square() {
    let mut page = "# TYPE h histogram\n".to_owned();
    for n in 0..100_000 {
        writeln!(page, "h_bucket{{le=\"{n}\"}} {n}").unwrap();
    }
    assert_eq!(read(&mut Columns::new(100_000), &page).kept, 100_000);
}

/// Pages of few words, so that series come, go, clash and change their type.
const SMALL_PAGE: &str = "(([abh]{1,2}|h_bucket|h_sum)(\\{(le|x)=\"[01]\"\\})? [0-9]{1,2}\n\
                          |# TYPE [abh] (counter|histogram|gauge)\n|[a{} \n]){0,30}";

proptest! {
    #[test]
    fn any_pages_in_a_row_keep_the_books(pages in proptest::collection::vec(SMALL_PAGE, 1..6)) {
        let mut columns = Columns::new(8);
        let mut generation = 0;
        for page in &pages {
            let reading = match columns.read(page.as_bytes(), 1) {
                Ok(reading) => reading,
                Err(_) => columns.fail(1),
            };
            prop_assert!(reading.layout.generation >= generation);
            generation = reading.layout.generation;
            prop_assert_eq!(reading.values.len(), index(reading.layout.series));
            let told = reading.values.iter().filter(|value| !is_stale(**value) && !is_absent(**value)).count();
            prop_assert_eq!(told, usize::try_from(reading.kept).unwrap() + SYNTHETIC.len());
            let mut used: Vec<u32> = reading.layout.points.iter().flat_map(ids).collect();
            used.sort_unstable();
            prop_assert_eq!(used, (0..reading.layout.series).collect::<Vec<_>>(), "each series in one point");
        }
    }

    #[test]
    fn a_generated_page_round_trips(
        values in proptest::collection::btree_map(("[a-z_]{1,8}", "\\PC{0,8}"), any::<f64>(), 1..40),
    ) {
        let mut page = String::new();
        for ((name, label), value) in &values {
            let label = label.replace('\\', "\\\\").replace('"', "\\\"");
            writeln!(page, "m_{name}{{x=\"{label}\"}} {value}").unwrap();
        }
        let mut columns = Columns::new(1000);
        for _ in 0..2 {
            let reading = columns.read(page.as_bytes(), 1).unwrap();
            let mut read = BTreeMap::new();
            for point in &reading.layout.points {
                let family = &reading.layout.families[index(point.family)].name;
                let Some(name) = family.strip_prefix("m_") else { continue };
                let label = point.labels.first().map_or(String::new(), |(_, value)| value.clone());
                let PointShape::Value { series } = point.shape else { panic!("no value") };
                read.insert((name.to_owned(), label), reading.values[index(series)]);
            }
            prop_assert_eq!(read.len(), values.len());
            for (key, value) in &values {
                let same = read[key] == *value || (read[key].is_nan() && value.is_nan());
                prop_assert!(same, "{:?}: {} is not {}", key, read[key], value);
            }
        }
    }
}

fn ids(point: &Point) -> Vec<u32> {
    match &point.shape {
        PointShape::Value { series } => vec![*series],
        PointShape::Histogram { buckets: bounds, count, sum }
        | PointShape::Summary { quantiles: bounds, count, sum } => {
            bounds.iter().map(|(_, id)| *id).chain(*count).chain(*sum).collect()
        }
    }
}
