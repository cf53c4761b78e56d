//! The end of alarms whose stream nobody hears of any more: a member that is gone, a probe that is no longer sent, a clock
//! that began anew.
//!
//! Owns that no alarm stands open for ever for want of a point. Refuses to call such an end a recovery: it says `no data`.

use model::probe::ProbeKind;
use model::time::{SECOND_NS, Stamp};

use super::alarm::Alarm;
use super::event::Event;
use super::watch::ROWS;
use super::{ALL_MEMBERS, Detect, LATENCY, Stream, Told, Turned, usual};
use crate::excuse::Excuses;

/// A stream that was heard of last so long ago is not known to be slow still; the slowest shipped probe comes every 10 s.
const LONGEST_NS: u64 = 180 * SECOND_NS;

/// What such a finding says.
const NO_DATA: &str = "no data";

impl Detect {
    /// Closes every open alarm that has had no point for minutes.
    pub(super) fn silence(&mut self, at: Stamp) -> Vec<Turned> {
        self.close(|alarm| alarm.is_forgotten(at, LONGEST_NS))
    }

    /// After a reboot the stamps begin anew: baselines stay, alarms and deltas do not.
    pub(super) fn restart_clock(&mut self, at: Stamp, excuses: &Excuses) -> Vec<Told> {
        let turned = self.close(Alarm::is_open);
        let told = turned.into_iter().filter_map(|turned| self.tell(at, turned, excuses)).collect();
        for member in self.members.values_mut() {
            member.cold_until_ns = 0;
            for stream in member.probes.values_mut() {
                *stream = Stream { baseline: stream.baseline.clone(), alarm: Alarm::default() };
            }
            for (meter, stream) in member.rows.values_mut() {
                meter.reset();
                stream.alarm = Alarm::default();
            }
        }
        self.pools.clear();
        self.event = Event::default();
        self.rollout = None;
        self.newest_ns = 0;
        told
    }

    fn close(&mut self, is_over: impl Fn(&Alarm) -> bool) -> Vec<Turned> {
        let mut turned = Vec::new();
        for (name, member) in &mut self.members {
            for (kind, stream) in member.probes.iter_mut().filter(|(_, stream)| is_over(&stream.alarm)) {
                let turn = stream.alarm.end();
                turned.extend(stream.turned(Some(turn), (name.clone(), metric(*kind)), "s", LATENCY));
            }
            for row in &ROWS {
                let Some((_, stream)) = member.rows.get_mut(row.family) else { continue };
                if is_over(&stream.alarm) {
                    let turn = stream.alarm.end();
                    let key = (name.clone(), row.family.to_owned());
                    turned.extend(stream.turned(Some(turn), key, row.unit, row.scale));
                }
            }
        }
        for (kind, pool) in self.pools.iter_mut().filter(|(_, pool)| is_over(pool)) {
            let turn = pool.end();
            let key = (String::new(), format!("{}{ALL_MEMBERS}", metric(*kind)));
            turned.extend(pool.turned(Some(turn), key, "s", usual(&self.members, *kind)));
        }
        self.silenced = self.silenced.saturating_add(turned.len() as u64);
        for one in &mut turned {
            one.ended = Some(NO_DATA);
        }
        turned
    }
}

/// What a probe's latency is called.
pub(super) fn metric(kind: ProbeKind) -> String {
    format!("probe {} latency", kind.name())
}
