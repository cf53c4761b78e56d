//! Stories of quiet and of change.

use model::finding::{Regression, Shape};
use model::mark::MarkKind;
use model::probe::{ProbeKind, ProbeOutcome};
use model::record::Record;

use super::{Config, Detect};
use crate::excuse::Excuses;
use crate::story::{MEMBERS, Noise, Page, drive, mark, probe, stamp, tick};

struct Watch {
    detect: Detect,
    excuses: Excuses,
    found: Vec<(f64, Regression)>,
}

impl Watch {
    fn new() -> Watch {
        Watch { detect: Detect::new(&Config::default()), excuses: Excuses::default(), found: Vec::new() }
    }

    fn feed(&mut self, record: &Record) {
        self.excuses.observe(record);
        for told in self.detect.observe(record, &self.excuses) {
            self.found.push((super::seconds(record.at.mono_ns), told.regression));
        }
    }

    fn run(
        &mut self,
        seconds: std::ops::Range<u32>,
        answer: &mut dyn FnMut(f64, &str, ProbeKind) -> (f64, ProbeOutcome),
    ) {
        drive(seconds, answer, &mut |record| self.feed(record));
    }

    fn opened(&self) -> Vec<&(f64, Regression)> {
        self.found.iter().filter(|(_, regression)| regression.open).collect()
    }
}

fn median(kind: ProbeKind) -> f64 {
    if matches!(kind, ProbeKind::LeaseGrant | ProbeKind::LeaseRevoke) { 5.0 } else { 4.0 }
}

/// Latencies as real clusters have them: lognormal, with memory, and now and then ten times as long.
struct Real {
    noise: Noise,
    slow: f64,
    phi: f64,
    spikes: f64,
}

impl Real {
    fn new(seed: u64, phi: f64, spikes: f64) -> Real {
        Real { noise: Noise::new(seed), slow: 0.0, phi, spikes }
    }

    fn answer(&mut self, kind: ProbeKind, factor: f64) -> (f64, ProbeOutcome) {
        self.slow = self.phi * self.slow + (1.0 - self.phi * self.phi).sqrt() * self.noise.normal();
        let spike = if self.noise.uniform() < self.spikes { 10.0 } else { 1.0 };
        (median(kind) * factor * spike * (0.45 * self.slow).exp(), ProbeOutcome::Ok)
    }
}

fn check_step(quiet_s: u32, factor: f64, within_s: f64) {
    // Three times 4 ms lies below the usual least excess: here the arithmetic is tried, not the limit.
    let config = Config { latency_excess_ms: 2.0, ..Config::default() };
    let mut delays = Vec::new();
    for seed in 1..=20 {
        let mut watch = Watch { detect: Detect::new(&config), ..Watch::new() };
        let mut real = Real::new(seed, 0.2, 0.01);
        let onset = f64::from(quiet_s);
        watch.run(0..quiet_s + 60, &mut |at, _, kind| {
            real.answer(kind, if at < onset { 1.0 } else { factor })
        });
        let opened = watch.opened();
        assert!(!opened.is_empty(), "seed {seed}: nothing found");
        assert!(opened.len() <= 3, "seed {seed}: {} findings for one onset", opened.len());
        let (at, first) = opened[0];
        assert!(*at >= onset, "seed {seed}: before the onset: {first:?}");
        assert!(first.cause.is_none() && first.shape == Shape::Step);
        assert!(
            (stamp(onset - 6.0)..stamp(onset + within_s)).contains(&first.onset),
            "seed {seed}: {first:?}"
        );
        assert!(first.after.value > first.before.value * 2.0 && first.before.n >= 12 && first.after.n >= 3);
        delays.push(at - onset);
    }
    delays.sort_by(f64::total_cmp);
    println!("x{factor} after {quiet_s} s: median {:.1} s, worst {:.1} s", delays[10], delays[19]);
    assert!(delays[10] <= within_s && delays[19] <= within_s * 1.6, "{delays:?}");
}

#[test]
fn the_demo_step_is_found_in_seconds() {
    check_step(60, 25.0, 4.0);
    check_step(900, 25.0, 4.0);
}

#[test]
fn a_smaller_step_is_found_a_little_later() {
    check_step(300, 5.0, 8.0);
    check_step(300, 3.0, 20.0);
}

#[test]
fn thirty_quiet_minutes_open_nothing() {
    for (phi, spikes) in [(0.0, 0.0), (0.2, 0.02), (0.7, 0.01), (0.9, 0.0)] {
        for seed in 1..=5 {
            let mut watch = Watch::new();
            let mut real = Real::new(seed * 31, phi, spikes);
            watch.run(0..1800, &mut |_, _, kind| real.answer(kind, 1.0));
            assert_eq!(watch.found, Vec::new(), "phi {phi}, spikes {spikes}, seed {seed}");
        }
    }
}

#[test]
fn a_hiccup_of_the_host_is_no_step() {
    let mut watch = Watch::new();
    let mut real = Real::new(3, 0.2, 0.01);
    watch.run(0..600, &mut |at, _, kind| {
        // Every two minutes all members answer 200 times slower, for one and a half seconds.
        real.answer(kind, if at % 120.0 > 118.5 { 200.0 } else { 1.0 })
    });
    assert_eq!(watch.opened().len(), 0, "{:?}", watch.found);
}

#[test]
fn what_went_back_is_closed_as_a_spike_and_what_stayed_as_a_step() {
    for (lasting, shape) in [(12.0, Shape::Spike), (90.0, Shape::Step)] {
        let mut watch = Watch::new();
        let mut real = Real::new(5, 0.2, 0.0);
        let end = 200.0 + lasting;
        watch.run(0..350, &mut |at, _, kind| {
            real.answer(kind, if (200.0..end).contains(&at) { 20.0 } else { 1.0 })
        });
        let opened = watch.opened().len();
        let closed: Vec<_> = watch.found.iter().filter(|(_, regression)| !regression.open).collect();
        assert_eq!(closed.len(), opened, "each finding is closed: {:?}", watch.found);
        assert!(
            closed.iter().all(|(at, regression)| regression.shape == shape && *at > end && *at < end + 45.0),
            "{closed:?}"
        );
    }
}

#[test]
fn a_small_disturbance_does_not_hide_a_large_one() {
    for marked in [false, true] {
        let mut watch = Watch::new();
        let mut real = Real::new(14, 0.2, 0.0);
        watch.run(0..330, &mut |at, _, kind| real.answer(kind, if at < 290.0 { 1.0 } else { 5.0 }));
        let small = watch.opened().len();
        assert!(small > 0);
        if marked {
            watch.feed(&mark(330.0, "shop", "v2", MarkKind::Rollout));
        }
        watch.run(330..380, &mut |_, _, kind| real.answer(kind, 60.0));
        let opened = watch.opened();
        let large: Vec<f64> = opened.iter().skip(small).map(|(at, _)| *at).collect();
        assert!((1..=4).contains(&large.len()), "{large:?}");
        assert!((330.0..=337.0).contains(&large[0]), "{large:?}");
        assert!(opened[small].1.onset >= stamp(329.0), "{:?}", opened[small]);
    }
}

#[test]
fn what_a_busy_neighbour_costs_is_no_regression() {
    let mut watch = Watch::new();
    let mut real = Real::new(15, 0.2, 0.01);
    watch.run(0..300, &mut |at, _, kind| real.answer(kind, if at % 60.0 > 50.0 { 2.5 } else { 1.0 }));
    assert_eq!(watch.found, Vec::new());
}

#[test]
fn nothing_is_learnt_while_an_alarm_is_open() {
    let mut watch = Watch::new();
    let mut real = Real::new(8, 0.2, 0.0);
    watch.run(0..1500, &mut |at, _, kind| real.answer(kind, if at < 300.0 { 1.0 } else { 20.0 }));
    assert!(watch.found.iter().all(|(_, regression)| regression.open), "it never closes: {:?}", watch.found);
    let usual =
        watch.detect.members["m1"].probes[&ProbeKind::LinearizableRead].baseline.before(super::LATENCY);
    assert!(usual.value < 0.006, "{usual:?}");
}

/// Ten seconds of disturbance with a leader change that a probe heard of; `stays` goes on for two minutes.
fn leader_move(stays: bool, rollout: bool) -> Watch {
    let mut watch = Watch::new();
    let mut real = Real::new(9, 0.2, 0.0);
    let end = if stays { 320.0 } else { 206.0 };
    watch.run(0..198, &mut |_, _, kind| real.answer(kind, 1.0));
    if rollout {
        watch.feed(&mark(198.0, "shop", "v2", MarkKind::Rollout));
    }
    watch.run(198..330, &mut |at, member, kind| {
        if at > 200.0 && at < 201.0 && member == "m1" {
            return (900.0, ProbeOutcome::LeaderChanged);
        }
        real.answer(kind, if (200.0..end).contains(&at) { 30.0 } else { 1.0 })
    });
    watch
}

#[test]
fn a_leader_move_is_one_finding_with_its_cause() {
    let watch = leader_move(false, false);
    assert_eq!(watch.found.len(), 1, "{:?}", watch.found);
    let (_, regression) = &watch.found[0];
    assert_eq!(regression.cause.as_deref(), Some("leader move"));
    assert!(!regression.open && regression.shape == Shape::Spike);
}

#[test]
fn a_disturbance_that_outlives_its_cause_is_opened() {
    let watch = leader_move(true, false);
    let opened = watch.opened();
    assert!((1..=3).contains(&opened.len()), "{:?}", watch.found);
    assert!((204.0..=225.0).contains(&opened[0].0) && opened[0].1.cause.is_none(), "{:?}", opened[0]);
}

#[test]
fn a_rollout_that_moves_the_leader_has_no_excuse() {
    let watch = leader_move(true, true);
    let opened = watch.opened();
    assert!((203.0..=206.0).contains(&opened[0].0) && opened[0].1.cause.is_none(), "{:?}", opened[0]);
}

#[test]
fn a_planned_restart_opens_nothing() {
    let mut watch = Watch::new();
    let mut real = Real::new(10, 0.2, 0.0);
    watch.run(0..100, &mut |_, _, kind| real.answer(kind, 1.0));
    watch.feed(&mark(100.0, "m2", "", MarkKind::Planned));
    watch.run(100..300, &mut |at, member, kind| match member {
        "m2" if (101.0..109.0).contains(&at) => (1.0, ProbeOutcome::Refused),
        "m2" if (109.0..113.0).contains(&at) => real.answer(kind, 40.0),
        _ if (101.0..103.0).contains(&at) => real.answer(kind, 100.0),
        _ => real.answer(kind, 1.0),
    });
    assert_eq!(watch.opened().len(), 0, "{:?}", watch.found);
    assert!(watch.found.len() <= 1);
}

#[test]
fn a_restart_of_the_agent_in_the_middle_changes_nothing() {
    let story = |cut: Option<u32>| {
        let mut watch = Watch::new();
        let mut real = Real::new(12, 0.2, 0.01);
        for now in 0..260 {
            if Some(now) == cut {
                let detect = serde_json::to_string(&watch.detect).unwrap();
                watch.detect = serde_json::from_str(&detect).unwrap();
            }
            watch.run(now..now + 1, &mut |at, _, kind| {
                real.answer(kind, if (150.0..200.0).contains(&at) { 20.0 } else { 1.0 })
            });
            watch.feed(&pages(f64::from(now), if (150..200).contains(&now) { 0.5 } else { 0.002 }, 1.0));
        }
        watch.found
    };
    let whole = story(None);
    assert!(whole.len() >= 2);
    for cut in [5, 100, 152, 180, 203] {
        assert_eq!(story(Some(cut)), whole, "cut at {cut}");
    }
}

/// A page of `m1` at `now` seconds: 40 fsyncs a second of which `slow` take 50 ms, and memory of `size` times 80 MiB.
fn pages(now: f64, slow: f64, size: f64) -> Record {
    let all = 40.0 * now;
    let beyond = if slow > 0.01 { 40.0 * (now - 150.0) * slow } else { all * slow };
    let within = |share: f64| ((all - beyond) * share).floor();
    let buckets = vec![
        (0.001, within(0.5)),
        (0.002, within(0.9)),
        (0.004, within(0.995)),
        (0.008, within(1.0)),
        (0.032, within(1.0)),
        (0.064, all),
        (f64::INFINITY, all),
    ];
    Page {
        values: vec![
            ("process_resident_memory_bytes", Vec::new(), size * 80.0 * 1_048_576.0),
            ("process_cpu_seconds_total", Vec::new(), now * 0.1),
            ("etcd_server_leader_changes_seen_total", Vec::new(), 1.0),
        ],
        histograms: vec![("etcd_disk_wal_fsync_duration_seconds", buckets)],
        process_start_ns: Some(1_790_000_000_000_000_000),
        restarted: false,
    }
    .scrape(now + 0.4, "m1")
}

#[test]
fn slow_fsyncs_are_found_by_their_buckets() {
    let mut watch = Watch::new();
    for now in 0..200_u32 {
        watch.feed(&pages(f64::from(now), if now < 150 { 0.002 } else { 0.5 }, 1.0));
    }
    let opened = watch.opened();
    assert_eq!(opened.len(), 1, "{:?}", watch.found);
    let (at, regression) = opened[0];
    assert!((150.0..=156.0).contains(at), "{at}");
    assert_eq!(regression.metric, "etcd_disk_wal_fsync_duration_seconds");
    assert!(regression.before.value <= 0.0011 && regression.before.n > 1000, "{:?}", regression.before);
    assert!(regression.after.value > 0.004 && regression.after.high > 0.03, "{:?}", regression.after);
}

#[test]
fn memory_that_doubles_is_found_and_one_that_breathes_is_not() {
    for (grown, found) in [(2.2, true), (1.3, false)] {
        let mut watch = Watch::new();
        for now in 0..400_u32 {
            let size = if now < 300 { 1.0 + 0.05 * f64::from(now % 7) } else { grown };
            watch.feed(&pages(f64::from(now), 0.002, size));
        }
        assert_eq!(!watch.opened().is_empty(), found, "{grown}: {:?}", watch.found);
    }
}

#[test]
fn counters_that_begin_anew_are_no_step() {
    let mut watch = Watch::new();
    for now in 0..300_u32 {
        // The process restarts at 200 s: all counters fall, its memory is small, then it grows back.
        let since = if now < 200 { f64::from(now) } else { f64::from(now - 200) };
        let mut page = pages(since, 0.002, if now < 200 { 1.0 } else { 0.5 + since / 100.0 });
        page.at = stamp(f64::from(now) + 0.4);
        if let model::record::Fact::Scrape(scrape) = &mut page.fact {
            scrape.restarted = now == 200;
            scrape.process_start_ns = Some(if now < 200 { 1 } else { 2 });
        }
        watch.feed(&page);
    }
    assert_eq!(watch.found, Vec::new());
}

#[test]
fn members_beyond_the_bound_are_not_watched() {
    let mut watch = Watch::new();
    for index in 0..100 {
        let mut record = pages(1.0, 0.002, 1.0);
        let mut origin = record.origin.as_ref().clone();
        origin.member.as_mut().unwrap().name = format!("m{index}");
        record.origin = std::sync::Arc::new(origin);
        watch.feed(&record);
    }
    assert_eq!(watch.detect.members.len(), super::MEMBERS_MAX);
    assert_eq!(MEMBERS.len(), 3);
}

#[test]
fn a_page_of_another_shape_begins_anew_after_a_restart_too() {
    let counter = ("etcd_server_leader_changes_seen_total", Vec::new(), 1.0);
    let narrow = Page { values: vec![counter.clone()], ..Page::default() };
    let wide = Page { values: vec![counter, ("go_goroutines", Vec::new(), 9.0)], ..Page::default() };
    let mut running = Watch::new();
    running.feed(&narrow.scrape(100.0, "m1"));
    let state = |watch: &Watch| postcard::to_stdvec(&watch.detect).unwrap();
    let mut restored = Watch { detect: postcard::from_bytes(&state(&running)).unwrap(), ..Watch::new() };
    for watch in [&mut running, &mut restored] {
        watch.feed(&wide.scrape(101.0, "m1"));
    }
    assert_eq!(state(&running), state(&restored));
}

#[test]
fn a_probe_that_was_due_before_the_rollout_does_not_date_its_trouble_back() {
    let mut watch = Watch::new();
    let mut real = Real::new(16, 0.2, 0.0);
    watch.run(0..200, &mut |_, _, kind| real.answer(kind, 1.0));
    watch.feed(&mark(200.0, "shop", "v2", MarkKind::Rollout));
    for (place, member) in (0_u32..).zip(MEMBERS) {
        let due = 199.4 + f64::from(place) * 0.2;
        watch.feed(&probe(due, member, ProbeKind::LeaseGrant, (900.0, ProbeOutcome::Ok)));
    }
    watch.run(200..220, &mut |_, _, kind| real.answer(kind, 40.0));
    let opened = watch.opened();
    assert!(!opened.is_empty());
    assert!(opened.iter().all(|(_, regression)| regression.onset >= stamp(200.0)), "{opened:?}");
}

#[test]
fn a_regression_of_a_member_that_tells_nothing_any_more_is_closed_without_data() {
    let mut watch = Watch::new();
    let mut real = Real::new(17, 0.2, 0.0);
    watch.run(0..320, &mut |at, member, kind| match member {
        "m1" if at >= 300.0 => real.answer(kind, 40.0),
        _ => real.answer(kind, 1.0),
    });
    let opened = watch.opened().len();
    assert!(opened >= 1, "{:?}", watch.found);
    // It is gone: its probes are refused, which is no latency.
    watch.run(320..600, &mut |_, member, kind| match member {
        "m1" => (1.0, ProbeOutcome::Refused),
        _ => real.answer(kind, 1.0),
    });
    let closed: Vec<_> = watch.found.iter().filter(|(_, regression)| !regression.open).collect();
    assert_eq!(closed.len(), opened, "{:?}", watch.found);
    let without: Vec<_> = closed.iter().filter(|(_, one)| one.ended.as_deref() == Some("no data")).collect();
    assert!(!without.is_empty() && watch.detect.silenced() >= without.len() as u64, "{closed:?}");
    assert!(
        without.iter().all(|(at, one)| (495.0..515.0).contains(at) && one.shape == Shape::Step),
        "{closed:?}"
    );
}

#[test]
fn silence_of_all_closes_what_is_watched_over_all_members() {
    let mut watch = Watch::new();
    let mut real = Real::new(18, 0.2, 0.0);
    watch.run(0..320, &mut |at, _, kind| real.answer(kind, if at < 300.0 { 1.0 } else { 40.0 }));
    let opened = watch.opened().len();
    for now in 320..520 {
        watch.feed(&tick(f64::from(now)));
    }
    let closed = watch.found.iter().filter(|(_, one)| one.ended.is_some()).count();
    assert!(opened > 0 && closed == opened, "{:?}", watch.found);
    for now in 520..1_000 {
        watch.feed(&tick(f64::from(now)));
    }
    assert_eq!(watch.found.len(), opened + closed, "said once");
}
