//! The command line: one file a subcommand, one exit code a kind of trouble.

mod again;
mod boost;
mod check;
mod diff;
mod doctor;
mod mark;
mod opened;
mod profile;
mod replay;
mod run;
mod validate;
mod verb;
mod view;

use std::ffi::OsString;
use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};

/// How a command ended, as sysexits has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Exit {
    /// All is well.
    Ok,
    /// The check failed, or a replay differs.
    Failed,
    /// The command line does not say enough.
    Usage,
    /// The data is not what it should be.
    Data,
    /// The target does not answer.
    TargetDown,
    /// A bug of ours, or of the machine.
    Software,
    /// A privilege is missing.
    Privilege,
    /// The configuration is wrong.
    Config,
    /// As a command ended that was run for somebody.
    Command(u8),
}

impl Exit {
    fn code(self) -> u8 {
        match self {
            Exit::Ok => 0,
            Exit::Failed => 1,
            Exit::Usage => 2,
            Exit::Data => 65,
            Exit::TargetDown => 69,
            Exit::Software => 70,
            Exit::Privilege => 77,
            Exit::Config => 78,
            Exit::Command(code) => code,
        }
    }
}

/// A command's failure: the exit code and what to tell.
#[derive(Debug)]
pub(crate) struct Failure {
    /// Exit code.
    pub(crate) exit: Exit,
    /// Told once, on stderr.
    pub(crate) error: anyhow::Error,
}

impl Failure {
    /// A failure of that kind.
    pub(crate) fn new(exit: Exit, error: impl Into<anyhow::Error>) -> Failure {
        Failure { exit, error: error.into() }
    }
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Failure {
        Failure::new(Exit::Software, error)
    }
}

/// What a command gives back.
pub(crate) type Ended = Result<Exit, Failure>;

/// Watches etcd: metrics, client latency, logs and profiles in; regressions, SLO burn and rollback signals out.
#[derive(Debug, Parser)]
#[command(name = "agent", version, disable_help_subcommand = true)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Watch the etcd members of this node, for ever.
    Run(Source),
    /// Members, versions, health, latency and SLO state; exit code 1 when a member fails.
    Check(check::Check),
    /// What of profiling works here, what each missing privilege or setting costs, and the cure; exit code 1 when less works
    /// than the daemon uses by default.
    Doctor(doctor::Doctor),
    /// Read the configuration, print where each value comes from, and every problem.
    Validate(Source),
    /// Profile the local etcd for 10 s and say what the bottleneck is (also `agent --profile`).
    Profile(profile::Profile),
    /// Compare two profiles: which functions take more or less, beyond what sampling explains.
    Diff(diff::Diff),
    /// Show a profile: its heaviest functions here, its flame graph as a page.
    View(view::View),
    /// Tell the running agent that something was changed on purpose.
    Mark(mark::Mark),
    /// Let the running agent probe its members faster for a while.
    Boost(boost::Boost),
    /// Like `run`, and write down all that was seen and concluded.
    Record(run::Record),
    /// Draw the conclusions of a recording again and hold them against it.
    Replay(replay::Replay),
    /// Version, and the formats it reads and writes.
    Version,
}

/// Where the configuration comes from.
#[derive(Clone, Debug, Default, Args)]
pub(crate) struct Source {
    /// Configuration file; may be given again, later files override keys of earlier ones. Without one the agent finds etcd by itself.
    #[arg(long = "config", value_name = "FILE")]
    pub(crate) files: Vec<PathBuf>,
}

/// Runs the command line and gives the exit code; prints the failure, if there is one, once.
#[must_use]
pub fn main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    let arguments = Arguments::try_parse_from(spelled_out(arguments));
    let ended = match arguments {
        Ok(Arguments { command }) => dispatch(command),
        Err(error) => {
            // clap's own exit codes: 0 for help and version, 2 for usage. A closed pipe changes neither.
            error.print().ok();
            return ExitCode::from(u8::try_from(error.exit_code()).unwrap_or(2));
        }
    };
    match ended {
        Ok(exit) => ExitCode::from(exit.code()),
        Err(failure) => {
            tell(&format!("agent: {:#}", failure.error));
            ExitCode::from(failure.exit.code())
        }
    }
}

/// `agent --profile …` is `agent profile …`.
fn spelled_out(arguments: impl IntoIterator<Item = OsString>) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = arguments.into_iter().collect();
    if let Some(first) = arguments.get_mut(1)
        && first == "--profile"
    {
        *first = "profile".into();
    }
    arguments
}

fn dispatch(command: Command) -> Ended {
    match command {
        Command::Run(source) => run::run(&source, None),
        Command::Check(check) => check::check(&check),
        Command::Doctor(arguments) => doctor::doctor(&arguments),
        Command::Validate(source) => validate::validate(&source),
        Command::Profile(arguments) => profile::profile(&arguments),
        Command::Diff(diff) => diff::diff(&diff),
        Command::View(view) => view::view(&view),
        Command::Mark(mark) => mark::mark(&mark),
        Command::Boost(boost) => boost::boost(&boost),
        Command::Record(record) => run::run(&record.source, Some(&record.file)),
        Command::Replay(replay) => replay::replay(&replay),
        Command::Version => {
            say(&format!("agent {}", env!("CARGO_PKG_VERSION")));
            say(&format!("recording: format {}", crate::recording::VERSION));
            say(&format!("state: version {}, of this agent alone", crate::state::VERSION));
            say("OTLP profiles: v1development, as in protocol 1.10");
            say("pprof: profile.proto, with or without gzip");
            Ok(Exit::Ok)
        }
    }
}

/// One line of data, on stdout. A closed pipe ends nothing: the exit code is the answer then.
pub(crate) fn say(line: &str) {
    writeln!(std::io::stdout().lock(), "{line}").ok();
}

/// One line for the person, on stderr.
pub(crate) fn tell(line: &str) {
    writeln!(std::io::stderr().lock(), "{line}").ok();
}

/// One current-thread runtime: the work that could fill a second core sits in blocking threads.
pub(crate) fn runtime() -> Result<tokio::runtime::Runtime, Failure> {
    Ok(tokio::runtime::Builder::new_current_thread().enable_all().build()?)
}
