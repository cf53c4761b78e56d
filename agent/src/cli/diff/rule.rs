//! Rules that make `agent diff` fail: `FUNCTION>+5%`, `FUNCTION<-2pp`.
//!
//! Owns their grammar and when one is hit. The figure is the function's share of the total, itself and all it calls: `%` is
//! relative to the share before, `pp` are points of share. A change that sampling alone could have made hits nothing.

use std::str::FromStr;

use model::profile::{FunctionCount, FunctionCounts};
use serde::Serialize;

use crate::cli::profile::hot::short;

/// Two-sided 95 % of the normal distribution.
const Z: f64 = 1.959_963_984_540_054;

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
        let mut judged = Judged::default();
        let is_new = |function: &&FunctionCount| find(before, &function.name).is_none();
        let names =
            before.functions.iter().chain(after.functions.iter().filter(is_new)).map(|f| f.name.as_str());
        for name in names.filter(|name| glob(&self.glob, name) || glob(&self.glob, short(name))) {
            judged.matched += 1;
            let share = |counts| find(counts, name).map_or(0.0, |f| ratio(f.total, counts.total));
            let (then, now) = (share(before), share(after));
            let (low, high) = interval((then, before.samples), (now, after.samples));
            if self.is_hit((then, now), (low, high)) {
                let (rule, function) = (self.text.clone(), name.to_owned());
                judged.hits.push(Hit { rule, function, before: then, after: now, low, high });
            }
        }
        judged
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

fn find<'a>(counts: &'a FunctionCounts, name: &str) -> Option<&'a FunctionCount> {
    let at = counts.functions.binary_search_by(|function| function.name.as_str().cmp(name)).ok()?;
    counts.functions.get(at)
}

fn ratio(value: u64, of: u64) -> f64 {
    if of == 0 { 0.0 } else { (value as f64 / of as f64).min(1.0) }
}

/// 95 % interval of a difference of shares, each (share, n): Newcombe's, of two Wilson intervals (1998, method 10).
fn interval((before, before_n): (f64, u64), (after, after_n): (f64, u64)) -> (f64, f64) {
    if before_n == 0 || after_n == 0 {
        return (-1.0, 1.0);
    }
    let ((low_1, high_1), (low_2, high_2)) = (wilson(before, before_n), wilson(after, after_n));
    let difference = after - before;
    (difference - (after - low_2).hypot(high_1 - before), difference + (high_2 - after).hypot(before - low_1))
}

fn wilson(share: f64, n: u64) -> (f64, f64) {
    let n = n as f64;
    let centre = (share + Z * Z / (2.0 * n)) / (1.0 + Z * Z / n);
    let half = Z / (1.0 + Z * Z / n) * (share * (1.0 - share) / n + Z * Z / (4.0 * n * n)).sqrt();
    ((centre - half).max(0.0), (centre + half).min(1.0))
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
    use model::profile::ProfileKind;

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
