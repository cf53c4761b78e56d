//! Readings beside what the program says, until there are enough of one moment.

use std::{fmt, thread, time::Duration};

use model::time::Stamp;
use profile::goheap::{self, Rate};

use super::told;

/// Pairs that are tried before there is no hope of enough of one moment.
const TRIED_MAX: u32 = 400;
/// Differences that are shown.
const SHOWN: usize = 3;

/// How readings and answers compared.
#[derive(Debug, Default)]
pub(crate) struct Pairs {
    version: String,
    tried: u32,
    pairs: u32,
    equal: u32,
    named_alike: u32,
    collections: u64,
    sites: usize,
    attempts: u32,
    cpu_ns_max: u64,
    cpu_ns: u64,
    bytes_max: u64,
    wrong: Vec<String>,
}

impl Pairs {
    pub(crate) const HEAD: &str = "program                  Go            pairs equal named  tried collections sites retries  CPU ms (max)  KiB read";

    pub(crate) fn check(&self, name: &str) {
        let shown: Vec<_> = self.wrong.iter().take(SHOWN).cloned().collect();
        assert!(self.wrong.is_empty(), "{name}: {} differences\n{}", self.wrong.len(), shown.join("\n"));
        assert!(
            self.pairs > 0 && self.equal == self.pairs && self.named_alike == self.pairs,
            "{name}: {self:?}"
        );
        assert!(self.collections > 2 && self.sites > 20, "{name}: hardly anything happened: {self:?}");
    }
}

impl fmt::Display for Pairs {
    #[expect(clippy::cast_precision_loss, reason = "milliseconds, for a person")]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Pairs { version, tried, pairs, equal, named_alike, collections, sites, .. } = self;
        let retries = self.attempts - tried;
        let (mean, most) = (self.cpu_ns as f64 / 1e6 / f64::from(*tried), self.cpu_ns_max as f64 / 1e6);
        write!(
            f,
            "{version:13} {pairs:5} {equal:5} {named_alike:5} {tried:6} {collections:11} {sites:5} {retries:7}  {mean:5.1} ({most:4.1})  {:8}",
            self.bytes_max / 1024
        )
    }
}

/// Reads and asks until so many pairs are of one moment.
pub(crate) fn agree(pid: u32, port: u16, path: &str, wanted: u32) -> Pairs {
    let mut pairs = Pairs::default();
    // Until there was a collection, there is nothing published.
    while told::ask(port, path).collections < 2 {
        thread::sleep(Duration::from_millis(50));
    }
    let first = told::ask(port, path).collections;
    while pairs.pairs < wanted {
        assert!(pairs.tried < TRIED_MAX, "collections follow one another too fast: {pairs:?}");
        let before = told::ask(port, path);
        let theirs = told::profile(port, path);
        let reading = goheap::read(pid, Stamp::default()).unwrap();
        let after = told::ask(port, path);
        pairs.tried += 1;
        pairs.attempts += reading.cost.attempts;
        pairs.cpu_ns += reading.cost.cpu_ns;
        pairs.cpu_ns_max = pairs.cpu_ns_max.max(reading.cost.cpu_ns);
        pairs.bytes_max = pairs.bytes_max.max(reading.cost.bytes);
        pairs.collections = after.collections - first;
        if before.collections != after.collections {
            continue;
        }
        pairs.pairs += 1;
        pairs.version.clone_from(&reading.version);
        let (totals, lines) = told::read(&reading);
        pairs.sites = lines.len();
        let is_equal = (totals, u64::from(reading.cycle), reading.rate)
            == (before.totals, before.collections, Rate::Read(before.rate))
            && lines == before.lines;
        pairs.equal += u32::from(is_equal);
        if !is_equal {
            pairs.wrong.push(format!(
                "{totals:?} {:?} {:?}\n  told {:?} {}",
                reading.cycle, reading.rate, before.totals, before.collections
            ));
        }
        let (ours, theirs) = (told::named(&reading.stacks()), told::named(&theirs));
        pairs.named_alike += u32::from(ours == theirs);
        if let Some(difference) = ours.iter().zip(&theirs).find(|(one, other)| one != other) {
            pairs.wrong.push(format!("named {} and {}: {difference:#?}", ours.len(), theirs.len()));
        }
        // Somewhere else in the cycle next time.
        thread::sleep(Duration::from_millis(u64::from(pairs.tried) % 7 * 10));
    }
    pairs
}
