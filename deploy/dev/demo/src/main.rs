//! The demo, three processes in one binary: the driver that tells the story, the deployer that acts on signals, the client that misbehaves.
//!
//! Nothing here knows how the agent works: it starts real parts and measures from outside.
#![expect(
    clippy::print_stdout,
    clippy::disallowed_methods,
    clippy::indexing_slicing,
    reason = "the narrative is this program's output, it measures with a clock of its own, and a JSON value indexed by a missing key is null"
)]

mod client;
mod deployer;
mod drive;
mod ids;
mod report;

use clap::{Parser, Subcommand};

/// Runs the whole story when no part is named.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    part: Option<Part>,
}

#[derive(Debug, Subcommand)]
enum Part {
    /// The service "orders" in one of its revisions.
    Client(client::Arguments),
    /// Starts revisions of "orders", and puts the last good one back when a signed signal says so.
    Deployer(deployer::Arguments),
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> anyhow::Result<std::process::ExitCode> {
    match Arguments::parse().part {
        Some(Part::Client(arguments)) => client::run(arguments).await?,
        Some(Part::Deployer(arguments)) => deployer::run(arguments).await?,
        None => return drive::run().await,
    }
    Ok(std::process::ExitCode::SUCCESS)
}
