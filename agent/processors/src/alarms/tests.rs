//! Stories of alarms: said once, ended by an answer, kept over a silence.

use std::sync::Arc;

use model::finding::{Alarm, Trouble};
use model::member::{HashKv, ListedMember, MemberFact, MemberState};
use model::record::{Fact, Record};

use super::Alarms;
use crate::story::{Page, record, tick};

const MIB: u64 = 1 << 20;

#[derive(Default)]
struct Story {
    alarms: Alarms,
    now: u32,
    said: Vec<Alarm>,
}

fn member(id: u64) -> MemberState {
    MemberState { id, cluster_id: 7, version: "3.5.33".to_owned(), ..MemberState::default() }
}

fn hashed(id: u64, revision: u64, compact_revision: u64, hash: u32) -> MemberState {
    MemberState { hash: Some(HashKv { revision, compact_revision, hash }), ..member(id) }
}

fn version(id: u64, version: &str) -> MemberState {
    MemberState { version: version.to_owned(), ..member(id) }
}

fn alarmed(id: u64, alarms: &[(&str, u64)]) -> MemberState {
    let alarms = alarms.iter().map(|(alarm, of)| ((*alarm).to_owned(), *of)).collect();
    MemberState { alarms, db_size_bytes: 17 * MIB, ..member(id) }
}

impl Story {
    fn see(&mut self, record: &Record) {
        let said = self.alarms.observe(record);
        self.said.extend(said.into_iter().map(|said| said.alarm));
    }

    /// The account of `m1`, `m2`, ... by the id it has.
    fn answers(&mut self, state: MemberState) {
        let name = format!("m{}", state.id);
        let fact = Fact::Member(MemberFact::Answered(Box::new(state)));
        self.see(&record(f64::from(self.now), &name, fact));
    }

    fn is_silent(&mut self, name: &str) {
        let silent = MemberFact::Silent { reason: "refused".to_owned(), detail: String::new() };
        self.see(&record(f64::from(self.now), name, Fact::Member(silent)));
    }

    fn ticks(&mut self, seconds: u32) {
        for _ in 0..seconds {
            self.now += 1;
            self.see(&tick(f64::from(self.now)));
        }
    }

    /// What was said since the last look: (raised, holds, sentence or why it ended).
    fn told(&mut self) -> Vec<(bool, bool, String)> {
        let told = |alarm: Alarm| (alarm.raised, alarm.holds, alarm.ended.unwrap_or(alarm.sentence));
        self.said.drain(..).map(told).collect()
    }
}

/// What the accounts of members say, taken together.
fn check(accounts: &[MemberState], expected: &[&str]) {
    let mut story = Story::default();
    accounts.iter().for_each(|state| story.answers(state.clone()));
    assert_eq!(story.alarms.warnings(), expected);
}

#[test]
fn hashes_are_compared_only_where_equal_data_give_equal_ones() {
    check(&[], &[]);
    check(&[hashed(1, 5, 2, 7), hashed(2, 5, 2, 7), member(3)], &[]);
    let differ = "hashes of m1 and m2 and m3 differ at revision 5: the data differ";
    let told = format!("{differ} (m1 00000007, m2 000000ff, m3 00000007)");
    check(&[hashed(1, 5, 2, 7), hashed(2, 5, 2, 255), hashed(3, 5, 2, 7)], &[&told]);
    check(&[hashed(1, 5, 2, 7), hashed(2, 6, 2, 8)], &[]);
    check(&[hashed(1, 5, 2, 7), hashed(2, 5, 3, 8)], &[]);
    let elsewhere = MemberState { cluster_id: 8, ..hashed(2, 5, 2, 8) };
    check(&[hashed(1, 5, 2, 7), elsewhere], &[]);
}

#[test]
fn members_in_an_upgrade_are_told_and_their_hashes_not_compared() {
    let newer = MemberState { version: "3.6.4".to_owned(), ..hashed(2, 5, 2, 8) };
    check(&[hashed(1, 5, 2, 7), newer], &["members run different versions: m1 3.5.33, m2 3.6.4"]);
    check(&[member(1), version(2, "")], &[]);
}

#[test]
fn an_alarm_that_all_members_tell_is_said_once_and_by_name() {
    let alarms = [("NOSPACE", 2), ("CORRUPT", 9), ("NEW", 0xab)];
    let listed = ListedMember { id: 9, name: "away".to_owned(), ..ListedMember::default() };
    let with = |id| MemberState { members: vec![listed.clone()], ..alarmed(id, &alarms) };
    check(
        &[with(2), with(1)],
        &[
            "alarm CORRUPT of away: its data are not those of the others",
            "alarm NEW of ab",
            "alarm NOSPACE of m2: the quota is used up, and the cluster refuses writes until the alarm is disarmed",
        ],
    );
    let mut story = Story::default();
    for _ in 0..3 {
        story.answers(with(1));
        story.answers(with(2));
    }
    assert_eq!(story.told().len(), 3);
}

#[test]
fn an_alarm_names_its_figures_and_ends_when_it_is_disarmed() {
    let mut story = Story::default();
    let quota = Page {
        values: vec![("etcd_server_quota_backend_bytes", Vec::new(), 16_777_216.0)],
        ..Page::default()
    };
    story.see(&quota.scrape(0.1, "m1"));
    story.answers(alarmed(1, &[("NOSPACE", 1)]));
    let raised = story.said.clone();
    assert_eq!(raised.len(), 1);
    assert!(raised[0].raised && raised[0].holds && raised[0].ended.is_none(), "{raised:?}");
    assert_eq!(
        raised[0].trouble,
        Trouble::NoSpace { db_size_bytes: Some(17 * MIB), quota_bytes: Some(16 * MIB) }
    );
    assert_eq!(raised[0].members, ["m1"]);
    let figures = super::figures(&raised[0].trouble).unwrap();
    assert_eq!(figures, "its database has 17.0 MiB, its quota is 16.0 MiB");
    story.ticks(60);
    story.answers(alarmed(1, &[]));
    let ended = story.said.last().unwrap();
    assert_eq!(
        (ended.key.as_str(), ended.raised, ended.ended.as_deref()),
        (raised[0].key.as_str(), false, Some("disarmed"))
    );
    assert_eq!((ended.since, story.said.len()), (raised[0].since, 2));
    assert_eq!(story.alarms.warnings(), Vec::<String>::new());
}

#[test]
fn an_alarm_stands_while_nobody_answers_and_ends_without_data_at_last() {
    let mut story = Story::default();
    story.answers(alarmed(1, &[("CORRUPT", 2)]));
    story.is_silent("m1");
    story.ticks(290);
    assert_eq!(story.told().len(), 1, "silence disarms nothing");
    story.ticks(20);
    assert_eq!(story.told(), [(false, true, "no data".to_owned())]);
    // An agent that was away has seen nobody be silent.
    story.answers(alarmed(1, &[("CORRUPT", 2)]));
    story.now += 3_600;
    story.ticks(5);
    assert_eq!(story.told().len(), 1);
}

#[test]
fn a_member_that_is_asked_rarely_is_not_silent() {
    let mut story = Story::default();
    story.answers(member(1));
    story.ticks(250);
    for _ in 0..3 {
        story.answers(alarmed(1, &[("NOSPACE", 1)]));
        story.ticks(700);
    }
    assert_eq!(story.told().len(), 1);
}

#[test]
fn data_that_differ_are_the_same_again_only_when_compared_anew() {
    let mut story = Story::default();
    story.answers(hashed(1, 5, 2, 1));
    story.answers(hashed(2, 5, 2, 2));
    story.answers(hashed(3, 5, 2, 2));
    let raised = story.told();
    assert!(raised.iter().all(|(raised, holds, _)| *raised && *holds) && raised.len() == 1, "{raised:?}");
    // Accounts without a hash, a silence, and one member hashed at the next revision: nothing is known anew.
    story.answers(member(1));
    story.is_silent("m2");
    story.answers(hashed(1, 9, 2, 3));
    assert_eq!(story.told(), []);
    story.answers(hashed(2, 9, 2, 3));
    assert_eq!(story.told(), [], "m3 is still to be compared");
    story.answers(hashed(3, 9, 2, 3));
    assert_eq!(story.told(), [(false, true, "hashes agree".to_owned())]);
}

#[test]
fn one_minor_release_apart_is_told_and_two_hold() {
    let mut story = Story::default();
    story.answers(version(1, "3.5.33"));
    story.answers(version(2, "3.6.4"));
    let told = story.told();
    assert_eq!(told.len(), 1);
    assert!(told[0].0 && !told[0].1, "an upgrade under way holds nothing: {told:?}");
    // The member that is upgraded next restarts: nobody forgets what it runs.
    story.is_silent("m2");
    story.answers(version(1, "3.5.33"));
    assert_eq!(story.told(), []);
    story.answers(version(2, "3.7.0"));
    let told = story.told();
    assert!(told.len() == 1 && told[0].0 && told[0].1, "{told:?}");
    story.answers(version(1, "3.7.0"));
    assert_eq!(story.told(), [(false, true, "one version".to_owned())]);
}

#[test]
fn what_stands_survives_a_restart_of_the_agent_and_is_not_said_again() {
    let mut story = Story::default();
    story.answers(alarmed(1, &[("NOSPACE", 1)]));
    let state = postcard::to_stdvec(&story.alarms).unwrap();
    story.alarms = postcard::from_bytes(&state).unwrap();
    story.answers(alarmed(1, &[("NOSPACE", 1)]));
    assert_eq!(story.told().len(), 1);
    story.answers(alarmed(1, &[]));
    assert_eq!(story.told().len(), 1);
}

#[test]
fn accounts_and_alarms_are_bounded() {
    let mut story = Story::default();
    for id in 1..=100 {
        let many: Vec<(&str, u64)> = (0..10).map(|of| ("NOSPACE", id * 10 + of)).collect();
        story.answers(alarmed(id, &many));
    }
    assert_eq!(story.alarms.accounts.len(), super::MEMBERS_MAX);
    assert_eq!(story.alarms.standing.len(), super::STANDING_MAX);
    assert!(story.alarms.skipped() > 0);
    let origins: Vec<_> =
        story.alarms.standing.values().map(|standing| Arc::clone(&standing.origin)).collect();
    assert!(origins.iter().all(|origin| !origin.member_name().is_empty()));
}
