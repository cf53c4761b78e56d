//! Turns the pages of one target into values against a layout that changes only when the set of series does.
//!
//! Owns the series cache. The steady state compares each line with the key that stood there on the last page and writes
//! a float: no hash, no string. A key elsewhere is looked up; one that was never seen makes a new generation. Refuses
//! I/O and clocks, so that a fuzzer and a test drive it with bytes.

use std::sync::Arc;

use model::scrape::{ABSENT_BITS, Layout, STALE_BITS};

use super::exposition::{self, Line, Reject, Tail, key};
use super::layout::{Builder, SYNTHETIC, index};

mod generation;
mod items;
pub mod rejects;

pub use generation::Generations;
use items::{Items, Slot};
use rejects::Rejects;

/// So many series that are gone stay in the layout before a new generation drops them; below, they cost eight bytes each …
const TOMBSTONES_MIN: usize = 64;
/// … and so does a quarter of the layout: a large page may lose more before it pays to build a new one.
const TOMBSTONES_SHARE: usize = 4;
/// After so many failures in a row (half a minute at 1 s: longer than a planned restart) the layout shrinks to the synthetic
/// series: a dead target costs its row of absences no more.
const FAILURES_MAX: u32 = 30;
/// A layout of so many series costs some ten milliseconds to build; one of ten times as many is kept for ten pages, so that
/// a target which invents series each second costs a bounded share of a core. etcd's pages stay below and never wait.
const SERIES_PER_PAGE_OF_REST: usize = 10_000;
/// A start time moves by rounding and by the kernel's boot time being slewed; a restart moves it by more.
const START_JITTER_S: f64 = 1.5;
/// What one page, or its absence, became.
#[derive(Clone, Debug)]
pub struct Reading {
    /// The shape; the same `Arc` as long as the generation lasts.
    pub layout: Arc<Layout>,
    /// One value a series, synthetic ones last.
    pub values: Arc<[f64]>,
    /// Samples on the page, kept or not.
    pub samples: u64,
    /// Samples kept.
    pub kept: u64,
    /// `process_start_time_seconds` of the page, nanoseconds.
    pub process_start_ns: Option<u64>,
    /// See [`model::scrape::Scrape::restarted`].
    pub restarted: Option<Restart>,
    /// Refused lines by reason.
    pub rejects: Rejects,
    /// Samples whose own timestamp was ignored.
    pub timestamps: u64,
    /// Exemplars ignored.
    pub exemplars: u64,
}

/// How a restart was seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Restart {
    /// `process_start_time_seconds` moved.
    StartTime,
    /// More counters fell than rose.
    Values,
}

/// What is remembered of each series of the page.
#[derive(Clone, Copy, Debug)]
struct Memory {
    /// It was on the page before this one (a failed scrape has no series).
    before: bool,
    /// It is on this page.
    here: bool,
    /// Its last value that came from a page, for resets; NaN before the first.
    last: f64,
}

/// Series cache of one target.
#[derive(Debug)]
pub struct Columns {
    series_max: usize,
    generations: Generations,
    layout: Arc<Layout>,
    items: Items,
    memory: Vec<Memory>,
    values: Vec<f64>,
    counters: Vec<u32>,
    start: Option<u32>,
    start_s: Option<f64>,
    /// The page has more series than allowed: unknown keys are beyond the limit, not new.
    trimmed: bool,
    /// Build anew at the next page.
    worn: bool,
    /// Pages to go before the next generation may be built.
    rest: usize,
    failures: u32,
    /// Sent while the target is down for long; in its place comes a new generation when it returns.
    quiet: Option<Arc<Layout>>,
}

/// Counts of one pass over a page.
#[derive(Debug, Default)]
struct Pass {
    samples: u64,
    kept: u64,
    added: u64,
    timestamps: u64,
    exemplars: u64,
    /// Samples refused for their key by this generation; what they collided with may go.
    blocked: u64,
    rejects: Rejects,
}

/// A line that no generation knows: build a new one.
struct Unknown;

impl Columns {
    /// About how many bytes the next record takes in the inbox.
    #[must_use]
    pub fn record_bytes(&self) -> usize {
        512 + self.values.len() * size_of::<f64>()
    }

    /// Reads a page that came.
    ///
    /// # Errors
    /// The rejects, when nothing but rejects is on it: a login page, another encoding. It is no page; the caller says
    /// [`Columns::fail`].
    pub fn read(&mut self, page: &[u8], duration_ns: u64) -> Result<Reading, Rejects> {
        self.rest = self.rest.saturating_sub(1);
        if (self.worn && self.rest == 0) || self.quiet.take().is_some() {
            self.rebuild(page);
        }
        let pass = match self.pass(page) {
            Ok(pass) => pass,
            Err(Unknown) => {
                self.rebuild(page);
                // A line that is unknown to the layout built from it would be a bug; it costs the samples of one page.
                self.pass(page).unwrap_or_default()
            }
        };
        if pass.kept == 0 && pass.rejects.total() > 0 {
            return Err(pass.rejects);
        }
        self.failures = 0;
        let start = self.start_on_page();
        let restarted = self.restarted(start);
        self.end(pass.blocked > 0);
        self.synthesize([
            1.0,
            seconds(duration_ns),
            float(pass.samples),
            float(pass.kept),
            float(pass.added),
        ]);
        Ok(Reading {
            layout: Arc::clone(&self.layout),
            values: Arc::from(self.values.as_slice()),
            samples: pass.samples,
            kept: pass.kept,
            process_start_ns: start.map(nanoseconds),
            restarted,
            rejects: pass.rejects,
            timestamps: pass.timestamps,
            exemplars: pass.exemplars,
        })
    }

    /// Records that no page came: every series ends once, `up` is 0.
    pub fn fail(&mut self, duration_ns: u64) -> Reading {
        self.failures = self.failures.saturating_add(1);
        let synthetic = [0.0, seconds(duration_ns), 0.0, 0.0, 0.0];
        if self.failures == FAILURES_MAX && !self.memory.is_empty() {
            self.quiet = Some(Arc::new(Builder::default().finish(self.generations.draw())));
        }
        let (layout, values) = if let Some(quiet) = &self.quiet {
            (Arc::clone(quiet), Arc::from(synthetic.as_slice()))
        } else {
            self.end(false);
            self.synthesize(synthetic);
            (Arc::clone(&self.layout), Arc::from(self.values.as_slice()))
        };
        Reading {
            layout,
            values,
            samples: 0,
            kept: 0,
            process_start_ns: None,
            restarted: None,
            rejects: Rejects::default(),
            timestamps: 0,
            exemplars: 0,
        }
    }

    /// Goes over a page with the keys of the last one as a guide.
    fn pass(&mut self, page: &[u8]) -> Result<Pass, Unknown> {
        for memory in &mut self.memory {
            memory.here = false;
        }
        let mut pass = Pass::default();
        let mut rest = page;
        let mut next = 0;
        while !rest.is_empty() {
            if let Some((slot, tail, after)) = self.predicted(next, rest) {
                if let Some(tail) = tail {
                    let line = rest.get(..rest.len() - after.len()).unwrap_or_default();
                    self.take(slot, tail, line, &mut pass);
                }
                next += 1;
                rest = after;
                continue;
            }
            let (raw, after, whole) = exposition::split_line(rest);
            rest = after;
            match if whole { exposition::line(raw) } else { exposition::unfinished(raw) } {
                Ok(Line::Blank) => {}
                Ok(Line::Help { .. } | Line::Type { .. }) => next = self.comment(raw, next, &mut pass)?,
                Ok(Line::Sample(sample)) => match self.items.find(sample.key) {
                    Some((place, slot)) => {
                        next = place + 1;
                        self.take(slot, sample.tail, raw, &mut pass);
                    }
                    None => self.unknown(sample.key, sample.tail, &mut pass)?,
                },
                Err(reject) => pass.rejects.add(reject, raw),
            }
        }
        Ok(pass)
    }

    /// The line that stood here on the last page, if it stands here again: what it is, its value, what follows.
    fn predicted<'a>(&self, next: usize, rest: &'a [u8]) -> Option<(Slot, Option<Tail>, &'a [u8])> {
        let item = self.items.items.get(next)?;
        let after_key = rest.strip_prefix(self.items.key(item))?;
        if matches!(item.slot, Slot::Comment) {
            return Some((item.slot, None, after_key.strip_prefix(b"\n")?));
        }
        // Without the blank, `a` would be taken for the beginning of `ab`.
        let value = after_key.strip_prefix(b" ")?;
        let (text, after, whole) = exposition::split_line(value);
        if !whole {
            return None;
        }
        // A line that is odd behind its key goes the long way, where it is refused with a reason.
        Some((item.slot, Some(exposition::tail(text).ok()?), after))
    }

    /// A HELP that nobody knows is only words; a TYPE changes the layout.
    fn comment(&self, raw: &[u8], next: usize, pass: &mut Pass) -> Result<usize, Unknown> {
        match self.items.find(raw) {
            Some((place, Slot::Rejected(reject))) => {
                pass.rejects.add(reject, raw);
                Ok(place + 1)
            }
            Some((place, _)) => Ok(place + 1),
            None if self.trimmed
                || self.rest > 0
                || matches!(exposition::line(raw), Ok(Line::Help { .. })) =>
            {
                Ok(next)
            }
            None => Err(Unknown),
        }
    }

    fn take(&mut self, slot: Slot, tail: Tail, line: &[u8], pass: &mut Pass) {
        pass.samples += 1;
        pass.timestamps += u64::from(tail.timestamp);
        pass.exemplars += u64::from(tail.exemplar);
        match slot {
            Slot::Comment => {}
            Slot::Rejected(reject) => {
                pass.blocked += 1;
                pass.rejects.add(reject, line);
            }
            Slot::Series(id) => {
                let place = index(id);
                let (Some(memory), Some(value)) = (self.memory.get_mut(place), self.values.get_mut(place))
                else {
                    return;
                };
                if memory.here {
                    pass.rejects.add(Reject::Duplicate, line);
                    return;
                }
                memory.here = true;
                *value = tail.value;
                pass.kept += 1;
                pass.added += u64::from(!memory.before);
            }
        }
    }

    fn unknown(&self, key: &[u8], tail: Tail, pass: &mut Pass) -> Result<(), Unknown> {
        let reject = match key::split(key) {
            Ok(_) if self.trimmed => Reject::SeriesLimit,
            Ok(_) if self.rest > 0 => Reject::TooSoon,
            Ok(_) => return Err(Unknown),
            Err(reject) => reject,
        };
        pass.samples += 1;
        pass.timestamps += u64::from(tail.timestamp);
        pass.rejects.add(reject, key);
        Ok(())
    }

    /// The start time on this page, if it has one.
    fn start_on_page(&self) -> Option<f64> {
        let place = index(self.start?);
        let here = self.memory.get(place)?.here;
        self.values.get(place).copied().filter(|value| here && value.is_finite() && *value > 0.0)
    }

    /// Compares start time and counters with the last page that came.
    fn restarted(&mut self, start: Option<f64>) -> Option<Restart> {
        let moved = matches!((self.start_s, start), (Some(a), Some(b)) if (a - b).abs() > START_JITTER_S);
        self.start_s = start.or(self.start_s);
        let (mut fell, mut rose) = (0_u32, 0_u32);
        for place in self.counters.iter().copied().map(index) {
            let (Some(memory), Some(value)) = (self.memory.get_mut(place), self.values.get(place)) else {
                continue;
            };
            if memory.here {
                fell += u32::from(*value < memory.last);
                rose += u32::from(*value > memory.last);
                memory.last = *value;
            }
        }
        // One counter that falls is a bug of that counter; a process that began anew takes most of them down.
        if moved { Some(Restart::StartTime) } else { (fell > rose).then_some(Restart::Values) }
    }

    /// Ends the series that are not here: once told, then absent. Turns this page into the one before. With samples
    /// `blocked`, a single series that went is reason enough for a new generation: it may have been in their way.
    fn end(&mut self, blocked: bool) {
        let mut gone = 0;
        let failed = self.failures > 0;
        for (memory, value) in self.memory.iter_mut().zip(&mut self.values) {
            let here = memory.here && !failed;
            if !here {
                gone += 1;
                *value = f64::from_bits(if memory.before { STALE_BITS } else { ABSENT_BITS });
            }
            memory.before = here;
        }
        let many = gone > TOMBSTONES_MIN && gone > self.memory.len() / TOMBSTONES_SHARE;
        self.worn = !failed && (many || (blocked && gone > 0));
    }

    fn synthesize(&mut self, synthetic: [f64; SYNTHETIC.len()]) {
        let series = self.memory.len();
        for (value, new) in self.values.iter_mut().skip(series).zip(synthetic) {
            *value = new;
        }
    }
}

fn seconds(ns: u64) -> f64 {
    float(ns) / 1e9
}

#[expect(clippy::cast_precision_loss, reason = "counts and durations far below 2^53")]
fn float(n: u64) -> f64 {
    n as f64
}

/// Seconds since the epoch as an f64 are good to 200 ns, and the kernel counts starts in 10 ms: whole milliseconds lose nothing.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "positive and finite; `as` saturates"
)]
fn nanoseconds(seconds: f64) -> u64 {
    ((seconds * 1e3).round() as u64).saturating_mul(1_000_000)
}

#[cfg(test)]
mod tests;
