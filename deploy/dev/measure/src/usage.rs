//! What `/proc` says of a process: CPU time, memory, threads, descriptors.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use serde::Serialize;

/// Ticks a second in `/proc/PID/stat`: USER_HZ, 100 on every Linux that we run on.
const USER_HZ: f64 = 100.0;

/// One reading.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize)]
pub(crate) struct Usage {
    /// In user mode since its start, seconds.
    pub(crate) user_s: f64,
    /// In the kernel since its start, seconds.
    pub(crate) system_s: f64,
    /// Resident now, MiB.
    pub(crate) rss_mib: f64,
    /// Most it has ever had resident, MiB.
    pub(crate) rss_peak_mib: f64,
    /// Resident now with shared pages divided among those who share them, MiB.
    pub(crate) pss_mib: f64,
    /// Threads.
    pub(crate) threads: u64,
    /// Open descriptors.
    pub(crate) fds: u64,
}

impl Usage {
    /// Reads it all.
    pub(crate) fn of(pid: u32) -> Result<Usage> {
        let dir = directory(pid);
        let (user_s, system_s) = cpu(&dir)?;
        let read = |name: &str| fs::read_to_string(dir.join(name)).with_context(|| format!("read {name}"));
        let (status, rollup) = (read("status")?, read("smaps_rollup")?);
        Ok(Usage {
            user_s,
            system_s,
            rss_mib: mib(&status, "VmRSS:")?,
            rss_peak_mib: mib(&status, "VmHWM:")?,
            pss_mib: mib(&rollup, "Pss:")?,
            threads: field(&status, "Threads:")?,
            fds: fs::read_dir(dir.join("fd")).context("list descriptors")?.count() as u64,
        })
    }

    /// User and system.
    pub(crate) fn cpu_s(&self) -> f64 {
        self.user_s + self.system_s
    }
}

/// CPU seconds of a process alone.
pub(crate) fn cpu_s(pid: u32) -> Result<f64> {
    cpu(&directory(pid)).map(|(user_s, system_s)| user_s + system_s)
}

fn directory(pid: u32) -> PathBuf {
    Path::new("/proc").join(pid.to_string())
}

fn cpu(dir: &Path) -> Result<(f64, f64)> {
    let stat = fs::read_to_string(dir.join("stat")).context("read stat")?;
    ticks(&stat)
        .map(|(user, system)| (user / USER_HZ, system / USER_HZ))
        .context("stat is not as proc(5) says")
}

/// Fields 14 and 15 of proc(5), counted behind the name, which may itself hold blanks and brackets.
fn ticks(stat: &str) -> Option<(f64, f64)> {
    let (_, behind) = stat.rsplit_once(')')?;
    let mut fields = behind.split_whitespace().skip(11);
    Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
}

fn field(text: &str, name: &str) -> Result<u64> {
    let line = text.lines().find_map(|line| line.strip_prefix(name));
    let value = line.and_then(|rest| rest.split_whitespace().next()).with_context(|| format!("no {name}"))?;
    value.parse().with_context(|| format!("{name} is {value}"))
}

/// A number of KiB in one of /proc's tables.
pub(crate) fn mib(text: &str, name: &str) -> Result<f64> {
    field(text, name).map(|kib| kib as f64 / 1_024.0)
}

#[cfg(test)]
mod tests {
    use super::{Usage, ticks};

    #[test]
    fn ticks_are_found_behind_any_name() {
        let stat = "7 (a) b) S 1 2 3 4 5 6 7 8 9 10 250 125 0 0 20";
        assert_eq!(ticks(stat), Some((250.0, 125.0)));
        assert_eq!(ticks("7 (torn) S 1"), None);
    }

    #[test]
    fn this_process_has_memory_threads_and_descriptors() {
        let usage = Usage::of(std::process::id()).unwrap();
        assert!(
            usage.pss_mib > 0.0 && usage.pss_mib <= usage.rss_peak_mib && usage.rss_mib > 0.0,
            "{usage:?}"
        );
        assert!(usage.threads >= 1 && usage.fds >= 3, "{usage:?}");
    }
}
