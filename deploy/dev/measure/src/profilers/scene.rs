//! What runs while profilers are compared: nothing, a busy node, or a storm of short processes.
//!
//! Owns the two programs of deploy/dev/measure/spin, and how much they get done. etcd and its workload are the stage's.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use harness::etcd::tools;
use harness::process::{Process, wait_until};
use serde::Serialize;

use super::stacks::Known;
use crate::stage::Stage;

/// Short processes a second: a node whose probes, hooks and scripts start some hundreds is in trouble, but not rare.
const STORM_RATE: u32 = 400;

/// Until a program has told what it did for the first time.
const START_MAX: Duration = Duration::from_secs(10);

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Load {
    /// Nothing but the measuring.
    Idle,
    /// So many processes a second that end at once.
    Storm,
    /// Three members of etcd with their workload, and both CPUs taken by two programs with known callers.
    Busy,
}

impl Load {
    /// Those that `words` names; all where it names none.
    pub(crate) fn chosen(words: &str) -> Result<Vec<Load>> {
        let all = [Load::Idle, Load::Storm, Load::Busy];
        let named = |word: &str| {
            let found = all.into_iter().find(|load| format!("{load:?}").to_lowercase() == word);
            found.with_context(|| format!("LOADS names {word:?}; there are idle, storm and busy"))
        };
        let words = words.split([' ', ',']).filter(|word| !word.is_empty());
        let chosen: Vec<Load> = words.map(named).collect::<Result<_>>()?;
        Ok(if chosen.is_empty() { all.to_vec() } else { chosen })
    }

    /// For people.
    pub(crate) fn told(self) -> String {
        match self {
            Load::Idle => "an idle node".to_owned(),
            Load::Storm => format!("a storm of {STORM_RATE} short processes a second"),
            Load::Busy => "both CPUs busy: three members of etcd, two programs with known callers".to_owned(),
        }
    }

    fn programs(self) -> Vec<(&'static str, Vec<String>)> {
        match self {
            Load::Idle => Vec::new(),
            Load::Storm => vec![("spin-native", vec!["storm".to_owned(), STORM_RATE.to_string()])],
            Load::Busy => vec![("spin-go", Vec::new()), ("spin-native", vec!["spin".to_owned()])],
        }
    }
}

/// It, while it runs.
#[derive(Debug)]
pub(super) struct Scene<'a> {
    /// Which.
    pub(super) load: Load,
    /// etcd, where it is part of it.
    pub(super) stage: Option<&'a Stage>,
    /// Whom a profiler of single processes is set on.
    pub(super) programs: Vec<Program>,
}

/// One of the programs, running.
#[derive(Debug)]
pub(super) struct Program {
    process: Process,
    output: PathBuf,
}

/// What a program says that it has done since its start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Done {
    times: u64,
    took_ns: u64,
    at_ns: u64,
}

impl<'a> Scene<'a> {
    /// Starts it; `stage` is for a busy node.
    pub(super) fn begin(load: Load, dir: &Path, stage: Option<&'a Stage>) -> Result<Scene<'a>> {
        let start = |(name, arguments): (&str, Vec<String>)| Program::start(name, &arguments, dir);
        let programs = load.programs().into_iter().map(start).collect::<Result<_>>()?;
        Ok(Scene { load, stage, programs })
    }

    /// Those whose callers are known; a storm's are not asked for.
    pub(super) fn known(&self) -> Result<Vec<Known>> {
        let programs = self.programs.iter().filter(|_| self.load == Load::Busy);
        programs.map(Program::known).collect()
    }

    /// What each program has done so far.
    pub(super) fn done(&self) -> Result<Vec<Done>> {
        self.programs.iter().map(|program| program.done()?.context("a program says nothing")).collect()
    }
}

impl Program {
    fn start(name: &str, arguments: &[String], dir: &Path) -> Result<Program> {
        let binary = tools().join("bin").join(name);
        ensure!(binary.is_file(), "no {name} in .tools: run `make measure MEASURE=profilers`");
        let output = dir.join(name);
        let mut command = Command::new(binary);
        command.args(arguments).stdin(Stdio::null());
        command.stdout(File::create(&output).with_context(|| format!("create {}", output.display()))?);
        let program = Program { process: Process::spawn(name, command)?, output };
        wait_until(&format!("{name} to begin"), START_MAX, || program.done())?;
        Ok(program)
    }

    /// Its process.
    pub(super) fn pid(&self) -> u32 {
        self.process.pid()
    }

    fn known(&self) -> Result<Known> {
        let mut known = Known { pid: self.process.pid(), ..Known::default() };
        fs::read_to_string(&self.output)?.lines().for_each(|line| known.read(line));
        Ok(known)
    }

    fn done(&self) -> Result<Option<Done>> {
        Ok(last(&fs::read_to_string(&self.output)?))
    }
}

/// The last whole line.
fn last(output: &str) -> Option<Done> {
    let (whole, _) = output.rsplit_once('\n')?;
    let line = whole.lines().next_back()?;
    let mut numbers = line.split(' ').map(str::parse);
    let mut next = || numbers.next()?.ok();
    Some(Done { times: next()?, took_ns: next()?, at_ns: next()? })
}

/// How often a second, by the program's own clock.
pub(super) fn rate(before: Done, after: Done) -> Option<f64> {
    let passed_ns = after.at_ns.checked_sub(before.at_ns).filter(|passed| *passed > 0)?;
    Some(after.times.saturating_sub(before.times) as f64 * 1e9 / passed_ns as f64)
}

/// How long one took on average, microseconds; `None` where none was timed.
pub(super) fn each_us(before: Done, after: Done) -> Option<f64> {
    let times = after.times.checked_sub(before.times).filter(|times| *times > 0)?;
    let took_ns = after.took_ns.checked_sub(before.took_ns).filter(|took| *took > 0)?;
    Some(took_ns as f64 / times as f64 / 1e3)
}

#[cfg(test)]
mod tests {
    use super::{Done, Load, each_us, last, rate};

    #[test]
    fn loads_are_chosen_by_their_names() {
        assert_eq!(Load::chosen("busy, idle").unwrap(), [Load::Busy, Load::Idle]);
        assert_eq!(Load::chosen(" ").unwrap().len(), 3);
        Load::chosen("bussy").unwrap_err();
    }

    #[test]
    fn the_last_whole_line_counts() {
        let done = Done { times: 3, took_ns: 4, at_ns: 5 };
        assert_eq!(last("function churn 12\n1 0 2\n3 4 5\n6 7"), Some(done));
        assert_eq!(last("function churn 12\n"), None);
        assert_eq!(last("1 2 3"), None);
    }

    #[test]
    fn rates_are_by_the_programs_clock() {
        let (before, after) = (
            Done { times: 10, took_ns: 0, at_ns: 1_000_000_000 },
            Done { times: 30, took_ns: 40_000, at_ns: 3_000_000_000 },
        );
        assert_eq!((rate(before, after), each_us(before, after)), (Some(10.0), Some(2.0)));
        assert_eq!((rate(before, before), each_us(before, before)), (None, None));
    }
}
