//! The tables of `agent diff`.

use model::finding::{FunctionDiff, Proof};

use super::{Compared, Failed, NAMED_MAX, Named, Told};
use crate::cli::opened::{Opened, is_colourful, percent, shown, sureness, taken, title, whole};

const GREW: &str = "\x1b[31m";
const SHRANK: &str = "\x1b[34m";
const STRONG: &str = "\x1b[1m";
const PLAIN: &str = "\x1b[0m";

/// Each kind, what is gone and new, the rules that were hit, and the files.
pub(super) fn lines(told: &Told) -> Vec<String> {
    let mut lines = Vec::new();
    let colourful = is_colourful();
    for of in &told.profiles {
        of_kind(of, colourful, &mut lines);
        lines.push(String::new());
    }
    for Failed { kind, hit } in &told.failed {
        lines.push(format!(
            "FAILED {}: {} {} -> {} of {} ({})",
            hit.rule,
            shown(&hit.function),
            percent(hit.before),
            percent(hit.after),
            exporters::files::word(*kind),
            change(hit.after - hit.before, (hit.low, hit.high))
        ));
    }
    lines.extend(told.files.iter().map(|file| format!("files: {file}")));
    lines
}

fn of_kind(of: &Compared, colourful: bool, lines: &mut Vec<String>) {
    let (before, after) = &of.sides;
    let strong = |text: String| if colourful { format!("{STRONG}{text}{PLAIN}") } else { text };
    lines.push(strong(format!(
        "{}: {} -> {}{}",
        title(&after.counts),
        whole(&before.counts),
        whole(&after.counts),
        grown(before, after)
    )));
    lines.push(format!("before: {}{}", sureness(before), when(before)));
    lines.push(format!("after:  {}{}", sureness(after), when(after)));
    if of.functions.is_empty() {
        lines.push("no function's share changed beyond what sampling explains".to_owned());
    } else {
        lines.push(format!(
            "{:>7} {:>8}  {:>7} {:>8}  {:<28} {:>7}  function",
            "self", "", "total", "", "change of total, 95 %", "q"
        ));
    }
    lines.extend(of.functions.iter().map(|function| row(function, colourful)));
    lines.extend(named("gone", &of.vanished));
    lines.extend(named("new", &of.new));
}

fn when(of: &Opened) -> String {
    taken(&of.stacks).map_or(String::new(), |at| format!(", taken {at}"))
}

/// How much the whole changed: per second where both have a length.
fn grown(before: &Opened, after: &Opened) -> String {
    let value = |of: &Opened| {
        let value = of.counts.total as f64;
        let seconds = of.counts.duration_ns as f64 / 1e9;
        if seconds > 0.0 { value / seconds } else { value }
    };
    let have_length = [before, after].iter().all(|of| of.counts.duration_ns > 0);
    let have_none = [before, after].iter().all(|of| of.counts.duration_ns == 0);
    let (then, now) = (value(before), value(after));
    if then > 0.0 && (have_length || have_none) {
        format!(" ({:+.1} %)", 100.0 * (now / then - 1.0))
    } else {
        String::new()
    }
}

fn row(function: &FunctionDiff, colourful: bool) -> String {
    let FunctionDiff { before, after, own_before, own_after, low, high, q, .. } = *function;
    let told = format!("{:<28}", change(after - before, (low, high)));
    let told = match colourful {
        true if after > before => format!("{GREW}{told}{PLAIN}"),
        true => format!("{SHRANK}{told}{PLAIN}"),
        false => told,
    };
    let q = if q < 0.001 { "< 0.001".to_owned() } else { format!("{q:.3}") };
    let note = if after <= 0.0 {
        " (gone)".to_owned()
    } else if before <= 0.0 {
        " (new)".to_owned()
    } else {
        match &function.proof {
            Proof::Whole => String::new(),
            Proof::OwnTime => " (its own time)".to_owned(),
            Proof::Callee(callee) => format!(" (in {})", shown(callee)),
        }
    };
    format!(
        "{:>7} {:<8}  {:>7} {:<8}  {told} {q:>7}  {}{note}",
        percent(own_before),
        format!("> {}", percent(own_after)),
        percent(before),
        format!("> {}", percent(after)),
        shown(&function.name)
    )
}

fn change(difference: f64, (low, high): (f64, f64)) -> String {
    format!("{:+.2} pp [{:+.2}, {:+.2}]", 100.0 * difference, 100.0 * low, 100.0 * high)
}

fn named(what: &str, list: &[Named]) -> Option<String> {
    if list.is_empty() {
        return None;
    }
    let names: Vec<String> =
        list.iter().take(NAMED_MAX).map(|of| format!("{} {}", shown(&of.name), percent(of.share))).collect();
    let more = list.len().saturating_sub(NAMED_MAX);
    let more = if more > 0 { format!(", and {more} more") } else { String::new() };
    Some(format!("{what}: {}{more}", names.join(", ")))
}
