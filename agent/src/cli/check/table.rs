//! The table of `agent check`.

use model::board::{BoardMember, BoardSlo};

use super::{Checked, Health, Row, name};
use crate::cli::say;

/// Prints members, then the daemon's objectives and decisions.
pub(super) fn print(checked: &Checked) {
    let mut rows = vec![
        ["MEMBER", "HEALTH", "VERSION", "ROLE", "DB", "READ p50 (n)", "LINEARIZABLE READ p50 / p99 (n)"]
            .map(str::to_owned),
    ];
    rows.extend(checked.members.iter().map(cells));
    for line in aligned(&rows) {
        say(&line);
    }
    for row in checked.members.iter().filter(|row| !row.why.is_empty()) {
        say(&format!("{}: {}", name(&row.member), row.why.join("; ")));
    }
    for warning in &checked.warnings {
        say(&format!("warning: {warning}"));
    }
    say("");
    match (&checked.daemon, &checked.daemon_unknown) {
        (Some(board), _) => {
            for slo in &board.slos {
                say(&objective(slo));
            }
            for decision in &board.decisions {
                say(&format!("{}  {}", decision.state.name().to_uppercase(), decision.evidence.sentence));
            }
        }
        (None, Some(why)) => say(&format!("SLO: unknown ({why})")),
        (None, None) => say("SLO: unknown"),
    }
}

fn cells(row: &Row) -> [String; 7] {
    let health = match row.health {
        Health::Ok => "ok",
        Health::Failing => "FAILING",
        Health::Silent => "SILENT",
    };
    let state = row.member.state.as_ref();
    let or_dash = |text: Option<String>| text.unwrap_or_else(|| "-".to_owned());
    [
        name(&row.member).to_string(),
        health.to_owned(),
        or_dash(state.map(|state| state.version.clone())),
        or_dash(state.map(|state| match (state.leader == state.id, state.learner) {
            (true, _) => "leader".to_owned(),
            (_, true) => "learner".to_owned(),
            _ => "follower".to_owned(),
        })),
        or_dash(state.map(|state| size(state.db_size_bytes))),
        latency(&row.member, "serializable_read", false),
        latency(&row.member, "linearizable_read", true),
    ]
}

fn latency(member: &BoardMember, kind: &str, with_p99: bool) -> String {
    let Some(found) = member.latencies.iter().find(|latency| latency.kind == kind) else {
        return "-".to_owned();
    };
    let told = |seconds: Option<f64>| seconds.map(|seconds| format!("{:.1} ms", seconds * 1_000.0));
    let answered = found.n - found.failed.min(found.n);
    match (told(found.p50_s), told(found.p99_s).filter(|_| with_p99)) {
        (Some(p50), Some(p99)) => format!("{p50} / {p99} ({answered})"),
        (Some(p50), None) => format!("{p50} ({answered})"),
        _ => format!("({answered})"),
    }
}

fn objective(slo: &BoardSlo) -> String {
    let burn = slo.burn_1h.map_or("-".to_owned(), |burn| format!("{burn:.1}"));
    let side = if slo.server_side { ", server side" } else { "" };
    format!(
        "SLO {} {:.2} %: {} ({} of {} bad in 1 h, burn {burn}{side}) {}",
        slo.name,
        slo.target * 100.0,
        slo.state,
        slo.bad,
        slo.total,
        slo.firing.join(" ")
    )
}

fn size(bytes: u64) -> String {
    format!("{:.1} MiB", bytes as f64 / 1_048_576.0)
}

/// Columns as wide as their widest cell.
pub(in crate::cli) fn aligned<const N: usize>(rows: &[[String; N]]) -> Vec<String> {
    let width =
        |column: usize| rows.iter().filter_map(|row| row.get(column)).map(String::len).max().unwrap_or(0);
    let widths: Vec<usize> = (0..N).map(width).collect();
    rows.iter()
        .map(|row| {
            let cells = row.iter().zip(&widths).map(|(cell, width)| format!("{cell:<width$}"));
            cells.collect::<Vec<_>>().join("  ").trim_end().to_owned()
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::aligned;

    #[test]
    fn columns_are_aligned() {
        let rows = [["a", "bb"].map(str::to_owned), ["ccc", "d"].map(str::to_owned)];
        assert_eq!(aligned(&rows), ["a    bb", "ccc  d"]);
    }
}
