//! `agent diff A B`: two profiles, and which functions take more or less of them beyond what sampling explains.
//!
//! Owns the order of the work, the exit codes and what is written. The comparison is the engine's own; shares say nothing
//! of a uniform slow-down, so the totals stand first.

mod rule;
mod table;

use std::path::PathBuf;

use anyhow::{Context, anyhow};
use clap::Args;
use exporters::files;
use model::finding::FunctionDiff;
use model::profile::{FunctionCounts, ProfileKind};
use processors::diff::compare;
use serde::Serialize;

use super::opened::{self, Kind, Opened, Output, Side};
use super::{Ended, Exit, Failure, say, tell};
use rule::Hit;
pub(super) use rule::Rule;

/// Functions that are gone, or new, and told by name.
const NAMED_MAX: usize = 10;
/// Smaller ones are sampling's coming and going: a thousandth of the total.
const NAMED_SHARE: f64 = 0.001;

/// Arguments of `agent diff`.
#[derive(Debug, Args)]
pub(super) struct Diff {
    /// The earlier profile: a pprof file, gzipped or plain, or a folder of `agent --profile` or of the daemon.
    before: PathBuf,
    /// The later one. Without it, the first must be a capture's folder that holds its own baseline.
    after: Option<PathBuf>,
    /// Only this kind; all that both have by default.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Exit with 1 when a function's share of the total changed by more than that, for sure: `mvcc.*>+5%` (of its share
    /// before), `*.Range<-2pp` (points of share). `*` and `?` in names; may be given again.
    #[arg(long, value_name = "RULE")]
    fail_on: Vec<Rule>,
    /// Folder for `flame.html`, both profiles as one graph.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// A table for people, or JSON.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

/// All that is told.
#[derive(Debug, Serialize)]
struct Told {
    schema_version: u32,
    before: String,
    after: String,
    profiles: Vec<Compared>,
    failed: Vec<Failed>,
    files: Vec<String>,
}

/// One kind of both.
#[derive(Debug, Serialize)]
struct Compared {
    kind: ProfileKind,
    before: Whole,
    after: Whole,
    /// What changed beyond noise, largest change first.
    functions: Vec<FunctionDiff>,
    /// In the earlier profile alone, and in the later one alone: largest share first.
    vanished: Vec<Named>,
    new: Vec<Named>,
    #[serde(skip)]
    sides: (Opened, Opened),
}

/// One side as a whole.
#[derive(Debug, Serialize)]
struct Whole {
    /// Nanoseconds, bytes or goroutines.
    total: u64,
    duration_ns: u64,
    samples: u64,
    lost: u64,
    truncated: u64,
}

#[derive(Debug, Serialize)]
struct Named {
    name: String,
    share: f64,
}

/// A rule that was hit.
#[derive(Debug, Serialize)]
struct Failed {
    kind: ProfileKind,
    #[serde(flatten)]
    hit: Hit,
}

/// Exit code 0, 1 when a rule is hit, 65 for what is no profile, 2 where there is nothing to compare with.
pub(super) fn diff(diff: &Diff) -> Ended {
    let (before, after) = match &diff.after {
        Some(after) => (
            opened::open(&diff.before, Side::Capture, diff.kind)?,
            opened::open(after, Side::Capture, diff.kind)?,
        ),
        None if diff.before.is_dir() => (
            opened::open(&diff.before, Side::Before, diff.kind)?,
            opened::open(&diff.before, Side::Capture, diff.kind)?,
        ),
        None => {
            return Err(Failure::new(
                Exit::Usage,
                anyhow!("{} and what? a later profile must be named", diff.before.display()),
            ));
        }
    };
    let profiles = compared(before, after);
    if profiles.is_empty() {
        return Err(Failure::new(Exit::Data, anyhow!("the two have no kind of profile in common")));
    }
    let failed = judged(&diff.fail_on, &profiles);
    let later = diff.after.as_ref().unwrap_or(&diff.before);
    let mut told = Told {
        schema_version: 1,
        before: diff.before.display().to_string(),
        after: later.display().to_string(),
        profiles,
        failed,
        files: Vec::new(),
    };
    if let Some(out) = &diff.out {
        told.files.push(page(&told, out)?);
    }
    match diff.output {
        Output::Json => say(&serde_json::to_string_pretty(&told)?),
        Output::Table => table::lines(&told).iter().for_each(|line| say(line)),
    }
    Ok(if told.failed.is_empty() { Exit::Ok } else { Exit::Failed })
}

/// The same of a capture that was just taken: what is told of it, and whether a rule was hit; `None` where the two have no kind
/// in common.
pub(super) fn held(before: Vec<Opened>, after: Vec<Opened>, rules: &[Rule]) -> Option<(Vec<String>, bool)> {
    let profiles = compared(before, after);
    if profiles.is_empty() {
        return None;
    }
    let failed = judged(rules, &profiles);
    let is_failed = !failed.is_empty();
    let (before, after) = (String::new(), String::new());
    let told = Told { schema_version: 1, before, after, profiles, failed, files: Vec::new() };
    Some((table::lines(&told), is_failed))
}

fn compared(before: Vec<Opened>, mut after: Vec<Opened>) -> Vec<Compared> {
    let mut all = Vec::new();
    for then in before {
        let Some(at) = after.iter().position(|now| now.counts.kind == then.counts.kind) else { continue };
        let now = after.swap_remove(at);
        all.push(Compared {
            kind: now.counts.kind,
            before: whole(&then),
            after: whole(&now),
            functions: compare(&then.counts, &now.counts),
            vanished: only_in(&then.counts, &now.counts),
            new: only_in(&now.counts, &then.counts),
            sides: (then, now),
        });
    }
    all
}

fn whole(opened: &Opened) -> Whole {
    let Opened { stacks, counts } = opened;
    Whole {
        total: counts.total,
        duration_ns: stacks.duration_ns,
        samples: counts.samples,
        lost: stacks.losses.lost,
        truncated: stacks.losses.truncated,
    }
}

/// Functions of one side that the other has not, the heaviest.
fn only_in(one: &FunctionCounts, other: &FunctionCounts) -> Vec<Named> {
    let is_there =
        |name: &str| other.functions.binary_search_by(|known| known.name.as_str().cmp(name)).is_ok();
    let share = |total: u64| total as f64 / one.total.max(1) as f64;
    let mut alone: Vec<Named> = one
        .functions
        .iter()
        .filter(|function| share(function.total) >= NAMED_SHARE && !is_there(&function.name))
        .map(|function| Named { name: function.name.clone(), share: share(function.total) })
        .collect();
    alone.sort_by(|a, b| b.share.total_cmp(&a.share).then_with(|| a.name.cmp(&b.name)));
    alone
}

fn judged(rules: &[Rule], profiles: &[Compared]) -> Vec<Failed> {
    let mut failed = Vec::new();
    for rule in rules {
        let mut matched = 0;
        for Compared { kind, sides: (before, after), .. } in profiles {
            let judged = rule.judge(&before.counts, &after.counts);
            matched += judged.matched;
            failed.extend(judged.hits.into_iter().map(|hit| Failed { kind: *kind, hit }));
        }
        if matched == 0 {
            // A name that is misspelt would pass for ever.
            tell(&format!("--fail-on {}: no function of that name in either profile", rule.text()));
        }
    }
    failed
}

/// Writes the page and gives its path.
fn page(told: &Told, out: &std::path::Path) -> Result<String, Failure> {
    let pairs: Vec<_> =
        told.profiles.iter().map(|of| (Some(&of.sides.0.stacks), &of.sides.1.stacks)).collect();
    let html = files::flame::page(&format!("{} against {}", told.after, told.before), &pairs)?;
    std::fs::create_dir_all(out).with_context(|| format!("make {}", out.display()))?;
    let path = files::write_one(&out.join("flame.html"), html.into_bytes())?;
    Ok(path.display().to_string())
}
