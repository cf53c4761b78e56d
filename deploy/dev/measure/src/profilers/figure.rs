//! What is measured of a contender, and how it is told: a median over the rounds with the least and the most.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;

/// One figure; the order is that of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Figure {
    /// User and system time from its start to its end, children included, in percent of one core over the window: of those
    /// that are called when they are needed.
    CpuWhole,
    /// Until it was at work, seconds of CPU: of those that are started once and stay.
    StartS,
    /// The same within the window alone.
    CpuWindow,
    /// Of a program that names afterwards.
    CpuNaming,
    /// Most memory, shared pages divided.
    PssMib,
    /// What the kernel holds for it: locked pages, rings, BPF.
    HeldMib,
    /// Iterations of the two programs a second.
    Iterations,
    /// From starting a short process to its end, on average, microseconds.
    SpawnUs,
    /// p99 of the workload's puts, milliseconds.
    PutMs,
    /// Against nothing in the same round, percent.
    IterationsChange,
    /// Against nothing in the same round, percent.
    SpawnChange,
    /// Against nothing in the same round, percent.
    PutChange,
    /// Samples.
    Samples,
    /// Of which it says that they are lost.
    Lost,
    /// Programs' frames with names, percent.
    Named,
    /// Samples of the Go program with the right callers, percent.
    CallersOfGo,
    /// Samples of the program without frame pointers with the right callers, percent.
    CallersOfNative,
}

impl Figure {
    /// What it takes.
    pub(super) const COST: [Figure; 9] = [
        Figure::CpuWhole,
        Figure::StartS,
        Figure::CpuWindow,
        Figure::CpuNaming,
        Figure::PssMib,
        Figure::HeldMib,
        Figure::IterationsChange,
        Figure::SpawnChange,
        Figure::PutChange,
    ];

    /// What it knows.
    pub(super) const KNOWLEDGE: [Figure; 5] =
        [Figure::Samples, Figure::Lost, Figure::Named, Figure::CallersOfGo, Figure::CallersOfNative];

    /// Which figures are held against those of nobody, and how the change is called.
    pub(super) const CHANGES: [(Figure, Figure); 3] = [
        (Figure::Iterations, Figure::IterationsChange),
        (Figure::SpawnUs, Figure::SpawnChange),
        (Figure::PutMs, Figure::PutChange),
    ];

    /// The head of its column.
    pub(super) fn head(self) -> &'static str {
        match self {
            Figure::CpuWhole => "CPU % whole",
            Figure::StartS => "to start s",
            Figure::CpuWindow => "CPU % window",
            Figure::CpuNaming => "CPU % naming",
            Figure::PssMib => "PSS MiB",
            Figure::HeldMib => "kernel MiB",
            Figure::Iterations => "iterations/s",
            Figure::SpawnUs => "process us",
            Figure::PutMs => "put p99 ms",
            Figure::IterationsChange => "programs %",
            Figure::SpawnChange => "process time %",
            Figure::PutChange => "put p99 %",
            Figure::Samples => "samples",
            Figure::Lost => "lost",
            Figure::Named => "named %",
            Figure::CallersOfGo => "callers, Go %",
            Figure::CallersOfNative => "callers, C %",
        }
    }

    fn digits(self) -> usize {
        match self {
            Figure::CpuWhole | Figure::StartS | Figure::CpuWindow | Figure::CpuNaming => 2,
            Figure::IterationsChange => 2,
            Figure::Samples | Figure::Lost | Figure::Iterations | Figure::SpawnUs => 0,
            _ => 1,
        }
    }

    /// The cell of a table.
    pub(super) fn told(self, spread: &Spread) -> String {
        let (digits, Spread { median, least, most, .. }) = (self.digits(), *spread);
        let is_change = Figure::CHANGES.iter().any(|(_, change)| *change == self);
        let number = |value: f64| match is_change {
            true => format!("{value:+.digits$}"),
            false => format!("{value:.digits$}"),
        };
        // All rounds alike: once is enough.
        if number(least) == number(most) {
            return number(median);
        }
        format!("{} ({}..{})", number(median), number(least), number(most))
    }
}

/// Over all rounds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct Spread {
    /// The one in the middle, or between the two in the middle.
    pub(super) median: f64,
    /// The least.
    pub(super) least: f64,
    /// The most.
    pub(super) most: f64,
    /// How many.
    pub(super) n: usize,
}

impl Spread {
    /// `None` of nothing.
    pub(super) fn of(mut values: Vec<f64>) -> Option<Spread> {
        values.sort_by(f64::total_cmp);
        let (least, most, n) = (*values.first()?, *values.last()?, values.len());
        let (low, high) = (*values.get((n - 1) / 2)?, *values.get(n / 2)?);
        Some(Spread { median: f64::midpoint(low, high), least, most, n })
    }
}

/// Each figure over all rounds.
pub(super) type Spreads = BTreeMap<Figure, Spread>;

/// Rows and columns, each as wide as it must be; a column that nobody has anything for is left out.
pub(super) struct Table<'a> {
    /// The columns.
    pub(super) figures: &'a [Figure],
    /// Who, with what.
    pub(super) rows: Vec<(&'a str, &'a Spreads)>,
}

impl fmt::Display for Table<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let has = |figure: &&Figure| self.rows.iter().any(|(_, spreads)| spreads.contains_key(*figure));
        let figures: Vec<&Figure> = self.figures.iter().filter(has).collect();
        let cell = |spreads: &Spreads, figure: &Figure| {
            spreads.get(figure).map_or("-".to_owned(), |spread| figure.told(spread))
        };
        let first = self.rows.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
        let width = |figure: &Figure| {
            let cells = self.rows.iter().map(|(_, spreads)| cell(spreads, figure).chars().count());
            cells.chain([figure.head().len()]).max().unwrap_or(0)
        };
        write!(f, "  {:<first$}", "")?;
        figures.iter().try_for_each(|figure| write!(f, "  {:>1$}", figure.head(), width(figure)))?;
        writeln!(f)?;
        for (name, spreads) in &self.rows {
            write!(f, "  {name:<first$}")?;
            figures
                .iter()
                .try_for_each(|figure| write!(f, "  {:>1$}", cell(spreads, figure), width(figure)))?;
            writeln!(f)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::{Figure, Spread, Spreads, Table};

    fn check(values: &[f64], expected: Option<(f64, f64, f64)>) {
        let spread = Spread::of(values.to_vec());
        assert_eq!(spread.map(|spread| (spread.median, spread.least, spread.most)), expected);
    }

    #[test]
    fn the_median_is_between_the_two_in_the_middle() {
        check(&[3.0, 1.0, 2.0], Some((2.0, 1.0, 3.0)));
        check(&[4.0, 1.0, 2.0, 3.0], Some((2.5, 1.0, 4.0)));
        check(&[], None);
    }

    #[test]
    fn a_table_has_a_column_for_what_somebody_has() {
        let of = |values: &[f64]| Spread::of(values.to_vec()).unwrap();
        let ours = Spreads::from([
            (Figure::CpuWhole, of(&[0.41, 0.4, 0.43])),
            (Figure::IterationsChange, of(&[-0.25])),
        ]);
        let nobody = Spreads::new();
        let figures = [Figure::CpuWhole, Figure::CpuNaming, Figure::IterationsChange];
        let table = Table { figures: &figures, rows: vec![("nothing", &nobody), ("ours", &ours)] };
        assert!(table.to_string().ends_with("  ours     0.41 (0.40..0.43)       -0.25\n"), "{table}");
        assert!(!table.to_string().contains("naming"), "{table}");
    }
}
