//! The labelled set: which pairs there are, and what is true of each.
//!
//! Owns the seeds: a pair is made of its number alone, so one can be looked at again.

use model::profile::FunctionCounts;

use crate::change::{Growth, Move, floor, grow, shift};
use crate::dice::Dice;
use crate::recording::Recording;
use crate::side::{Code, Counted, Drawn, counts, draw};

/// Two profiles and the truth.
#[derive(Clone, Debug)]
pub(crate) struct Pair {
    /// What it is an example of.
    pub(crate) group: &'static str,
    pub(crate) before: FunctionCounts,
    pub(crate) after: FunctionCounts,
    /// What got dearer, and its share before; `None` where nothing did.
    pub(crate) grown: Option<(String, f64)>,
}

/// How large the sides are and whether the diff sees their windows.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Size {
    /// On-CPU samples.
    pub(crate) samples: u64,
    /// Otherwise each side is one piece.
    pub(crate) is_windowed: bool,
    /// Otherwise nobody counted requests.
    pub(crate) has_requests: bool,
}

/// Makes pairs from what was recorded.
#[derive(Debug)]
pub(crate) struct Set<'a> {
    recording: &'a Recording,
    counted: &'a [Counted<'a>],
    code: Code,
    /// Samples of a window of the steady runs.
    mean: f64,
    /// Functions with 1 to 10 % of the steady runs, with their shares.
    eligible: Vec<(u32, f64)>,
}

impl<'a> Set<'a> {
    /// Looks for functions that can be changed.
    pub(crate) fn of(recording: &'a Recording, counted: &'a [Counted<'a>]) -> Set<'a> {
        let mut set = Set { recording, counted, code: Code::of(recording), mean: 1.0, eligible: Vec::new() };
        let mut totals = vec![0_u64; recording.functions.len()];
        let mut all = 0;
        for (stack, count) in set
            .runs("steady")
            .iter()
            .flat_map(|counted| &counted.run.windows)
            .flat_map(|window| &window.stacks)
        {
            let mut path = set.code.paths[*stack as usize].clone();
            path.sort_unstable();
            path.dedup();
            path.iter().for_each(|function| totals[*function as usize] += u64::from(*count));
            all += u64::from(*count);
        }
        // Go's runtime serves all others: a change in it is a change of Go, not of the program.
        let is_program = |name: &str| !name.starts_with("runtime") && !name.starts_with('[');
        let windows: usize = set.runs("steady").iter().map(|counted| counted.run.windows.len()).sum();
        set.mean = all as f64 / windows.max(1) as f64;
        set.eligible = (0..)
            .zip(totals)
            .map(|(function, total)| (function, total as f64 / all as f64))
            .filter(|(_, share)| (0.01..=0.1).contains(share))
            .filter(|(function, _)| is_program(&recording.functions[*function as usize]))
            .collect();
        set
    }

    /// How many functions can be changed.
    pub(crate) fn eligible(&self) -> usize {
        self.eligible.len()
    }

    /// Runs of etcd with this load.
    pub(crate) fn runs(&self, load: &str) -> Vec<&'a Counted<'a>> {
        let is_meant = |counted: &&Counted<'_>| counted.run.subject == "etcd" && counted.run.load == load;
        self.counted.iter().filter(is_meant).collect()
    }

    fn pair(
        &self,
        group: &'static str,
        size: Size,
        code: &Code,
        sides: (&[Drawn<'_>], &[Drawn<'_>]),
    ) -> Pair {
        let side = |windows: &[Drawn<'_>]| {
            let mut counts = counts(code, windows, size.is_windowed);
            counts.requests = counts.requests.filter(|_| size.has_requests);
            counts
        };
        Pair { group, before: side(sides.0), after: side(sides.1), grown: None }
    }

    /// One function is dearer by the least that counts; the load may have changed as well.
    pub(crate) fn grown(&self, number: usize, load: &'static str, size: Size) -> Pair {
        let mut dice = Dice::new(0x6772_6f77_0000 + number as u64);
        let steady = self.runs("steady");
        let before = draw(&steady, (size.samples, self.mean), &mut dice);
        let mut after = draw(&self.runs(load), (size.samples, self.mean), &mut dice);
        let (function, share) = self.eligible[number * 31 % self.eligible.len()];
        let growth = Growth::ALL[number % Growth::ALL.len()];
        let mut code = self.code.clone();
        grow((&mut code, &mut after), (function, share, floor(share)), growth, &mut dice);
        let mut pair = self.pair(load, size, &code, (&before, &after));
        pair.grown = Some((self.recording.functions[function as usize].clone(), share));
        pair
    }

    /// Nothing is dearer. The five groups take turns.
    pub(crate) fn unchanged(&self, number: usize, size: Size) -> Pair {
        let mut dice = Dice::new(0x7361_6d65_0000 + number as u64);
        let steady = self.runs("steady");
        let turn = number / GROUPS.len();
        let one = |number: usize| vec![steady[number % steady.len()]];
        let group = GROUPS[number % GROUPS.len()];
        let swap = turn % 2 == 1;
        let (a, b) = match group {
            "load" => (steady.clone(), self.runs(["half", "double"][turn / 2 % 2])),
            "gc" => (steady.clone(), self.runs(["gc 50", "gc 200"][turn / 2 % 2])),
            "another run" => (one(turn), one(turn + 1)),
            _ => (steady.clone(), steady.clone()),
        };
        let (a, b) = if swap { (b, a) } else { (a, b) };
        let before = draw(&a, (size.samples, self.mean), &mut dice);
        let mut after = draw(&b, (size.samples, self.mean), &mut dice);
        let mut code = self.code.clone();
        if group == "moved" {
            let (function, _) = self.eligible[turn * 17 % self.eligible.len()];
            let (to, _) = self.eligible[(turn * 29 + 7) % self.eligible.len()];
            shift(&mut code, &mut after, (function, to), Move::ALL[turn % Move::ALL.len()]);
        }
        self.pair(group, size, &code, (&before, &after))
    }
}

/// Kinds of unchanged pairs.
pub(crate) const GROUPS: [&str; 5] = ["same", "another run", "load", "gc", "moved"];
