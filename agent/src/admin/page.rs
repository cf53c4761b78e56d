//! The status page: the board for eyes. No script, nothing from elsewhere; tables carry every figure, colour carries none.

use std::fmt::Write as _;

use jiff::Timestamp;
use model::board::{Board, BoardMember};
use model::finding::{Cause, Conclusion, Finding, FunctionDiff, Lane};
use model::time::SECOND_NS;
use model::verdict::Decision;

/// Findings shown, newest first; the rest is in `/verdict`.
const FINDINGS_SHOWN: usize = 20;

/// The style sheet, a path of its own so that the policy can refuse inline styles.
pub(super) const STYLE: &str = "\
:root { color-scheme: light dark; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 72rem; margin: 2rem auto; padding: 0 1rem; }
table { border-collapse: collapse; width: 100%; margin-bottom: 2rem; }
caption { text-align: left; font-weight: bold; font-size: 1.1rem; padding: .3rem 0; }
th, td { text-align: left; vertical-align: top; padding: .25rem .8rem .25rem 0; border-bottom: 1px solid #8886; overflow-wrap: break-word; }
td.n { font-variant-numeric: tabular-nums; }
";

/// The page. Everything that came from outside passes through [`escape`].
pub(super) fn render(board: &Board, tick_age_ns: Option<u64>) -> String {
    let mut html = String::with_capacity(16 * 1024);
    html.push_str(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">\
         <meta name=\"viewport\" content=\"width=device-width\"><meta http-equiv=\"refresh\" content=\"5\">\
         <title>Backburn</title><link rel=\"stylesheet\" href=\"/page.css\"></head><body><h1>Backburn</h1>",
    );
    let age = match tick_age_ns {
        Some(age_ns) => format!("Last tick {}, {:.1} s ago.", time(board.at.wall_ns), seconds(age_ns)),
        None => "The engine has not ticked yet.".to_owned(),
    };
    let version = env!("CARGO_PKG_VERSION");
    put(
        &mut html,
        format_args!(
            "<p>{age} Version {version}. <a href=\"/verdict\">verdict as JSON</a>, <a href=\"/metrics\">metrics</a></p>"
        ),
    );
    sentences(&mut html, "Warnings", &board.warnings);
    sentences(&mut html, "Excused, last 10 min", &board.excused);
    decisions(&mut html, board);
    slos(&mut html, board);
    members(&mut html, board);
    findings(&mut html, board);
    losses(&mut html, board);
    html.push_str("</body></html>\n");
    html
}

/// One sentence a row; nothing is shown where there is none.
fn sentences(html: &mut String, title: &str, sentences: &[String]) {
    let rows: Vec<Vec<String>> = sentences.iter().map(|sentence| vec![sentence.clone()]).collect();
    if !rows.is_empty() {
        table(html, title, &["What"], rows);
    }
}

fn decisions(html: &mut String, board: &Board) {
    let row = |decision: &std::sync::Arc<Decision>| {
        let mode = if decision.dry_run { "dry run" } else { "live" };
        vec![
            decision.target.clone(),
            decision.revision.clone(),
            decision.state.name().to_owned(),
            time(decision.since.wall_ns),
            mode.to_owned(),
            decision.evidence.sentence.clone(),
        ]
    };
    let rows = board.decisions.iter().map(row).collect();
    table(html, "Decisions", &["Target", "Revision", "State", "Since", "Mode", "Why"], rows);
}

fn slos(html: &mut String, board: &Board) {
    let burn = |burn: Option<f64>| burn.map_or_else(|| "no traffic".to_owned(), |burn| format!("{burn:.2}"));
    let rows = board.slos.iter().map(|slo| {
        vec![
            if slo.server_side { format!("{} (server side)", slo.name) } else { slo.name.clone() },
            format!("{}", slo.target),
            slo.state.clone(),
            format!("{} of {}", slo.bad, slo.total),
            burn(slo.burn_5m),
            burn(slo.burn_1h),
            slo.firing.join(", "),
        ]
    });
    let head = ["Objective", "Target", "State", "Bad, last hour", "Burn 5 min", "Burn 1 h", "Firing"];
    table(html, "Objectives", &head, rows.collect());
}

fn members(html: &mut String, board: &Board) {
    let rows = board.members.iter().map(member).collect();
    let head = ["Member", "Endpoint", "Version", "Scrape", "Role", "Database", "Probes, last 5 min"];
    table(html, "Members", &head, rows);
}

fn member(member: &BoardMember) -> Vec<String> {
    let endpoint = member.origin.member.as_ref().map_or("", |known| known.endpoint.as_str());
    let up = match member.up {
        Some(true) => "up",
        Some(false) => "down",
        None => "not scraped",
    };
    let (version, role, database) = match &member.state {
        None => ("unknown".to_owned(), "unknown", String::new()),
        Some(state) => {
            let role = match (state.learner, state.leader == state.id) {
                (true, _) => "learner",
                (false, true) => "leader",
                (false, false) if state.leader == 0 => "no leader",
                (false, false) => "follower",
            };
            (state.version.clone(), role, format!("{} MiB", state.db_size_bytes >> 20))
        }
    };
    let quantile = |name: &str, seconds: Option<f64>| {
        seconds.map_or_else(String::new, |value| format!(", {name} {:.1} ms", value * 1e3))
    };
    let probes: Vec<String> = member
        .latencies
        .iter()
        .map(|latency| {
            let (p50, p99) = (quantile("p50", latency.p50_s), quantile("p99", latency.p99_s));
            let failed =
                if latency.failed > 0 { format!(", {} failed", latency.failed) } else { String::new() };
            format!("{} ({}{failed}){p50}{p99}", latency.kind, latency.n)
        })
        .collect();
    vec![
        member.origin.member_name().to_owned(),
        endpoint.to_owned(),
        version,
        up.to_owned(),
        role.to_owned(),
        database,
        probes.join("; "),
    ]
}

fn findings(html: &mut String, board: &Board) {
    let row = |finding: &Finding| {
        vec![
            time(finding.at.wall_ns),
            finding.conclusion.kind().to_owned(),
            finding.origin.member_name().to_owned(),
            describe(&finding.conclusion),
        ]
    };
    let rows = board.findings.iter().rev().take(FINDINGS_SHOWN).map(row).collect();
    table(html, "Last findings", &["At", "Kind", "Member", "What"], rows);
}

fn describe(conclusion: &Conclusion) -> String {
    match conclusion {
        Conclusion::Regression(found) => {
            let cause = found.cause.as_ref().map_or(String::new(), |cause| format!(", put down to {cause}"));
            let verb = match (found.open, &found.ended) {
                (true, _) => "left its baseline",
                (false, None) => "came back",
                (false, Some(_)) => "is no longer judged",
            };
            let (before, after, unit) = (found.before.value, found.after.value, &found.unit);
            let ended = found.ended.as_ref().map_or(String::new(), |ended| format!(", closed: {ended}"));
            format!("{} {verb}: {before:.4} → {after:.4} {unit}{cause}{ended}", found.metric)
        }
        Conclusion::Burn(burn) => {
            let lane = match &burn.lane {
                Lane::Tier { name, .. } => name.clone(),
                Lane::Change { target, revision } => format!("change window of {target} {revision}"),
            };
            let verb = if burn.firing { "burns" } else { "stopped burning" };
            format!(
                "{} {verb} ({lane}): {:.1} and {:.1}, {} of {} bad",
                burn.slo, burn.burn_long, burn.burn_short, burn.bad, burn.total
            )
        }
        Conclusion::ProfileDiff(diff) => {
            let top = diff.functions.iter().take(3);
            let share = |of: f64| of * 100.0;
            let top: Vec<String> = top
                .map(|one| {
                    let (before, after) = (share(one.before), share(one.after));
                    format!("{} {before:.1} → {after:.1} %{}", one.name, remark(one))
                })
                .collect();
            format!("{:?} of {}: {}", diff.kind, diff.target, top.join(", "))
        }
        Conclusion::CaptureFailed(failed) => {
            format!("{}: {} {}", failed.target, failed.reason, failed.detail)
        }
        Conclusion::Verdict(verdict) => {
            let decision = &verdict.decision;
            format!("{} {}: {}", decision.target, decision.state.name(), decision.evidence.sentence)
        }
        Conclusion::Alarm(alarm) => match &alarm.ended {
            Some(ended) => format!("over ({ended}): {}", alarm.sentence),
            None => alarm.sentence.clone(),
        },
        Conclusion::CallTree(tree) => format!("{} spans", tree.spans.len()),
        Conclusion::Edge(edge) => format!("{} → {} {}", edge.caller, edge.callee, edge.operation),
    }
}

/// What keeps a row from being taken for a regression.
fn remark(row: &FunctionDiff) -> &'static str {
    match row.cause {
        Cause::Moved => " (moved)",
        Cause::Runtime => " (runtime)",
        Cause::Load => " (load)",
        Cause::Itself | Cause::Callee if row.went_away => " (gone again)",
        Cause::Itself | Cause::Callee => "",
    }
}

fn losses(html: &mut String, board: &Board) {
    let row = |(metric, reason, count): &(String, String, u64)| {
        vec![metric.clone(), reason.clone(), count.to_string()]
    };
    let rows = board.losses.iter().map(row).collect();
    table(html, "Losses", &["What", "Reason", "Count"], rows);
}

fn table(html: &mut String, caption: &str, head: &[&str], rows: Vec<Vec<String>>) {
    put(html, format_args!("<table><caption>{caption}</caption><thead><tr>"));
    for name in head {
        put(html, format_args!("<th scope=\"col\">{name}</th>"));
    }
    html.push_str("</tr></thead><tbody>");
    if rows.is_empty() {
        put(html, format_args!("<tr><td colspan=\"{}\">none</td></tr>", head.len()));
    }
    for row in rows {
        html.push_str("<tr>");
        for cell in row {
            html.push_str("<td class=\"n\">");
            escape(html, &cell);
            html.push_str("</td>");
        }
        html.push_str("</tr>");
    }
    html.push_str("</tbody></table>");
}

fn put(html: &mut String, text: std::fmt::Arguments<'_>) {
    // Writing to a String cannot fail.
    let _written = html.write_fmt(text);
}

fn escape(html: &mut String, text: &str) {
    for c in text.chars() {
        match c {
            '&' => html.push_str("&amp;"),
            '<' => html.push_str("&lt;"),
            '>' => html.push_str("&gt;"),
            '"' => html.push_str("&quot;"),
            '\'' => html.push_str("&#39;"),
            _ => html.push(c),
        }
    }
}

fn time(wall_ns: u64) -> String {
    let second = wall_ns / SECOND_NS;
    let second = i64::try_from(second).unwrap_or(i64::MAX);
    Timestamp::from_second(second).unwrap_or(Timestamp::UNIX_EPOCH).to_string()
}

#[expect(clippy::as_conversions, reason = "an age for people, one digit after the point")]
fn seconds(ns: u64) -> f64 {
    ns as f64 / SECOND_NS as f64
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use model::board::{Board, BoardMember};
    use model::origin::{MemberRef, Origin};
    use model::time::Stamp;
    use model::verdict::{Decision, Evidence, State};

    use super::render;

    #[test]
    fn what_came_from_outside_cannot_write_html() {
        let evil = "<script>alert('1')</script>\"&";
        let member = MemberRef { id: None, name: evil.to_owned(), endpoint: evil.to_owned() };
        let origin = Arc::new(Origin { cluster_id: None, node: evil.to_owned(), member: Some(member) });
        let board = Board {
            at: Stamp { mono_ns: 1, wall_ns: 1_700_000_000_000_000_000 },
            members: vec![BoardMember { origin, ..BoardMember::default() }],
            decisions: vec![Arc::new(Decision {
                target: evil.to_owned(),
                epoch: 0,
                revision: evil.to_owned(),
                state: State::Rollback,
                since: Stamp::default(),
                valid_until_ns: 0,
                dry_run: true,
                evidence: Evidence::assemble(evil.to_owned()),
            })],
            warnings: vec![format!("warned {evil}")],
            excused: vec![format!("excused {evil}")],
            losses: vec![(evil.to_owned(), evil.to_owned(), 1)],
            ..Board::default()
        };
        let page = render(&board, Some(1_500_000_000));
        assert!(!page.contains("<script") && !page.contains("alert('"), "{page}");
        assert!(page.contains("&lt;script&gt;") && page.contains("dry run"));
        assert!(page.contains("<caption>Warnings</caption>") && page.contains("warned &lt;script&gt;"));
        assert!(page.contains("Last tick 2023-11-14T22:13:20Z, 1.5 s ago."));
        // Nothing is fetched from elsewhere.
        assert!(!page.contains("http://") && !page.contains("https://") && !page.contains("//cdn"));
    }

    #[test]
    fn an_agent_that_just_started_says_so() {
        let page = render(&Board::default(), None);
        assert!(page.contains("The engine has not ticked yet.") && page.contains(">none<"));
        assert!(!page.contains("Warnings"));
    }
}
