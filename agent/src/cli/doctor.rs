//! `agent doctor`: what of profiling works here, what each missing privilege or setting costs, and the cure.
//!
//! Owns the printing. What is tried and how it is judged is `profile::doctor`; nothing is changed, nothing is kept.

use clap::{Args, ValueEnum};
use profile::doctor::{self, Finding, State};
use serde::Serialize;

use super::check::aligned;
use super::{Ended, Exit, say};

/// Arguments of `agent doctor`.
#[derive(Debug, Args)]
pub(super) struct Doctor {
    /// A table for people, or JSON.
    #[arg(long, value_enum, default_value = "table")]
    output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum Output {
    Table,
    Json,
}

/// All that is printed.
#[derive(Debug, Serialize)]
struct Examined<'a> {
    schema_version: u32,
    /// Whether everything that the daemon's defaults need is there.
    is_well: bool,
    findings: Vec<Row<'a>>,
}

/// One finding.
#[derive(Debug, Serialize)]
struct Row<'a> {
    part: &'static str,
    state: &'static str,
    /// Whether the daemon's defaults need it.
    is_default: bool,
    cause: &'a str,
    /// Empty where all works.
    cure: &'a str,
}

impl Row<'_> {
    fn of(finding: &Finding) -> Row<'_> {
        Row {
            part: finding.part.label(),
            state: finding.state.label(),
            is_default: finding.part.is_default(),
            cause: &finding.cause,
            cure: &finding.cure,
        }
    }
}

/// Exit code 0 when everything that the daemon's defaults need is there, 1 when some of it is not.
pub(super) fn doctor(arguments: &Doctor) -> Ended {
    let findings = doctor::examine();
    let is_well = doctor::is_well(&findings);
    match arguments.output {
        Output::Table => table(&findings, is_well).iter().for_each(|line| say(line)),
        Output::Json => {
            let rows = findings.iter().map(Row::of).collect();
            say(&serde_json::to_string_pretty(&Examined { schema_version: 1, is_well, findings: rows })?);
        }
    }
    Ok(if is_well { Exit::Ok } else { Exit::Failed })
}

/// One line a part, and below it how to mend what is not whole.
fn table(findings: &[Finding], is_well: bool) -> Vec<String> {
    let mut rows = vec![["PART", "STATE", "WHAT IS SO"].map(str::to_owned)];
    rows.extend(findings.iter().map(|finding| {
        let state = match finding.state {
            State::Ok => "ok".to_owned(),
            other => other.label().to_uppercase(),
        };
        [finding.part.label().to_owned(), state, finding.cause.clone()]
    }));
    let mut lines = aligned(&rows);
    let lacking = findings.iter().filter(|finding| finding.state != State::Ok);
    let cures: Vec<String> =
        lacking.map(|finding| format!("{}: {}", finding.part.label(), finding.cure)).collect();
    if !cures.is_empty() {
        lines.push(String::new());
        lines.extend(cures);
    }
    lines.push(String::new());
    lines.push(match is_well {
        true => "Everything that the daemon needs by default is there.".to_owned(),
        false => "The daemon runs, with less than it could by default.".to_owned(),
    });
    lines
}

#[cfg(test)]
mod tests {
    use profile::doctor::{Finding, Part, State};

    use super::table;

    #[test]
    fn a_cure_stands_below_the_table() {
        let ok =
            Finding { part: Part::NodeCpu, state: State::Ok, cause: "all".to_owned(), cure: String::new() };
        let less = Finding {
            part: Part::KernelNames,
            state: State::Degraded,
            cause: "hidden".to_owned(),
            cure: "show them".to_owned(),
        };
        assert_eq!(table(std::slice::from_ref(&ok), true).len(), 4);
        let lines = table(&[ok, less], false);
        assert_eq!(lines[1], "node_cpu      ok        all");
        assert_eq!(lines[2], "kernel_names  DEGRADED  hidden");
        assert_eq!(lines[4], "kernel_names: show them");
        assert!(lines[6].starts_with("The daemon runs, with less"));
    }
}
