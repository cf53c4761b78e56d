//! `agent view FILE`: the heaviest functions of a profile here, its flame graph as a page.
//!
//! Owns the tables; bars are for a person at a terminal.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::path::PathBuf;

use clap::Args;
use exporters::files;
use model::profile::{FunctionCount, FunctionCounts, ProfileKind, Stacks};
use serde::Serialize;

use super::opened::{
    self, Kind, Opened, Output, Side, amount, is_colourful, percent, shown, sureness, taken, title, whole,
};
use super::{Ended, Exit, say};

/// Cells of a bar.
const CELLS: usize = 20;
/// Processes that are told.
const PROCESSES_SHOWN: usize = 10;

/// Arguments of `agent view`.
#[derive(Debug, Args)]
pub(super) struct View {
    /// A pprof file, gzipped or plain, or a folder of `agent --profile` or of the daemon.
    file: PathBuf,
    /// Only this kind; all that are in it by default.
    #[arg(long, value_enum)]
    kind: Option<Kind>,
    /// Functions that are shown of each kind.
    #[arg(long, value_name = "N", default_value_t = 20)]
    top: usize,
    /// Order by the function with all it calls, not by itself.
    #[arg(long)]
    by_total: bool,
    /// Writes the flame graph: one page that needs no network.
    #[arg(long, value_name = "FILE")]
    html: Option<PathBuf>,
    /// A table for people, or JSON.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Debug, Serialize)]
struct Told<'a> {
    schema_version: u32,
    file: String,
    profiles: Vec<Shown<'a>>,
}

#[derive(Debug, Serialize)]
struct Shown<'a> {
    kind: ProfileKind,
    /// Nanoseconds, bytes or goroutines.
    total: u64,
    duration_ns: u64,
    samples: u64,
    lost: u64,
    truncated: u64,
    functions: Vec<&'a FunctionCount>,
    /// Value by process, where several are known.
    processes: Vec<(String, i64)>,
}

/// Exit code 0, 65 for what is no profile.
pub(super) fn view(view: &View) -> Ended {
    let all = opened::open(&view.file, Side::Capture, view.kind)?;
    let shown: Vec<Shown<'_>> = all.iter().map(|opened| of(view, opened)).collect();
    match view.output {
        Output::Json => {
            let file = view.file.display().to_string();
            say(&serde_json::to_string_pretty(&Told { schema_version: 1, file, profiles: shown })?);
        }
        Output::Table => all.iter().zip(&shown).for_each(|(opened, shown)| print(opened, shown)),
    }
    if let Some(html) = &view.html {
        let pairs: Vec<(Option<&Stacks>, &Stacks)> =
            all.iter().map(|opened| (None, &opened.stacks)).collect();
        let page = files::flame::page(&view.file.display().to_string(), &pairs)?;
        let path = files::write_one(html, page.into_bytes())?;
        if view.output == Output::Table {
            say(&format!("files: {}", path.display()));
        }
    }
    Ok(Exit::Ok)
}

fn of<'a>(view: &View, Opened { stacks, counts }: &'a Opened) -> Shown<'a> {
    let mut functions: Vec<&FunctionCount> = counts.functions.iter().collect();
    if view.by_total {
        functions.sort_by_key(|function| (Reverse(function.total), Reverse(function.own)));
    } else {
        functions.retain(|function| function.own > 0);
        functions.sort_by_key(|function| (Reverse(function.own), Reverse(function.total)));
    }
    functions.truncate(view.top);
    Shown {
        kind: counts.kind,
        total: counts.total,
        duration_ns: stacks.duration_ns,
        samples: counts.samples,
        lost: stacks.losses.lost,
        truncated: stacks.losses.truncated,
        functions,
        processes: processes(stacks),
    }
}

/// By name and pid, the heaviest first; none where one process is all there is.
fn processes(stacks: &Stacks) -> Vec<(String, i64)> {
    let mut by_name: BTreeMap<(&str, u32), i64> = BTreeMap::new();
    for sample in stacks.samples.iter().filter(|_| !stacks.owners.is_empty()) {
        let owner = usize::try_from(sample.owner).ok().and_then(|at| stacks.owners.get(at));
        let key = owner.map_or(("unknown", 0), |owner| (owner.process.as_str(), owner.pid));
        let value = by_name.entry(key).or_insert(0);
        *value = value.saturating_add(sample.value);
    }
    let mut list: Vec<_> =
        by_name.into_iter().map(|((name, pid), value)| (format!("{} ({pid})", shown(name)), value)).collect();
    list.sort_by_key(|(_, value)| Reverse(*value));
    list
}

fn print(opened: &Opened, of: &Shown<'_>) {
    let counts = &opened.counts;
    let at = taken(&opened.stacks).map_or(String::new(), |at| format!(", taken {at}"));
    say(&format!("{}: {}, {}{at}", title(counts), whole(counts), sureness(opened)));
    let colourful = is_colourful();
    if !of.functions.is_empty() {
        say(&format!("{:>7} {:>10} {:>7} {:>10}  function", "self", "", "total", ""));
    }
    for function in &of.functions {
        say(&row(counts, function, colourful));
    }
    if !of.processes.is_empty() {
        say("by process:");
    }
    for (process, value) in of.processes.iter().take(PROCESSES_SHOWN) {
        let value = u64::try_from(*value).unwrap_or(0);
        say(&format!("{:>7} {:>10}  {process}", percent(share(value, counts)), amount(counts, value)));
    }
    say("");
}

fn row(counts: &FunctionCounts, function: &FunctionCount, colourful: bool) -> String {
    let bar = if colourful {
        bar(share(function.own, counts), share(function.total, counts))
    } else {
        String::new()
    };
    format!(
        "{:>7} {:>10} {:>7} {:>10}  {bar}{}",
        percent(share(function.own, counts)),
        amount(counts, function.own),
        percent(share(function.total, counts)),
        amount(counts, function.total),
        shown(&function.name)
    )
}

/// Own value full, the rest of the total light.
fn bar(own: f64, total: f64) -> String {
    let cells = |share: f64| (share.clamp(0.0, 1.0) * CELLS as f64).round() as usize;
    let (own, total) = (cells(own), cells(total));
    let light = total.saturating_sub(own);
    format!(
        "\x1b[33m{}\x1b[2m{}\x1b[0m{} ",
        "█".repeat(own),
        "░".repeat(light),
        " ".repeat(CELLS.saturating_sub(own + light))
    )
}

fn share(value: u64, counts: &FunctionCounts) -> f64 {
    value as f64 / counts.total.max(1) as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_has_one_width() {
        for (own, total) in [(0.0, 0.0), (0.5, 0.7), (1.0, 1.0), (2.0, 3.0)] {
            let cells = bar(own, total).chars().filter(|c| "█░ ".contains(*c)).count();
            assert_eq!(cells, CELLS + 1);
        }
    }
}
