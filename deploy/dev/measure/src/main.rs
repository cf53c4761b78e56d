//! Measures the agent on a real cluster: what it costs, what etcd feels of it, whether half an hour of ordinary work stays
//! quiet, and what its sampling costs beside other profilers.
//!
//! Everything is read from outside (`/proc`, etcd's own histograms, the agent's page); no figure is printed that was not
//! measured in this run. `MEASURE="cost fsync quiet"` chooses parts, and `MINUTES=` shortens the half hour and the rest with
//! it; `profilers` is measured only when it is named, under the loads in `LOADS="idle storm busy"`.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "progress and tables are this program's output, and it measures with clocks of its own"
)]

mod cost;
mod fsync;
mod maintenance;
mod page;
mod plan;
mod profilers;
mod quiet;
mod receiver;
mod report;
mod soak;
mod stage;
mod usage;
mod workload;

use std::fs;
use std::process::ExitCode;

use anyhow::{Context, Result};

use crate::plan::Plan;
use crate::profilers::Profilers;
use crate::report::Report;
use crate::stage::Stage;

/// The exit code is 0 only if what must stay quiet did.
fn main() -> Result<ExitCode> {
    let plan = Plan::from_environment()?;
    println!("{plan}");
    let dir = stage::prepare()?;
    let mut profilers = plan.profilers.then(|| Profilers::before_etcd(&dir, &plan)).transpose()?;
    let stage = Stage::build(dir)?;
    let mut report = Report::begin(&stage, &plan)?;
    if plan.is_soaked() {
        (report.cost, report.quiet) = soak::run(&stage, &plan)?;
    }
    if plan.fsync {
        report.fsync = Some(fsync::run(&stage, &plan)?);
    }
    if let Some(profilers) = &mut profilers {
        profilers.with_etcd(&stage, &plan)?;
    }
    report.profilers = profilers;
    let file = stage.dir.join("report.json");
    fs::write(&file, serde_json::to_string_pretty(&report)?).context("write the report")?;
    println!("\n{}", report.table());
    let failures = report.failures();
    for what in &failures {
        println!("  NOT TRUE: {what}");
    }
    println!("  report: {}/report.json", stage::DIR);
    Ok(if failures.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
