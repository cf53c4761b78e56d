//! Stories of burning and of keeping quiet.

use model::finding::{Burn, Conclusion, Finding, Lane};
use model::mark::MarkKind;
use model::probe::{ProbeKind, ProbeOutcome};
use model::record::{Fact, Record};

use super::{Config, Counts, Name, Objective, Slo};
use crate::Engine;
use crate::excuse::Excuses;
use crate::story::{Noise, Page, drive, mark, probe, put_back, second, tick};

/// The two processors, fed together, and every burn with the second it came in.
struct Watch {
    slo: Slo,
    excuses: Excuses,
    burns: Vec<(u64, Burn)>,
    /// (second, objectives that are missed by far), each time that changes.
    missed: Vec<(u64, Vec<&'static str>)>,
}

impl Watch {
    fn new(config: &Config) -> Watch {
        Watch { slo: Slo::new(config), excuses: Excuses::default(), burns: Vec::new(), missed: Vec::new() }
    }

    /// The demo's configuration: the write limit at 32 ms.
    fn demo() -> Watch {
        let write = Objective { target_ppm: 990_000, limit_ms: 32 };
        Watch::new(&Config { write, ..Config::default() })
    }

    fn feed(&mut self, record: &Record) {
        self.excuses.observe(record);
        for conclusion in self.slo.observe(record, &self.excuses) {
            if let Conclusion::Burn(burn) = conclusion {
                self.burns.push((record.at.mono_ns / 1_000_000_000, burn));
            }
        }
        let missed: Vec<_> = self.slo.missed().map(|missed| missed.slo).collect();
        if missed != *self.missed.last().map_or(&Vec::new(), |(_, missed)| missed) {
            self.missed.push((record.at.mono_ns / 1_000_000_000, missed));
        }
    }

    fn run(
        &mut self,
        seconds: std::ops::Range<u32>,
        answer: &mut dyn FnMut(f64, &str, ProbeKind) -> (f64, ProbeOutcome),
    ) {
        drive(seconds, answer, &mut |record| self.feed(record));
    }

    fn first(&self, lane: fn(&Lane) -> bool, slo: &str, firing: bool) -> Option<&(u64, Burn)> {
        self.burns.iter().find(|(_, burn)| lane(&burn.lane) && burn.slo == slo && burn.firing == firing)
    }

    fn votes(&self) -> usize {
        self.burns.iter().filter(|(_, burn)| burn.votes).count()
    }
}

fn is_change(lane: &Lane) -> bool {
    matches!(lane, Lane::Change { .. })
}

fn is_fast_page(lane: &Lane) -> bool {
    matches!(lane, Lane::Tier { name, .. } if name == "page_fast")
}

/// What a healthy cluster answers: reads 4 ms, writes 10 ms, lognormal.
fn healthy(noise: &mut Noise, kind: ProbeKind) -> (f64, ProbeOutcome) {
    let median = if matches!(kind, ProbeKind::LeaseGrant | ProbeKind::LeaseRevoke) { 5.0 } else { 4.0 };
    (noise.around(median, 0.4), ProbeOutcome::Ok)
}

/// The demo's incident: LeaseGrant + LeaseRevoke 153 ms, linearizable read 112 ms.
fn incident(noise: &mut Noise, kind: ProbeKind) -> (f64, ProbeOutcome) {
    let median = if matches!(kind, ProbeKind::LeaseGrant | ProbeKind::LeaseRevoke) { 77.0 } else { 112.0 };
    (noise.around(median, 0.4), ProbeOutcome::Ok)
}

fn check_delay(target_ppm: u32, bad_of_10000: u64, detect_s: f64, reset_s: f64) {
    let availability = Objective { target_ppm, limit_ms: 1000 };
    let mut watch = Watch::new(&Config { availability, ..Config::default() });
    let onset = 7200_u64;
    let mut fired = None;
    let mut reset = None;
    for now in 3600..20_000_u64 {
        let burning = now >= onset && fired.is_none();
        let bad = if burning { bad_of_10000 } else { 0 };
        watch.slo.series[0].add(now, "m1", Counts { bad, total: 10_000 });
        #[expect(clippy::cast_precision_loss, reason = "small")]
        watch.feed(&tick(now as f64 + 0.5));
        let first = |firing| watch.first(is_fast_page, "availability", firing).map(|(at, _)| *at);
        // Counts of the second `now` are complete at its end.
        fired = fired.or(first(true).map(|at| at + 1 - onset));
        reset = first(false).map(|at| at + 1 - onset - fired.unwrap());
        if reset.is_some() {
            break;
        }
    }
    #[expect(clippy::cast_precision_loss, reason = "small")]
    let (fired, reset) = (fired.unwrap() as f64, reset.unwrap() as f64);
    assert!(
        (detect_s..detect_s * 1.004 + 1.0).contains(&fired),
        "{bad_of_10000}: fired after {fired}, not {detect_s}"
    );
    assert!((reset - reset_s).abs() <= 1.0, "{bad_of_10000}: reset after {reset}, not {reset_s}");
}

#[test]
fn the_fast_page_comes_and_goes_when_the_arithmetic_says() {
    check_delay(999_000, 10_000, 51.8, 295.7);
    check_delay(999_000, 5_000, 103.7, 291.4);
    check_delay(999_000, 1_000, 518.4, 256.8);
    check_delay(999_000, 200, 2592.0, 84.0);
    check_delay(999_900, 10_000, 5.2, 299.6);
    check_delay(990_000, 10_000, 518.4, 256.8);
}

fn check_incident(quiet_s: u32, marked: bool, within_s: Option<u64>) {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(7);
    watch.run(0..quiet_s, &mut |_, _, kind| healthy(&mut noise, kind));
    if marked {
        watch.feed(&mark(f64::from(quiet_s), "shop", "v2", MarkKind::Rollout));
    }
    let onset = quiet_s + 2;
    watch.run(quiet_s..quiet_s + 60, &mut |at, _, kind| {
        if at < f64::from(onset) { healthy(&mut noise, kind) } else { incident(&mut noise, kind) }
    });
    let fired = watch.first(is_change, "write", true);
    assert_eq!(fired.is_some(), within_s.is_some(), "{quiet_s} {marked}: {:?}", watch.burns);
    if let (Some((at, burn)), Some(within_s)) = (fired, within_s) {
        assert!(at - u64::from(onset) <= within_s, "fired after {} s", at - u64::from(onset));
        assert!(burn.votes && burn.firing && burn.bad >= 5 && burn.burn_long > 14.4 && burn.p_value <= 1e-4);
        assert_eq!(burn.members.len(), 3);
        assert_eq!(burn.lane, Lane::Change { target: "shop".to_owned(), revision: "v2".to_owned() });
    }
}

#[test]
fn the_demo_incident_fires_the_change_lane_in_seconds() {
    check_incident(60, true, Some(12));
    check_incident(3600, true, Some(12));
}

#[test]
fn without_a_marker_there_is_no_change_lane() {
    check_incident(60, false, None);
    check_incident(3600, false, None);
}

#[test]
fn a_quiet_hour_after_a_rollout_fires_nothing() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(3);
    watch.feed(&mark(1.0, "shop", "v1b", MarkKind::Rollout));
    watch.run(2..3600, &mut |_, _, kind| healthy(&mut noise, kind));
    assert_eq!(watch.burns, Vec::new());
}

#[test]
fn a_put_back_arms_nothing_and_lets_it_pass_again() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(11);
    watch.run(0..60, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.feed(&mark(60.0, "shop", "v2", MarkKind::Rollout));
    watch.run(60..90, &mut |_, _, kind| incident(&mut noise, kind));
    watch.feed(&put_back(90.0, "shop", "v1b", "v2"));
    watch.run(90..150, &mut |at, _, kind| {
        if at < 92.0 { incident(&mut noise, kind) } else { healthy(&mut noise, kind) }
    });
    let (stopped, burn) = watch.first(is_change, "write", false).unwrap();
    assert!((107..=125).contains(stopped), "{stopped}");
    assert!(!burn.votes && burn.excused.is_none());
    let [.., (over, missed)] = watch.missed.as_slice() else { panic!("missed by far meanwhile") };
    assert!((107..=125).contains(over) && missed.is_empty(), "{:?}", watch.missed);
    // The tiers page by their own arithmetic; the change lane tells each transition once.
    let changes = watch.burns.iter().filter(|(_, burn)| is_change(&burn.lane) && burn.slo == "write").count();
    assert_eq!(changes, 2);
    // The put-back itself goes bad: nothing fires for it.
    watch.run(150..200, &mut |_, _, kind| incident(&mut noise, kind));
    let changes = watch.burns.iter().filter(|(_, burn)| is_change(&burn.lane) && burn.slo == "write").count();
    assert_eq!(changes, 2);
}

/// `m2` is away from 100 s on for `away_s`; a rollout was marked just before.
fn restart(away_s: f64, planned: bool) -> Watch {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(5);
    watch.run(0..95, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.feed(&mark(95.0, "shop", "v1b", MarkKind::Rollout));
    if planned {
        watch.feed(&mark(98.0, "m2", "", MarkKind::Planned));
    }
    watch.run(95..200, &mut |at, member, kind| {
        let away = member == "m2" && at >= 100.0 && at < 100.0 + away_s;
        // Who leads is elected anew: the others' writes and reads take a second.
        let elected = (100.0..101.5).contains(&at)
            && matches!(kind, ProbeKind::LeaseGrant | ProbeKind::LinearizableRead);
        match (away, elected) {
            (true, _) => (1.0, ProbeOutcome::Refused),
            (false, true) => (1000.0, ProbeOutcome::Ok),
            (false, false) => healthy(&mut noise, kind),
        }
    });
    watch
}

#[test]
fn a_planned_restart_costs_budget_and_does_not_vote() {
    let watch = restart(12.0, true);
    assert_eq!(watch.votes(), 0, "{:?}", watch.burns);
    assert_eq!(watch.missed, [], "what is excused is not missed");
    let bad: u64 = watch.slo.board().iter().filter(|slo| slo.name == "availability").map(|slo| slo.bad).sum();
    assert!(bad >= 10, "{bad} bad events cost budget");
    let (_, burn) = watch.first(is_change, "availability", true).unwrap();
    assert!(burn.excused.as_deref().unwrap().contains("planned restart of m2"), "{burn:?}");
}

#[test]
fn a_restart_whose_start_was_seen_does_not_vote() {
    assert_eq!(restart(12.0, false).votes(), 0);
    assert_eq!(restart(25.0, false).votes(), 0);
}

#[test]
fn a_member_that_does_not_come_back_in_time_votes() {
    for planned in [false, true] {
        let watch = restart(90.0, planned);
        let voted = watch.burns.iter().find(|(_, burn)| burn.votes).unwrap();
        assert!((130..=135).contains(&voted.0), "{voted:?}");
        let (missed_at, _) = &watch.missed[0];
        assert!((130..=135).contains(missed_at), "{:?}", watch.missed);
    }
}

#[test]
fn an_incident_is_not_hidden_by_a_restart_of_one_member() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(9);
    watch.run(0..60, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.feed(&mark(60.0, "shop", "v2", MarkKind::Rollout));
    watch.feed(&mark(60.0, "m2", "", MarkKind::Planned));
    watch.run(60..90, &mut |at, member, kind| match member {
        "m2" if at < 70.0 => (1.0, ProbeOutcome::Refused),
        _ => incident(&mut noise, kind),
    });
    let (at, burn) = watch.burns.iter().find(|(_, burn)| burn.votes).unwrap();
    assert!(*at < 80, "{at} {burn:?}");
}

#[test]
fn a_restart_in_the_middle_changes_nothing() {
    let story = |cut: Option<u32>| {
        let mut watch = Watch::demo();
        let mut noise = Noise::new(13);
        for now in 0..200 {
            if Some(now) == cut {
                let slo = serde_json::to_string(&watch.slo).unwrap();
                let excuses = serde_json::to_string(&watch.excuses).unwrap();
                watch.slo = serde_json::from_str(&slo).unwrap();
                watch.excuses = serde_json::from_str(&excuses).unwrap();
            }
            if now == 60 {
                watch.feed(&mark(60.0, "shop", "v2", MarkKind::Rollout));
            }
            if now == 110 {
                watch.feed(&put_back(110.0, "shop", "v1b", "v2"));
            }
            watch.run(now..now + 1, &mut |at, _, kind| {
                if (70.0..112.0).contains(&at) {
                    incident(&mut noise, kind)
                } else {
                    healthy(&mut noise, kind)
                }
            });
        }
        (watch.burns, watch.slo.board())
    };
    let whole = story(None);
    assert!(whole.0.len() >= 2);
    for cut in [30, 74, 90, 115] {
        assert_eq!(story(Some(cut)), whole, "cut at {cut}");
    }
}

#[test]
fn an_agent_that_was_away_leaves_a_gap_and_no_zeros() {
    let mut watch = Watch::new(&Config::default());
    let mut noise = Noise::new(17);
    watch.run(0..600, &mut |_, _, kind| healthy(&mut noise, kind));
    let before = watch.slo.board();
    watch.feed(&tick(2400.0));
    let after = watch.slo.board();
    assert_eq!(before[0].state, "ok");
    assert_eq!(after[0].state, "no_data");
    assert_eq!((after[0].total, after[0].burn_5m), (before[0].total, None));
    watch.run(2400..2430, &mut |_, _, kind| healthy(&mut noise, kind));
    assert_eq!(watch.slo.board()[0].state, "ok");
    assert_eq!(watch.burns, Vec::new());
}

#[test]
fn what_is_not_permitted_is_no_data() {
    let mut watch = Watch::new(&Config::default());
    for now in 0..100_u32 {
        let at = f64::from(now);
        watch.feed(&probe(at, "m1", ProbeKind::LeaseGrant, (1.0, ProbeOutcome::NotPermitted)));
        let denied = ProbeOutcome::Grpc("PermissionDenied".to_owned());
        watch.feed(&probe(at, "m1", ProbeKind::LinearizableRead, (1.0, denied)));
        watch.feed(&tick(at + 0.9));
    }
    let board = watch.slo.board();
    assert_eq!(
        board.iter().map(|slo| slo.name.as_str()).collect::<Vec<_>>(),
        ["availability", "linearizable_read", "wal_fsync"]
    );
    assert!(board.iter().all(|slo| slo.state == "no_data" && slo.total == 0 && slo.burn_1h.is_none()));
}

/// A scrape with `slow` of `all` fsyncs above 16 ms so far.
fn fsyncs(at: f64, all: f64, slow: f64, restarted: bool) -> Record {
    let buckets = vec![(0.008, all - slow), (0.016, all - slow), (0.032, all), (f64::INFINITY, all)];
    let histograms = vec![("etcd_disk_wal_fsync_duration_seconds", buckets)];
    Page { histograms, restarted, ..Page::default() }.scrape(at, "m1")
}

#[test]
fn fsyncs_are_judged_until_a_write_probe_is_seen() {
    let mut watch = Watch::new(&Config::default());
    for now in 0..1200_u32 {
        let n = f64::from(now);
        watch.feed(&fsyncs(n, 1000.0 + n * 20.0, 500.0 + n * 10.0, false));
        watch.feed(&tick(n + 0.9));
    }
    let (at, burn) = watch.first(is_fast_page, "wal_fsync", true).unwrap();
    // Young: half are bad, but the tier's share must be spent first: 14.4 x 1 % of an hour / 50 %, to a minute.
    assert!((1000..=1060).contains(at), "{at}");
    assert!(burn.server_side && burn.votes);
    assert_eq!(watch.slo.board()[2].total, 20 * 1199, "the first page's counts are history of another time");
    watch.feed(&probe(1200.0, "m1", ProbeKind::LeaseGrant, (5.0, ProbeOutcome::Ok)));
    watch.feed(&tick(1201.0));
    let board = watch.slo.board();
    assert_eq!(board[2].name, "write");
    assert!(watch.first(is_fast_page, "wal_fsync", false).is_some());
}

#[test]
fn counter_resets_lose_nothing_and_invent_nothing() {
    let mut watch = Watch::new(&Config::default());
    let pages = [
        (100.0, 10.0, false),
        (150.0, 12.0, false),
        (30.0, 3.0, true),
        (40.0, 3.0, false),
        (5.0, 5.0, false),
        (5.0, 5.0, false),
    ];
    for ((all, slow, restarted), now) in pages.into_iter().zip(0_u32..) {
        watch.feed(&fsyncs(f64::from(now), all, slow, restarted));
        watch.feed(&tick(f64::from(now) + 0.5));
    }
    let row = &watch.slo.board()[2];
    assert_eq!((row.total, row.bad), (50 + 30 + 10 + 5, 2 + 3 + 5));
    // Nothing was written for five minutes: not "ok", and not the same as silence.
    for now in 6..400_u32 {
        watch.feed(&fsyncs(f64::from(now), 5.0, 5.0, false));
        watch.feed(&tick(f64::from(now) + 0.5));
    }
    assert_eq!(watch.slo.board()[2].state, "no_traffic");
    assert_eq!(watch.slo.board()[2].burn_5m, None);
}

#[test]
fn buckets_above_their_count_are_skipped_and_counted() {
    let mut watch = Watch::new(&Config::default());
    watch.feed(&fsyncs(0.0, 100.0, 0.0, false));
    watch.feed(&fsyncs(1.0, 100.0, -7.0, false));
    watch.feed(&tick(1.5));
    assert_eq!(watch.slo.fsync.contradictions, 1);
    assert_eq!(watch.slo.board()[2].total, 0);
}

#[test]
fn one_error_an_hour_at_low_traffic_pages_nobody() {
    let mut watch = Watch::new(&Config::default());
    let mut noise = Noise::new(23);
    // A probe a minute, for 30 days, at half of the budget of 99.9 %.
    for minute in 0..43_200_u64 {
        let bad = u64::from(noise.uniform() < 0.0005);
        watch.slo.series[0].add(minute * 60, "m1", Counts { bad, total: 1 });
        #[expect(clippy::cast_precision_loss, reason = "small")]
        watch.feed(&tick(minute as f64 * 60.0 + 1.0));
    }
    assert_eq!(watch.burns, Vec::new());
}

#[test]
fn impossible_objectives_are_named() {
    let mut config = Config::default();
    assert_eq!(config.problems(), Vec::new());
    config.wal_fsync.limit_ms = 10;
    config.write.target_ppm = 900_000;
    config.availability.target_ppm = 1_000_000;
    let keys: Vec<&str> = config.problems().into_iter().map(|(key, _)| key).collect();
    assert_eq!(keys, ["availability", "write", "wal_fsync"]);
    let round: Config = serde_json::from_str("{}").unwrap();
    assert_eq!(round, Config::default());
}

#[test]
fn another_limit_begins_anew_and_another_target_does_not() {
    let mut watch = Watch::new(&Config::default());
    watch.slo.series[1].add(1, "m1", Counts { bad: 1, total: 2 });
    let mut config = Config::default();
    config.linearizable_read.target_ppm = 999_000;
    assert_eq!(watch.slo.configure(&config), []);
    assert_eq!(watch.slo.series[1].history.sum(0, 10).total, 2);
    config.linearizable_read.limit_ms = 64;
    assert_eq!(watch.slo.configure(&config), []);
    assert_eq!(
        (watch.slo.series[1].name, watch.slo.series[1].history.sum(0, 10).total),
        (Name::LinearizableRead, 0)
    );
}

/// Lanes of the write objective that an engine fed with these records says fire, or no longer do.
fn told(engine: &mut Engine, records: &[Record]) -> Vec<(Lane, bool)> {
    let findings = records.iter().flat_map(|record| engine.apply(record).findings);
    let of = |finding: Finding| match finding.conclusion {
        Conclusion::Burn(burn) if burn.slo == "write" => Some((burn.lane, burn.firing)),
        _ => None,
    };
    findings.filter_map(of).collect()
}

#[test]
fn a_reload_that_changes_a_limit_ends_what_fires_by_the_old_one() {
    let mut config = crate::Config::default();
    config.slo.write.limit_ms = 32;
    let mut engine = Engine::new(config.clone());
    let mut noise = Noise::new(29);
    let mut records = Vec::new();
    for now in 0..1100 {
        if now == 400 {
            records.push(mark(400.0, "shop", "v2", MarkKind::Rollout));
        }
        records.extend(second(now, &mut |_, _, kind| match now {
            0..400 => healthy(&mut noise, kind),
            _ => incident(&mut noise, kind),
        }));
    }
    let fired = told(&mut engine, &records);
    assert!(fired.iter().all(|(_, firing)| *firing) && fired.iter().any(|(lane, _)| is_change(lane)));
    assert!(fired.iter().any(|(lane, _)| is_fast_page(lane)), "{fired:?}");
    config.slo.write.limit_ms = 256;
    let fact = Fact::Config(serde_json::to_string(&config).unwrap());
    let ended = told(&mut engine, &[Record { fact, ..tick(1100.0) }]);
    assert_eq!(ended.len(), fired.len(), "{ended:?}");
    for (lane, firing) in &ended {
        assert!(!firing && fired.contains(&(lane.clone(), true)), "{lane:?}");
    }
    let write = |slo: &model::board::BoardSlo| slo.name == "write" && slo.firing.is_empty() && slo.total > 0;
    let mut calm = Vec::new();
    for now in 1101..1160 {
        calm.extend(second(now, &mut |_, _, kind| healthy(&mut noise, kind)));
    }
    assert_eq!(told(&mut engine, &calm), []);
    assert!(engine.board(tick(1160.0).at).slos.iter().any(write));
}

/// Transitions of the write objective's change lane: (second, target, revision, firing).
fn changes(watch: &Watch) -> Vec<(u64, String, bool)> {
    let of = |(at, burn): &(u64, Burn)| match &burn.lane {
        Lane::Change { target, revision } if burn.slo == "write" => {
            Some((*at, format!("{target} {revision}"), burn.firing))
        }
        _ => None,
    };
    watch.burns.iter().filter_map(of).collect()
}

#[test]
fn two_rollouts_that_fit_are_both_heard() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(19);
    watch.run(0..60, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.feed(&mark(60.0, "shop", "v2", MarkKind::Rollout));
    watch.feed(&mark(61.0, "cart", "v9", MarkKind::Rollout));
    watch.run(61..90, &mut |_, _, kind| incident(&mut noise, kind));
    let found: Vec<String> = changes(&watch).into_iter().map(|(_, change, _)| change).collect();
    assert_eq!(found, ["shop v2", "cart v9"]);
}

#[test]
fn a_rollout_long_before_is_no_explanation() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(21);
    watch.feed(&mark(1.0, "shop", "v2", MarkKind::Rollout));
    watch.run(2..1810, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.run(1810..1900, &mut |_, _, kind| incident(&mut noise, kind));
    assert_eq!(changes(&watch), Vec::new());
}

#[test]
fn what_was_bad_before_the_rollout_is_not_its_fault() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(22);
    watch.run(0..600, &mut |_, _, kind| incident(&mut noise, kind));
    watch.feed(&mark(600.0, "shop", "v2", MarkKind::Rollout));
    watch.run(600..700, &mut |_, _, kind| incident(&mut noise, kind));
    assert_eq!(changes(&watch), Vec::new());
}

#[test]
fn what_is_missed_by_far_is_so_within_seconds_and_until_it_was_calm_for_a_minute() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(23);
    watch.run(0..600, &mut |_, _, kind| healthy(&mut noise, kind));
    assert_eq!(watch.missed, []);
    // One write in four is late: nothing of that may look like an end.
    let mut count = 0;
    watch.run(600..900, &mut |_, _, kind| {
        count += usize::from(kind == ProbeKind::LeaseGrant);
        if kind == ProbeKind::LeaseGrant && count.is_multiple_of(4) {
            (100.0, ProbeOutcome::Ok)
        } else {
            healthy(&mut noise, kind)
        }
    });
    let [(began, missed)] = watch.missed.as_slice() else { panic!("{:?}", watch.missed) };
    assert!((615..660).contains(began) && missed == &["write"], "{:?}", watch.missed);
    watch.run(900..1_000, &mut |_, _, kind| healthy(&mut noise, kind));
    let [_, (over, missed)] = watch.missed.as_slice() else { panic!("{:?}", watch.missed) };
    assert!((955..=980).contains(over) && missed.is_empty(), "{:?}", watch.missed);
}

/// Availability of one member that is asked each `every_s`, as seldom as a page may be scraped: half is bad up to 4,200 s, and
/// all is well after that, or nothing is asked any more.
fn asked_seldom(every_s: u64, goes_on: bool) -> Watch {
    let mut watch = Watch::demo();
    for now in 3_600..5_000_u64 {
        let bad = if now < 4_200 { 10 } else { 0 };
        if now.is_multiple_of(every_s) && (bad > 0 || goes_on) {
            watch.slo.series[0].add(now, "m1", Counts { bad, total: 20 });
        }
        #[expect(clippy::cast_precision_loss, reason = "small")]
        watch.feed(&tick(now as f64 + 0.5));
    }
    watch
}

#[test]
fn what_is_asked_seldom_is_missed_between_the_answers_and_not_for_ever() {
    for (every_s, goes_on) in [(20, true), (60, true), (20, false)] {
        let watch = asked_seldom(every_s, goes_on);
        let [(_, began), (over, ended)] = watch.missed.as_slice() else { panic!("{:?}", watch.missed) };
        assert!(began == &["availability"] && ended.is_empty(), "{:?}", watch.missed);
        let until = if goes_on { 4_400 } else { 4_600 };
        assert!((4_200..until).contains(over), "each {every_s} s: {:?}", watch.missed);
    }
}

#[test]
fn without_a_put_back_the_lane_stops_when_it_has_been_calm_for_longer() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(24);
    watch.run(0..60, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.feed(&mark(60.0, "shop", "v2", MarkKind::Rollout));
    watch.run(60..80, &mut |_, _, kind| incident(&mut noise, kind));
    watch.run(80..240, &mut |_, _, kind| healthy(&mut noise, kind));
    let found = changes(&watch);
    assert_eq!(found.len(), 2, "{found:?}");
    assert!((80 + 60..80 + 110).contains(&found[1].0), "{found:?}");
}

#[test]
fn the_next_rollout_of_a_target_ends_the_window_of_the_last() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(25);
    watch.run(0..60, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.feed(&mark(60.0, "shop", "v2", MarkKind::Rollout));
    watch.feed(&mark(61.0, "shop", "v2", MarkKind::Rollout));
    watch.run(61..80, &mut |_, _, kind| incident(&mut noise, kind));
    watch.feed(&mark(80.0, "shop", "v3", MarkKind::Rollout));
    watch.run(80..140, &mut |_, _, kind| healthy(&mut noise, kind));
    let found: Vec<(String, bool)> =
        changes(&watch).into_iter().map(|(_, change, firing)| (change, firing)).collect();
    assert_eq!(found, [("shop v2".to_owned(), true), ("shop v2".to_owned(), false)]);
}

#[test]
fn silence_after_a_put_back_is_no_recovery() {
    let mut watch = Watch::demo();
    let mut noise = Noise::new(26);
    watch.run(0..60, &mut |_, _, kind| healthy(&mut noise, kind));
    watch.feed(&mark(60.0, "shop", "v2", MarkKind::Rollout));
    watch.run(60..90, &mut |_, _, kind| incident(&mut noise, kind));
    watch.feed(&put_back(90.0, "shop", "v1", "v2"));
    for now in 90..200_u32 {
        watch.feed(&tick(f64::from(now)));
    }
    assert_eq!(changes(&watch).len(), 1, "{:?}", changes(&watch));
}

#[test]
fn more_errors_never_burn_less() {
    let burn = |bad: u64| {
        let mut watch = Watch::new(&Config::default());
        for now in 0..600 {
            watch.slo.series[0].add(now, "m1", Counts { bad: bad.min(100), total: 100 });
        }
        watch.feed(&tick(599.5));
        watch.slo.board()[0].burn_5m.unwrap()
    };
    let burns: Vec<f64> = (0..=100).map(burn).collect();
    assert!(burns.is_sorted() && burns[0] == 0.0 && (burns[100] - 1000.0).abs() < 1e-6);
}
