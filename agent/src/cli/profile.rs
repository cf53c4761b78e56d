//! `agent profile` (and `agent --profile`): ten seconds of one member, and what the bottleneck is.
//!
//! Owns the order of the work and the exit codes. Reads only; what is missing is said and the rest is told.

mod against;
mod bar;
mod choose;
mod decide;
mod gather;
mod goroutines;
mod heap;
pub(super) mod hot;
mod leaks;
mod out;
mod page;
mod process;
mod recent;
mod report;
mod sampling;
mod slow;
mod subject;
mod waiting;

use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::anyhow;
use clap::Args;
use collectors::clock;
use model::profile::{ProfileSet, Stacks};
use model::scrape::ScrapeOutcome;
use model::time::Clock;
use profile::counts;
use profile::fetch::FetchError;
use profile::perf::attr::Hz;

use super::diff::Rule;
use super::{Ended, Exit, Failure, Source, runtime, tell};
use crate::config::{Config, Loaded, parse_duration};
use crate::run::sources;
use against::{Against, Earlier, Whose};
use gather::{Gathered, Gatherer, Missing};
use out::Out;
use sampling::{Engine, Sampling};
use subject::{Subject, Who};

/// Shorter profiles have too few samples at 100 Hz, longer ones are a way to forget that one is running.
const LENGTHS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(600));
/// How long, where nothing is said.
const LENGTH: Duration = Duration::from_secs(10);

/// Arguments of `agent profile`.
#[derive(Debug, Args)]
pub(super) struct Profile {
    #[command(flatten)]
    source: Source,
    #[command(flatten)]
    who: Who,
    /// How long, whole seconds from 1s to 10m; 10s by default, a command until it ends.
    #[arg(long = "for", value_name = "DURATION", value_parser = length)]
    length: Option<Duration>,
    /// Folder for the files; a dated one in the current directory by default, `-` streams a tar to stdout.
    #[arg(long, value_name = "DIR", allow_hyphen_values = true)]
    out: Option<PathBuf>,
    /// Samples a second of CPU time, 1 to 10000.
    #[arg(long, value_name = "RATE", default_value = "99", value_parser = hz)]
    hz: Hz,
    /// Also what waits, for how long, and where.
    #[arg(long)]
    off_cpu: bool,
    /// Also the heap of a Go process, read from its memory: no endpoint is needed, and nothing but its own profile is looked at.
    #[arg(long)]
    heap: bool,
    /// By what stacks are taken.
    #[arg(long, value_enum, default_value = "auto")]
    engine: Engine,
    /// What was before: a pprof file, a capture's folder, or `last` for what the daemon has kept on this node.
    #[arg(long, value_name = "FILE|last")]
    against: Option<Against>,
    /// Exit with 1 when a function's share of the total changed by more than that, for sure, as in `agent diff`; may be
    /// given again.
    #[arg(long, value_name = "RULE", requires = "against")]
    fail_on: Vec<Rule>,
}

/// What is wanted, whoever it is of.
#[derive(Clone, Copy, Debug)]
struct Wanted<'a> {
    length: Option<Duration>,
    out: Option<&'a Path>,
    sampling: Sampling,
    against: Option<&'a Against>,
    rules: &'a [Rule],
    /// Where the daemon keeps what was before.
    history: &'a Path,
}

impl Wanted<'_> {
    fn earlier(&self, whose: &Whose, clock: &Clock) -> Result<Option<Result<Earlier, String>>, Failure> {
        let find = |against| against::find(against, self.rules, self.history, (whose, clock.now()));
        self.against.map(find).transpose()
    }
}

fn length(text: &str) -> Result<Duration, String> {
    parse_duration(text)
        .filter(|length| (LENGTHS.0..=LENGTHS.1).contains(length) && length.subsec_nanos() == 0)
        .ok_or_else(|| "must be whole seconds from 1s to 10m, e.g. `10s`".to_owned())
}

fn hz(text: &str) -> Result<Hz, String> {
    text.parse().ok().and_then(Hz::new).ok_or_else(|| "must be a whole number from 1 to 10000".to_owned())
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
    let Profile { length, engine, hz, off_cpu, heap, .. } = *arguments;
    let sampling = Sampling { engine, hz, off_cpu, heap };
    let wanted = Wanted {
        length,
        out: arguments.out.as_deref(),
        sampling,
        against: arguments.against.as_ref(),
        rules: &arguments.fail_on,
        history: &config.profiling.history,
    };
    let members = match arguments.who.name() {
        Some(_) => sources::find(config, &[]).await.targets,
        None => Vec::new(),
    };
    match arguments.who.find(|name| members.iter().any(|member| choose::is_named(member, name)))? {
        Subject::Member(name) => member(config, name.as_deref(), &wanted, &clock).await,
        subject => process::run(subject, &wanted, &clock).await,
    }
}

async fn member(config: &Config, name: Option<&str>, wanted: &Wanted<'_>, clock: &Clock) -> Ended {
    let chosen = choose::choose(config, name).await?;
    let target = &chosen.target;
    let endpoint = choose::endpoint(config, target).await?;
    let scraper = choose::scraper(target)?;
    let process = target.pid.map(subject::called);
    let earlier = wanted.earlier(&Whose::Of { pids: target.pid.into_iter().collect(), process }, clock)?;
    let out = Out::prepare(wanted.out, &target.name, clock.now())?;
    let gatherer =
        Gatherer { target, endpoint: endpoint.as_ref(), sampling: wanted.sampling, scraper, clock };
    let seen = gatherer.gather(wanted.length.unwrap_or(LENGTH)).await;
    if let Some(failure) = failure(&chosen, &seen) {
        out.give_up();
        return Err(failure);
    }
    let mut lines = report::lines(&chosen, &seen);
    let (at_first, set) = sets(seen);
    let held = against::hold(earlier, &set, wanted.rules);
    lines.extend(held.lines);
    // What was asked for comes first: one file a kind.
    let before = held.before.or(at_first);
    let files = out.write((before.as_ref(), &set), &format!("etcd {}", target.name), &lines)?;
    if !files.is_empty() {
        lines.push(format!("files: {}", files.join(" ")));
    }
    for line in &lines {
        out.tell(line);
    }
    Ok(if held.is_failed { Exit::Failed } else { Exit::Ok })
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

/// The profiles that came, as exporters take them, and what there was at the window's beginning.
fn sets(seen: Gathered) -> (Option<ProfileSet>, ProfileSet) {
    let engine = if seen.account.is_some() { "perf" } else { "go_pprof" };
    let set = |at, stacks: Vec<Stacks>| {
        let counts = stacks.iter().map(counts::of).collect();
        ProfileSet::new(engine, at, counts, stacks)
    };
    let kinds = [seen.cpu.ok(), seen.off_cpu, seen.heap.ok(), seen.allocated, seen.goroutines.counts.ok()];
    let earlier = seen.goroutines.earlier.map(|stacks| set(stacks.at, vec![stacks]));
    (earlier, set(seen.at, kinds.into_iter().flatten().collect()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_whole_seconds_up_to_ten_minutes_are_taken() {
        let check = |text: &str, expected: Option<u64>| {
            assert_eq!(length(text).ok(), expected.map(Duration::from_secs), "{text}");
        };
        check("10s", Some(10));
        check("1m", Some(60));
        check("10m", Some(600));
        check("601s", None);
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
