//! The labelled set: which pairs there are, and what is true of each.
//!
//! Owns the seeds: a pair is made of its number alone, so one can be looked at again.

use model::profile::FunctionCounts;
use processors::diff::floor;

use crate::change::{Growth, Move, grow, shift};
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
    /// What got dearer, and how; `None` where nothing did.
    pub(crate) grown: Option<(String, Growth)>,
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
    /// What etcd holds grows with time: the steady runs only as far as the others go.
    young: &'a [Counted<'a>],
    code: Code,
    /// Samples of a window of the steady runs.
    mean: f64,
    /// Functions with 1 to 10 % of the steady runs, with their shares.
    eligible: Vec<(u32, f64)>,
}

impl<'a> Set<'a> {
    /// Looks for functions that can be changed.
    pub(crate) fn of(
        recording: &'a Recording,
        counted: &'a [Counted<'a>],
        young: &'a [Counted<'a>],
    ) -> Set<'a> {
        let mut set =
            Set { recording, counted, young, code: Code::of(recording), mean: 1.0, eligible: Vec::new() };
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

    /// One function is dearer by the least that counts; the group says what else there is between both sides.
    pub(crate) fn grown(&self, number: usize, group: &'static str, size: Size) -> Pair {
        let mut dice = Dice::new(0x6772_6f77_0000 + number as u64);
        let (a, b) = self.sides(group, number);
        let before = draw(&a, (size.samples, self.mean), &mut dice);
        let mut after = draw(&b, (size.samples, self.mean), &mut dice);
        let (function, _) = self.eligible[number * 31 % self.eligible.len()];
        // What it has here: runs differ.
        let share = share(&self.code, &after, function);
        let growth = Growth::ALL[number % Growth::ALL.len()];
        let mut code = self.code.clone();
        grow((&mut code, &mut after), (function, share, floor(share)), growth, &mut dice);
        let mut pair = self.pair(group, size, &code, (&before, &after));
        pair.grown = Some((self.recording.functions[function as usize].clone(), growth));
        pair
    }

    /// Which runs both sides are drawn from.
    fn sides(&self, group: &str, turn: usize) -> (Vec<&'a Counted<'a>>, Vec<&'a Counted<'a>>) {
        let steady = self.runs("steady");
        let one = |number: usize| vec![steady[number % steady.len()]];
        let young = || self.young.iter().collect();
        match group {
            "load" => (young(), self.runs(["half", "double"][turn / 2 % 2])),
            "half" | "double" => (young(), self.runs(if group == "half" { "half" } else { "double" })),
            "gc" => (young(), self.runs(["gc 50", "gc 200"][turn / 2 % 2])),
            "another run" => (one(turn), one(turn + 1)),
            _ => (one(turn), one(turn)),
        }
    }

    /// Nothing is dearer. The five groups take turns.
    pub(crate) fn unchanged(&self, number: usize, size: Size) -> Pair {
        let mut dice = Dice::new(0x7361_6d65_0000 + number as u64);
        let turn = number / GROUPS.len();
        let group = GROUPS[number % GROUPS.len()];
        let (a, b) = self.sides(group, turn);
        let (a, b) = if turn % 2 == 1 { (b, a) } else { (a, b) };
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

/// The inclusive share of a function in these windows.
fn share(code: &Code, windows: &[Drawn<'_>], function: u32) -> f64 {
    let (mut value, mut all) = (0_u64, 0_u64);
    for (stack, count) in windows.iter().flat_map(Drawn::recorded) {
        all += u64::from(*count);
        value += if code.paths[*stack as usize].contains(&function) { u64::from(*count) } else { 0 };
    }
    value as f64 / all.max(1) as f64
}

/// Kinds of unchanged pairs.
pub(crate) const GROUPS: [&str; 5] = ["same", "another run", "load", "gc", "moved"];
