//! Processes that started not long ago: what changed on a node is often one of them.

use std::cmp::Reverse;
use std::fs;

use collectors::host::parse;

/// A day.
const RECENT_S: f64 = 86_400.0;
/// Named on the line; the rest is counted.
const SHOWN: usize = 5;
/// Processes looked at: what a full node runs.
const PROCESSES_MAX: usize = 32_768;
/// Clock ticks a second in /proc, the same on every Linux that runs here (`USER_HZ`).
const TICKS_PER_SECOND: f64 = 100.0;

#[derive(Clone, Debug, PartialEq)]
struct Recent {
    name: String,
    pid: u32,
    age_s: f64,
    cpu_ticks: u64,
}

/// One line; those that used most CPU are named.
pub(super) fn line() -> Option<String> {
    let uptime = fs::read_to_string("/proc/uptime").ok()?;
    let up_s: f64 = uptime.split_ascii_whitespace().next()?.parse().ok()?;
    let entries = fs::read_dir("/proc").ok()?.flatten().take(PROCESSES_MAX);
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    let ours = std::process::id();
    let recent = pids.filter(|pid| *pid != ours).filter_map(|pid| one(pid, up_s)).collect();
    Some(told(recent, up_s))
}

fn one(pid: u32, up_s: f64) -> Option<Recent> {
    let stat = parse::pid_stat(&String::from_utf8_lossy(&fs::read(format!("/proc/{pid}/stat")).ok()?))?;
    let age_s = (up_s - stat.started_ticks as f64 / TICKS_PER_SECOND).max(0.0);
    // Threads of the kernel have no program.
    let is_program = || fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| !line.is_empty());
    let recent = Recent { name: stat.name, pid, age_s, cpu_ticks: stat.cpu_ticks };
    (age_s <= RECENT_S && is_program()).then_some(recent)
}

fn told(mut recent: Vec<Recent>, up_s: f64) -> String {
    let since = if up_s < RECENT_S { "since the node started" } else { "in the last 24 h" };
    recent.sort_by_key(|one| (Reverse(one.cpu_ticks), one.pid));
    let shown = |one: &Recent| format!("{} (pid {}, {} ago)", plain(&one.name), one.pid, age(one.age_s));
    let named: Vec<String> = recent.iter().take(SHOWN).map(shown).collect();
    let more = recent.len().saturating_sub(SHOWN);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    match named.is_empty() {
        true => format!("processes started {since}: none"),
        false => format!("processes started {since}: {}{more}", named.join(", ")),
    }
}

fn plain(name: &str) -> String {
    name.chars().filter(|c| !c.is_control()).collect()
}

fn age(seconds: f64) -> String {
    match seconds {
        s if s < 60.0 => format!("{s:.0} s"),
        s if s < 3_600.0 => format!("{:.0} min", s / 60.0),
        s => format!("{:.1} h", s / 3_600.0),
    }
}

#[cfg(test)]
mod tests {
    use super::{RECENT_S, Recent, line, told};

    #[test]
    fn the_busiest_of_them_are_named() {
        let process =
            |pid: u32, age_s: f64| Recent { name: format!("p{pid}"), pid, age_s, cpu_ticks: pid.into() };
        let recent = (1..=7).map(|pid| process(pid, 50.0 * f64::from(pid * pid))).collect();
        let expected = "processes started in the last 24 h: p7 (pid 7, 41 min ago), p6 (pid 6, 30 min ago), \
                        p5 (pid 5, 21 min ago), p4 (pid 4, 13 min ago), p3 (pid 3, 8 min ago) and 2 more";
        assert_eq!(told(recent, 2.0 * RECENT_S), expected);
        assert_eq!(told(Vec::new(), 100.0), "processes started since the node started: none");
        let few = told(vec![process(1, 7_300.0), process(2, 3.0)], RECENT_S);
        assert!(few.ends_with("p2 (pid 2, 3 s ago), p1 (pid 1, 2.0 h ago)"), "{few}");
    }

    #[test]
    fn this_node_is_looked_at() {
        assert!(line().is_some_and(|line| line.starts_with("processes started ")));
    }
}
