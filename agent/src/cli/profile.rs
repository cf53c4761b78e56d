//! `agent profile` (and `agent --profile`): ten seconds of one member, and what the bottleneck is.
//!
//! Owns the order of the work and the exit codes. Reads only; what is missing is said and the rest is told.

mod bar;
mod choose;
mod decide;
mod gather;
pub(super) mod hot;
mod out;
mod page;
mod report;
mod slow;
mod waiting;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use collectors::clock;
use model::profile::ProfileSet;
use model::scrape::ScrapeOutcome;
use profile::counts;
use profile::fetch::FetchError;

use super::{Ended, Exit, Failure, Source, runtime, tell};
use crate::config::{Config, Loaded, parse_duration};
use bar::Bar;
use gather::{Gathered, Gatherer, Missing};
use out::Out;

/// Shorter profiles have too few samples at 100 Hz, longer ones are a way to forget that one is running.
const LENGTHS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// Arguments of `agent profile`.
#[derive(Debug, Args)]
pub(super) struct Profile {
    #[command(flatten)]
    source: Source,
    /// The member, by its name or `host:port`; by default the only local one, else the leader among the local ones.
    #[arg(long, value_name = "MEMBER")]
    name: Option<String>,
    /// How long, whole seconds from 1s to 60s.
    #[arg(long = "for", value_name = "DURATION", default_value = "10s", value_parser = length)]
    length: Duration,
    /// Folder for the files; a dated one in the current directory by default, `-` streams a tar to stdout.
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    out: Option<PathBuf>,
}

fn length(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|length| (LENGTHS.0..=LENGTHS.1).contains(length) && length.subsec_nanos() == 0)
        .ok_or_else(|| "must be whole seconds from 1s to 60s, e.g. `10s`".to_owned())
}

/// Exit code 0 with a report, with or without profiles; 69 when nobody answers, 77 when not permitted.
pub(super) fn profile(arguments: &Profile) -> Ended {
    let Loaded { config, problems, .. } = crate::config::load(&arguments.source);
    for problem in &problems {
        tell(&problem.to_string());
    }
    if !problems.is_empty() {
        return Err(Failure::new(Exit::Config, anyhow!("{} problems in the configuration", problems.len())));
    }
    runtime()?.block_on(run(&config, arguments))
}

async fn run(config: &Config, arguments: &Profile) -> Ended {
    let clock = clock::system();
    let chosen = choose::choose(config, arguments.name.as_deref()).await?;
    let target = &chosen.target;
    let endpoint = choose::endpoint(config, target).await?;
    let scraper = choose::scraper(target)?;
    let out = Out::prepare(arguments.out.as_deref(), &target.name, clock.now())?;
    let gatherer = Gatherer { target, endpoint: endpoint.as_ref(), scraper, clock: &clock };
    let seen = gatherer.gather(arguments.length, Bar::on_terminal(&target.name)).await;
    if let Some(failure) = failure(&chosen, &seen) {
        out.give_up();
        return Err(failure);
    }
    let mut lines = report::lines(&chosen, &seen);
    let set = set(seen);
    let files = out.write(&set, &format!("etcd {}", target.name), &lines)?;
    if !files.is_empty() {
        lines.push(format!("files: {}", files.join(" ")));
    }
    for line in &lines {
        out.tell(line);
    }
    Ok(Exit::Ok)
}

/// Why there is nothing to report at all.
fn failure(chosen: &choose::Chosen, seen: &Gathered) -> Option<Failure> {
    let up =
        [&seen.pages.0, &seen.pages.1].into_iter().flatten().any(|page| page.outcome == ScrapeOutcome::Up);
    match &seen.cpu {
        Err(Missing::Fetch(error @ FetchError::NotPermitted(_))) => {
            Some(choose::refused(&chosen.target, &format!("its pprof endpoint says: {error}")))
        }
        // A TLS server that wants a client certificate says so with an alert, in the middle of things.
        Err(Missing::Fetch(FetchError::Unreachable(why) | FetchError::Torn(why)))
            if wants_certificate(why) =>
        {
            Some(choose::refused(&chosen.target, &format!("it asks for a client certificate: {why}")))
        }
        Err(missing) if !up && !seen.interrupted => {
            let error = anyhow!("member {} does not answer: {missing}{}", chosen.target.name, scraped(seen));
            Some(Failure::new(Exit::TargetDown, error))
        }
        _ => None,
    }
}

fn wants_certificate(why: &str) -> bool {
    why.contains("CertificateRequired")
        || why.contains("BadCertificate")
        || why.contains("certificate required")
}

fn scraped(seen: &Gathered) -> String {
    match seen.pages.1.as_ref().map(|page| &page.outcome) {
        Some(ScrapeOutcome::Down { reason, detail }) => format!("; its metrics page: {reason} ({detail})"),
        Some(ScrapeOutcome::Up) | None => String::new(),
    }
}

/// The profiles that came, as exporters take them.
fn set(seen: Gathered) -> ProfileSet {
    let stacks: Vec<_> = [seen.cpu, seen.heap, seen.goroutines].into_iter().filter_map(Result::ok).collect();
    let counts = stacks.iter().map(counts::of).collect();
    ProfileSet { at: seen.at, engine: "go_pprof".to_owned(), counts, stacks: Arc::new(stacks) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_seconds_up_to_a_minute_are_taken() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(length(text).ok(), expected.map(Duration::from_secs), "{text}");
        };
        check("10s", Some(10));
        check("1m", Some(60));
        check("61s", None);
        check("0s", None);
        check("1.5s", None);
        check("10", None);
    }

    #[test]
    fn a_refused_handshake_is_a_missing_privilege() {
        assert!(wants_certificate("received fatal alert: CertificateRequired"));
        assert!(!wants_certificate("Connection refused (os error 111)"));
    }
}
