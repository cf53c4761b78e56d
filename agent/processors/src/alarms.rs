//! Which alarms stand: those of etcd itself, data that differ between members, versions too far apart.
//!
//! Owns when one is said (once when it is seen first, once when it is over) and since when it stands. Refuses to end an
//! alarm because nobody answers for a moment: only an answer without it ends it, or silence for minutes, and then it says so.

mod compare;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::sync::Arc;

use model::finding::{Alarm, Trouble};
use model::member::{HashKv, MemberFact, MemberState};
use model::origin::Origin;
use model::record::{Fact, Record};
use model::scrape::{PointShape, Scrape};
use model::time::Stamp;
use serde::{Deserialize, Serialize};

use compare::Found;

/// Members whose accounts are kept; etcd clusters have at most seven, a node rarely sees two clusters.
const MEMBERS_MAX: usize = 64;

/// Alarms that stand at once: a few for each member. What comes beyond is counted.
const STANDING_MAX: usize = 256;

/// An account this old says nothing any more, in ticks: five minutes at one a second. Ticks, not time, because an agent
/// that was away for an hour has not seen anybody be silent.
const TICKS_MAX: u32 = 300;

/// Where a member is asked less often than that, so many of its intervals.
const INTERVALS: u32 = 3;

/// The page has the quota in every version; Status has it since 3.6.
const QUOTA: &str = "etcd_server_quota_backend_bytes";

/// Alarms and what they rest on.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Alarms {
    accounts: BTreeMap<String, Account>,
    standing: BTreeMap<String, Standing>,
    skipped: u64,
}

/// What a member said last.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct Account {
    origin: Arc<Origin>,
    /// `None` before its first answer.
    state: Option<MemberState>,
    /// The last hash of its data (accounts between two hashes carry none), and the version that computed it.
    hash: Option<(HashKv, String)>,
    quota_bytes: Option<u64>,
    /// Its last round had no answer.
    silent: bool,
    /// Ticks since its last answer, and between the two before.
    age_ticks: u32,
    interval_ticks: u32,
    /// Generation and number of series of the last page, and where the quota stands on it.
    #[serde(skip)]
    quota_series: Option<(u64, u32, Option<u32>)>,
}

/// An alarm that stands, and where it was seen.
#[derive(Clone, Debug, Serialize, Deserialize)]
struct Standing {
    cluster_id: u64,
    alarm: Alarm,
    origin: Arc<Origin>,
}

/// An alarm that begins or ends, and whom it is about.
#[derive(Clone, Debug, PartialEq)]
pub struct Said {
    /// The first member concerned, else the member that told of it.
    pub origin: Arc<Origin>,
    /// What is said.
    pub alarm: Alarm,
}

impl Alarms {
    /// Takes a member's account; gives what begins or ends by it.
    pub fn observe(&mut self, record: &Record) -> Vec<Said> {
        let name = record.origin.member_name();
        match &record.fact {
            Fact::Tick(_) => self.tick(record.at),
            Fact::Member(fact) if self.knows(name) => {
                if let Some(account) = self.accounts.get_mut(name) {
                    account.take(&record.origin, fact);
                }
                self.judge(record.at, &record.origin)
            }
            Fact::Scrape(scrape) if self.knows(name) => {
                if let Some(account) = self.accounts.get_mut(name) {
                    account.read(scrape);
                }
                Vec::new()
            }
            _ => Vec::new(),
        }
    }

    /// A sentence for each alarm that stands, in a fixed order.
    #[must_use]
    pub fn warnings(&self) -> Vec<String> {
        self.standing.values().map(|standing| standing.alarm.sentence.clone()).collect()
    }

    /// Accounts and alarms that found no room.
    #[must_use]
    pub fn skipped(&self) -> u64 {
        self.skipped
    }

    fn knows(&mut self, name: &str) -> bool {
        if name.is_empty() || self.accounts.contains_key(name) {
            return !name.is_empty();
        }
        let room = self.accounts.len() < MEMBERS_MAX;
        if room {
            self.accounts.insert(name.to_owned(), Account::default());
        } else {
            self.skipped += 1;
        }
        room
    }

    fn tick(&mut self, at: Stamp) -> Vec<Said> {
        let mut went_stale = false;
        for account in self.accounts.values_mut() {
            let was_stale = account.is_stale();
            account.age_ticks = account.age_ticks.saturating_add(1);
            went_stale |= account.is_stale() && !was_stale;
        }
        if !went_stale {
            return Vec::new();
        }
        let said = self.judge(at, &Arc::default());
        // A member that is gone for good must not take the place of one that comes.
        self.accounts.retain(|_, account| !account.is_stale());
        said
    }

    /// Holds what the accounts say against what stands.
    fn judge(&mut self, at: Stamp, told_by: &Arc<Origin>) -> Vec<Said> {
        let accounts: Vec<compare::Account<'_>> =
            self.accounts.iter().filter_map(|(name, account)| account.view(name)).collect();
        let found = compare::of(&accounts);
        let over: Vec<(String, &'static str)> = self
            .standing
            .iter()
            .filter(|(key, _)| !found.iter().any(|one| one.key == **key))
            .filter_map(|(key, standing)| Some((key.clone(), compare::ended(standing, &accounts)?)))
            .collect();
        let mut said: Vec<Said> = over.into_iter().filter_map(|(key, ended)| self.end(&key, ended)).collect();
        said.extend(found.into_iter().filter_map(|one| self.begin(at, told_by, one)));
        said
    }

    fn end(&mut self, key: &str, ended: &str) -> Option<Said> {
        let Standing { alarm, origin, .. } = self.standing.remove(key)?;
        Some(Said { origin, alarm: Alarm { raised: false, ended: Some(ended.to_owned()), ..alarm } })
    }

    /// What stands already is brought up to date, and said again only when it begins to hold or no longer does.
    fn begin(&mut self, at: Stamp, told_by: &Arc<Origin>, found: Found) -> Option<Said> {
        let known = self.standing.get(&found.key);
        if known.is_none() && self.standing.len() >= STANDING_MAX {
            self.skipped += 1;
            return None;
        }
        let is_news = known.is_none_or(|known| known.alarm.holds != found.holds);
        let since = known.map_or(at, |known| known.alarm.since);
        let alarm = Alarm {
            key: found.key.clone(),
            trouble: found.trouble,
            raised: true,
            holds: found.holds,
            since,
            members: found.members,
            sentence: found.sentence,
            ended: None,
        };
        let concerned = alarm.members.first().and_then(|name| self.accounts.get(name));
        let origin = Arc::clone(concerned.map_or(told_by, |account| &account.origin));
        let standing =
            Standing { cluster_id: found.cluster_id, alarm: alarm.clone(), origin: Arc::clone(&origin) };
        self.standing.insert(found.key, standing);
        is_news.then_some(Said { origin, alarm })
    }
}

impl Account {
    fn take(&mut self, origin: &Arc<Origin>, fact: &MemberFact) {
        self.origin = Arc::clone(origin);
        match fact {
            MemberFact::Answered(state) => {
                if let Some(hash) = state.hash {
                    self.hash = Some((hash, state.version.clone()));
                }
                if self.state.is_some() {
                    self.interval_ticks = self.age_ticks;
                }
                self.state = Some(MemberState::clone(state));
                self.silent = false;
                self.age_ticks = 0;
            }
            MemberFact::Silent { .. } => self.silent = true,
        }
    }

    fn read(&mut self, scrape: &Scrape) {
        let layout = scrape.layout.as_ref();
        let page = (layout.generation, layout.series);
        let known = self.quota_series.filter(|(generation, series, _)| (*generation, *series) == page);
        let series = match known {
            Some((.., series)) => series,
            None => layout.find(QUOTA, &[]).and_then(|point| match &point.shape {
                PointShape::Value { series } => Some(*series),
                _ => None,
            }),
        };
        self.quota_series = Some((page.0, page.1, series));
        let value = series.and_then(|series| scrape.value(series)).filter(|value| *value >= 1.0);
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "bytes, at least one")]
        if let Some(value) = value {
            self.quota_bytes = Some(value as u64);
        }
    }

    fn is_stale(&self) -> bool {
        self.age_ticks > TICKS_MAX.max(self.interval_ticks.saturating_mul(INTERVALS))
    }

    fn view<'a>(&'a self, name: &'a str) -> Option<compare::Account<'a>> {
        if self.is_stale() {
            return None;
        }
        let state = self.state.as_ref()?;
        Some(compare::Account {
            name,
            state,
            hash: self.hash.as_ref().map(|(hash, version)| (*hash, version.as_str())),
            quota_bytes: state.quota_bytes.or(self.quota_bytes),
            answers: !self.silent,
        })
    }
}

/// An alarm's figures, where it has any, as a clause of a sentence.
pub(crate) fn figures(trouble: &Trouble) -> Option<String> {
    let Trouble::NoSpace { db_size_bytes, quota_bytes } = trouble else { return None };
    let mebi = |bytes: u64| crate::binomial::to_f64(bytes) / 1_048_576.0;
    Some(match (db_size_bytes, quota_bytes) {
        (Some(size), Some(quota)) => {
            format!("its database has {:.1} MiB, its quota is {:.1} MiB", mebi(*size), mebi(*quota))
        }
        (Some(size), None) => format!("its database has {:.1} MiB, its quota is not known", mebi(*size)),
        (None, _) => "its size is not known".to_owned(),
    })
}
