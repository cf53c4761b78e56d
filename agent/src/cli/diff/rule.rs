//! Rules that make `agent diff` fail: `FUNCTION>+5%`, `FUNCTION<-2pp`.
//!
//! Owns their grammar and when one is hit. The figure is the function's share of the total, itself and all it calls: `%` is
//! relative to the share before, `pp` are points of share. A change that noise could have made, as the table beside it sees noise,
//! hits nothing.

use std::str::FromStr;

use model::profile::FunctionCounts;
use processors::diff::shares;
use serde::Serialize;

use crate::cli::profile::hot::short;

/// One rule.
#[derive(Clone, Debug, PartialEq)]
pub(in crate::cli) struct Rule {
    text: String,
    glob: String,
    sense: Sense,
    limit: Limit,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Sense {
    Grew,
    Shrank,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Limit {
    /// Of the share before.
    Relative(f64),
    /// Of the total.
    Share(f64),
}

/// A function that a rule is hit by.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub(super) struct Hit {
    pub(super) rule: String,
    pub(super) function: String,
    pub(super) before: f64,
    pub(super) after: f64,
    /// 95 % interval of the difference.
    pub(super) low: f64,
    pub(super) high: f64,
}

/// What a rule made of two profiles.
#[derive(Debug, Default)]
pub(super) struct Judged {
    /// Functions of that name.
    pub(super) matched: usize,
    pub(super) hits: Vec<Hit>,
}

impl FromStr for Rule {
    type Err = String;

    fn from_str(text: &str) -> Result<Rule, String> {
        let wrong = || {
            format!(
                "`{text}` is no rule: FUNCTION>+N% or FUNCTION<-N%; N% of its share before, Npp points of share"
            )
        };
        // Names may hold either sign (`<T as Iterator>::next`): the last one counts.
        let grew = text.rfind(">+").map(|at| (at, Sense::Grew));
        let shrank = text.rfind("<-").map(|at| (at, Sense::Shrank));
        let (at, sense) = grew.into_iter().chain(shrank).max_by_key(|(at, _)| *at).ok_or_else(wrong)?;
        let (glob, figure) = text.split_at_checked(at).ok_or_else(wrong)?;
        let figure = figure.get(2..).unwrap_or_default().trim();
        let (figure, is_relative) = match (figure.strip_suffix('%'), figure.strip_suffix("pp")) {
            (Some(figure), _) => (figure, true),
            (None, Some(figure)) => (figure, false),
            (None, None) => return Err(wrong()),
        };
        let figure: f64 = figure.trim().parse().map_err(|_| wrong())?;
        let glob = glob.trim();
        if glob.is_empty() || !(0.0..=1e6).contains(&figure) {
            return Err(wrong());
        }
        let limit = if is_relative { Limit::Relative(figure / 100.0) } else { Limit::Share(figure / 100.0) };
        Ok(Rule { text: text.to_owned(), glob: glob.to_owned(), sense, limit })
    }
}

impl Rule {
    pub(super) fn text(&self) -> &str {
        &self.text
    }

    /// Every function of that name on either side.
    pub(super) fn judge(&self, before: &FunctionCounts, after: &FunctionCounts) -> Judged {
        let is_meant = |name: &str| glob(&self.glob, name) || glob(&self.glob, short(name));
        let meant = shares(before, after, is_meant);
        let hits = meant.iter().filter(|of| self.is_hit((of.before, of.after), (of.low, of.high)));
        let hits = hits.map(|of| Hit {
            rule: self.text.clone(),
            function: of.name.to_owned(),
            before: of.before,
            after: of.after,
            low: of.low,
            high: of.high,
        });
        Judged { matched: meant.len(), hits: hits.collect() }
    }

    fn is_hit(&self, (before, after): (f64, f64), (low, high): (f64, f64)) -> bool {
        let (change, is_sure) = match self.sense {
            Sense::Grew => (after - before, low > 0.0),
            Sense::Shrank => (before - after, high < 0.0),
        };
        let limit = match self.limit {
            Limit::Relative(limit) => limit * before,
            Limit::Share(limit) => limit,
        };
        is_sure && change > limit
    }
}

/// `*` is anything, `?` one character; all else is itself. One step back at most for each `*`, so long names cost little.
fn glob(pattern: &str, name: &str) -> bool {
    let (pattern, name): (Vec<char>, Vec<char>) = (pattern.chars().collect(), name.chars().collect());
    let (mut p, mut n) = (0, 0);
    let mut star: Option<(usize, usize)> = None;
    while let Some(c) = name.get(n) {
        match (pattern.get(p), star) {
            (Some('*'), _) => {
                star = Some((p, n));
                p += 1;
            }
            (Some(wanted), _) if *wanted == '?' || wanted == c => {
                p += 1;
                n += 1;
            }
            (_, Some((star_p, star_n))) => {
                star = Some((star_p, star_n + 1));
                p = star_p + 1;
                n = star_n + 1;
            }
            (_, None) => return false,
        }
    }
    pattern.iter().skip(p).all(|c| *c == '*')
}

#[cfg(test)]
mod tests {
    use model::profile::{FunctionCount, ProfileKind, windows};

    use super::*;

    fn counts(functions: &[(&str, u64)]) -> FunctionCounts {
        let function = |(name, total): &(&str, u64)| FunctionCount {
            name: (*name).to_owned(),
            own: *total,
            total: *total,
            samples: *total,
        };
        FunctionCounts {
            kind: ProfileKind::Cpu,
            duration_ns: 1,
            period: 1,
            total: 100_000,
            samples: 100_000,
            functions: functions.iter().map(function).collect(),
            edges: Vec::new(),
            other: 0,
            windows: Vec::new(),
            requests: None,
        }
    }

    #[test]
    fn a_rule_names_functions_a_sense_and_a_figure() {
        let check = |text: &str, glob: &str, sense, limit| {
            let rule: Rule = text.parse().unwrap();
            assert_eq!((rule.glob.as_str(), rule.sense, rule.limit), (glob, sense, limit), "{text}");
        };
        check("mvcc.*>+5%", "mvcc.*", Sense::Grew, Limit::Relative(0.05));
        check("f <- 2.5pp", "f", Sense::Shrank, Limit::Share(0.025));
        check("<T as X>::f<-10%", "<T as X>::f", Sense::Shrank, Limit::Relative(0.1));
        check("a->b>+1pp", "a->b", Sense::Grew, Limit::Share(0.01));
        for wrong in ["", "f", "f>5%", "f>+5", "f>-5%", "f>+x%", ">+5%", "f>+-5%", "f>+nan%", "f>+inf%"] {
            assert!(wrong.parse::<Rule>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_rule_is_hit_by_what_exceeds_it_for_sure() {
        let before = counts(&[("a", 10_000), ("go.io/x/b.f", 1_000), ("gone", 2_000), ("same", 50_000)]);
        let after = counts(&[("a", 10_600), ("go.io/x/b.f", 1_020), ("new", 500), ("same", 50_100)]);
        let check = |rule: &str, matched: usize, hits: &[&str]| {
            let judged = rule.parse::<Rule>().unwrap().judge(&before, &after);
            let functions: Vec<&str> = judged.hits.iter().map(|hit| hit.function.as_str()).collect();
            assert_eq!((judged.matched, functions.as_slice()), (matched, hits), "{rule}");
        };
        check("a>+5%", 1, &["a"]);
        check("a>+7%", 1, &[]);
        check("a>+0.5pp", 1, &["a"]);
        check("a>+1pp", 1, &[]);
        // Two percent more, of a thousand samples: noise.
        check("b.f>+1%", 1, &[]);
        check("*>+0%", 5, &["a", "new"]);
        check("*<-1%", 5, &["gone"]);
        check("nothing>+1%", 0, &[]);
    }

    #[test]
    fn a_burst_in_one_window_of_ten_hits_nothing() {
        let in_bursts = |shares: [u64; 10]| {
            let mut all = counts(&[("a", shares.iter().sum()), ("same", 50_000)]);
            let one = |a| windows::Window {
                duration_ns: 1,
                total: 10_000,
                functions: vec![
                    windows::WindowCount { function: 0, own: a, total: a },
                    windows::WindowCount { function: 1, own: 5_000, total: 5_000 },
                ],
            };
            all.windows = shares.map(one).to_vec();
            all
        };
        let rule: Rule = "a>+5%".parse().unwrap();
        let hits = |before, after| rule.judge(&in_bursts(before), &in_bursts(after)).hits.len();
        assert_eq!(hits([1_000; 10], [1_100; 10]), 1);
        let mut burst = [1_000; 10];
        burst[4] = 2_000;
        assert_eq!(hits([1_000; 10], burst), 0);
    }

    #[test]
    fn globs_match_as_a_shell_has_them() {
        let check = |pattern: &str, name: &str, expected: bool| {
            assert_eq!(glob(pattern, name), expected, "{pattern} {name}");
        };
        check("*", "", true);
        check("a*c", "abbc", true);
        check("a*c", "abbd", false);
        check("?", "", false);
        check("*(*keyIndex).get", "mvcc.(*keyIndex).get", true);
        check("mvcc.(*keyIndex).get", "mvcc.(*keyIndex).get", true);
        check("*a*b*", "xxaxxbxx", true);
        check(&"*a".repeat(50), &"a".repeat(5_000), true);
        check("a", "ab", false);
    }
}
