//! What is told of one window, line by line. Owns the layout of the report and what makes up its first line.

mod goroutines;
mod waits;

use std::collections::BTreeMap;

use model::host::HostFact;
use model::profile::{FunctionCount, FunctionCounts, Stacks};
use profile::counts;
use profile::fetch::FetchError;
use profile::kernel::Account;

use super::choose::Chosen;
use super::decide::{self, Signs, cores, duration, percent, size};
use super::gather::{Gathered, Missing, process};
use super::hot::{self, Work, short};
use super::page::Pages;
use super::recent;

pub(super) use waits::off_cpu;

/// Functions that are shown of the CPU profile: what fits on a screen with the rest.
const CPU_SHOWN: usize = 10;
/// Functions of the heap, stacks of goroutines.
const OTHERS_SHOWN: usize = 5;
/// Frames of a goroutine stack, the innermost that are not the runtime's.
const FRAMES_SHOWN: usize = 3;

/// All lines; the first is the answer.
pub(super) fn lines(chosen: &Chosen, seen: &Gathered) -> Vec<String> {
    let pages = Pages::new(seen.pages.0.as_ref(), seen.pages.1.as_ref());
    let signs = signs(chosen, seen, &pages);
    let decision = decide::decide(&signs);
    let mut lines = vec![match &seen.cpu {
        Ok(_) => decision.line,
        Err(missing) => format!("{}; {}", without(missing), decision.line),
    }];
    lines.extend(decision.also.iter().map(|also| format!("also: {also}")));
    lines.push(member(chosen, seen, &pages));
    lines.extend(server(chosen, seen, (&pages, &signs)));
    lines.extend(node((seen.node.0.as_ref(), seen.node.1.as_ref()), seen.window_ns));
    if let Ok(stacks) = &seen.cpu {
        lines.extend(cpu(stacks, signs.garbage.as_ref().map(|hot| hot.share), seen.account.as_deref()));
    }
    lines.extend(
        seen.off_cpu.iter().flat_map(|waits| off_cpu(waits, seen.window_ns, seen.account.as_deref())),
    );
    lines.extend(seen.account.iter().flat_map(|account| self::account(account)));
    if let Some(refusal) = &seen.refused {
        lines.push(format!("not sampled by the kernel: {refusal}; cure: {}", refusal.cure()));
    }
    match &seen.heap {
        Ok(stacks) => lines.extend(heap(stacks)),
        Err(missing) => lines.push(format!("heap: not captured ({missing})")),
    }
    lines.extend(seen.allocated.iter().flat_map(allocated));
    match &seen.goroutines.counts {
        Ok(_) => lines.extend(goroutines::lines(&seen.goroutines)),
        Err(_) => lines.push(match pages.now("go_goroutines") {
            Some(n) => format!("goroutines: {n:.0} (stacks not captured)"),
            None => "goroutines: not known".to_owned(),
        }),
    }
    lines.push(cost(seen));
    lines.extend(recent::line());
    lines
}

/// Why there is no CPU profile, for the first line.
fn without(missing: &Missing) -> String {
    match missing {
        Missing::Interrupted => "interrupted, no CPU profile".to_owned(),
        Missing::Fetch(FetchError::NoEndpoint) | Missing::NoAddress => {
            "no CPU profile: no pprof endpoint (etcd serves one with --enable-pprof)".to_owned()
        }
        missing => format!("no CPU profile: {missing}"),
    }
}

fn signs(chosen: &Chosen, seen: &Gathered, pages: &Pages<'_>) -> Signs {
    let window_s = seconds(seen.window_ns);
    let (before, after) = (seen.node.0.as_ref(), seen.node.1.as_ref());
    let spent = before.zip(after).and_then(|(before, after)| Spent::between(before, after));
    // The kernel's account in 10 ms steps, of exactly the window; the page's counter for a member elsewhere.
    let local = chosen.target.pid.and_then(|pid| {
        let (before, after) = (process(before?, pid)?, process(after?, pid)?);
        let same = before.started_ticks == after.started_ticks;
        same.then(|| seconds(after.cpu_ns.saturating_sub(before.cpu_ns)))
    });
    let used_s = local.or_else(|| pages.grown("process_cpu_seconds_total"));
    let by_profile = || {
        let counts = counts::of(seen.cpu.as_ref().ok()?);
        Some(seconds(counts.total) / seconds(counts.duration_ns).max(0.001))
    };
    // GOMAXPROCS is told by newer versions only; it is what the Go runtime may use.
    let allowed = pages.now("go_sched_gomaxprocs_threads");
    let on_node = after.map(|fact| f64::from(fact.cpus));
    let pause_s = pages
        .gained("etcd_debugging_mvcc_db_compaction_pause_duration_milliseconds")
        .map(|(_, milliseconds)| milliseconds / 1_000.0);
    let share = |work| seen.cpu.as_ref().ok().and_then(|stacks| hot::share(stacks, work));
    Signs {
        who: String::new(),
        window_s,
        cores: match (allowed, on_node) {
            (Some(allowed), Some(on_node)) => Some(allowed.min(on_node)),
            (allowed, on_node) => allowed.or(on_node),
        },
        used: used_s.map(|used| used / window_s.max(0.001)).or_else(by_profile),
        steal: spent.as_ref().map(|spent| spent.steal),
        node_busy: spent.as_ref().map(|spent| spent.busy),
        waited: seen.waited_ns.map(|waited| seconds(waited) / window_s.max(0.001)),
        memory_available: after.map(|fact| fact.memory_available_bytes),
        fsync: pages.p99("etcd_disk_wal_fsync_duration_seconds"),
        commit: pages.p99("etcd_disk_backend_commit_duration_seconds"),
        compaction_pause: pause_s.map(|pause| pause / window_s.max(0.001)),
        range: share(Work::Range),
        compaction: share(Work::Compaction),
        garbage: share(Work::Garbage),
        slow_ranges: seen.slow.as_ref().map(super::slow::Slow::ranges),
    }
}

/// Where the node's CPU time went, as shares.
pub(super) struct Spent {
    pub(super) busy: f64,
    pub(super) steal: f64,
    iowait: f64,
}

impl Spent {
    pub(super) fn between(before: &HostFact, after: &HostFact) -> Option<Spent> {
        let grown = |of: fn(&HostFact) -> u64| of(after).saturating_sub(of(before)) as f64;
        let (idle, iowait) = (grown(|fact| fact.cpu.idle_ns), grown(|fact| fact.cpu.iowait_ns));
        let steal = grown(|fact| fact.cpu.steal_ns);
        let busy = grown(|fact| fact.cpu.user_ns) + grown(|fact| fact.cpu.system_ns) + steal;
        let all = busy + idle + iowait;
        (all > 0.0).then(|| Spent { busy: busy / all, steal: steal / all, iowait: iowait / all })
    }
}

fn member(chosen: &Chosen, seen: &Gathered, pages: &Pages<'_>) -> String {
    let target = &chosen.target;
    let version = pages.label("etcd_server_version", "server_version");
    let version = version.map_or(String::new(), |version| format!(", etcd {version}"));
    let address = target.client_url.as_ref().or(target.metrics_url.as_ref());
    let address = address.map_or(String::new(), |address| format!(" at {address}"));
    let cut = if seen.interrupted { ", interrupted" } else { "" };
    let window = seconds(seen.window_ns);
    format!("member {} ({}{version}){address}, {window:.1} s{cut}", target.name, chosen.why)
}

fn server(chosen: &Chosen, seen: &Gathered, (pages, signs): (&Pages<'_>, &Signs)) -> Vec<String> {
    let unknown = || "not known".to_owned();
    let p99 = |p99: Option<decide::P99>| p99.map_or_else(|| "no observation".to_owned(), decide::P99::told);
    let mut cpu = signs.used.map_or_else(unknown, |used| format!("{} used", cores(used)));
    if let Some(of) = signs.cores {
        cpu += &format!(" (it may use {of:.0})");
    }
    if let Some(waited) = signs.waited {
        cpu += &format!(", waited for {}", cores(waited));
    }
    let rss = pages.now("process_resident_memory_bytes").map_or_else(unknown, |bytes| size(bytes as u64));
    let garbage = pages
        .gained("go_gc_duration_seconds")
        .map_or_else(unknown, |(cycles, paused)| format!("cycles {cycles:.0}, paused {}", duration(paused)));
    let applies = pages.grown("etcd_server_slow_apply_total");
    let applies = applies.map_or(String::new(), |n| format!("; slow applies by etcd's counter: {n:.0}"));
    let slow = match (&seen.slow, &chosen.target.log_file) {
        (Some(slow), _) => slow.told(),
        (None, Some(file)) => format!("the member's log {} is not readable", file.display()),
        (None, None) => "the member's log is not known".to_owned(),
    };
    let mut lines = Vec::new();
    if pages.now("process_resident_memory_bytes").is_none() {
        lines.push("metrics: the member's page did not come".to_owned());
    }
    lines.push(format!("CPU {cpu}, RSS {rss}, GC {garbage}"));
    lines.push(format!("WAL fsync p99 {}, backend commit p99 {}", p99(signs.fsync), p99(signs.commit)));
    lines.push(format!("slow lines: {slow}{applies}"));
    lines
}

pub(super) fn node(
    (before, after): (Option<&HostFact>, Option<&HostFact>),
    window_ns: u64,
) -> Option<String> {
    let (before, after) = (before?, after?);
    let spent = Spent::between(before, after)?;
    let busy_ms = |disk: &model::host::Disk| {
        let same = before.disks.iter().find(|known| known.name == disk.name)?;
        Some(disk.busy_ms.saturating_sub(same.busy_ms))
    };
    let busiest = after.disks.iter().filter_map(|disk| Some((busy_ms(disk)?, &disk.name))).max();
    let disk = busiest.map_or(String::new(), |(busy, name)| {
        format!(", disk {name} busy {}", percent((busy as f64 * 1e6 / window_ns.max(1) as f64).min(1.0)))
    });
    Some(format!(
        "node: {} CPUs {} busy, steal {}, iowait {}{disk}, {} available",
        after.cpus,
        percent(spent.busy),
        percent(spent.steal),
        percent(spent.iowait),
        size(after.memory_available_bytes)
    ))
}

/// The functions that ran, and how they were sampled.
pub(super) fn cpu(stacks: &Stacks, garbage: Option<f64>, account: Option<&Account>) -> Vec<String> {
    let counts = counts::of(stacks);
    let (total, length) = (seconds(counts.total), seconds(counts.duration_ns));
    let garbage =
        garbage.map_or(String::new(), |share| format!(", {} in garbage collection", percent(share)));
    let by =
        account.map_or(String::new(), |account| format!(" at {} Hz by the kernel", account.statistics.hz));
    let mut lines =
        vec![format!("CPU profile: samples {}{by}, {total:.2} s in {length:.1} s{garbage}", counts.samples)];
    let row = |function: &FunctionCount| {
        let share = |value: u64| percent(value as f64 / counts.total.max(1) as f64);
        format!(
            "{:>7} {:>6.2} s {:>7} {:>6.2} s  {}",
            share(function.own),
            seconds(function.own),
            share(function.total),
            seconds(function.total),
            shown(&function.name)
        )
    };
    if counts.total > 0 {
        lines.push(format!("{:>7} {:>8} {:>7} {:>8}  function", "self", "", "total", ""));
    }
    lines.extend(top(&counts, CPU_SHOWN).map(row));
    let widest = widest(&counts, OTHERS_SHOWN);
    if !widest.is_empty() {
        lines.push("of etcd's own, by total:".to_owned());
        lines.extend(widest.into_iter().map(row));
    }
    lines
}

/// Who took the time, where it was more than one.
pub(super) fn processes(stacks: &Stacks) -> Vec<String> {
    let mut shares: BTreeMap<(u32, &str), i64> = BTreeMap::new();
    for sample in &stacks.samples {
        let owner = usize::try_from(sample.owner).ok().and_then(|at| stacks.owners.get(at));
        let key = owner.map_or((0, "(not known)"), |owner| (owner.pid, owner.process.as_str()));
        let share = shares.entry(key).or_insert(0);
        *share = share.saturating_add(sample.value);
    }
    if shares.len() < 2 {
        return Vec::new();
    }
    let total = shares.values().sum::<i64>().max(1) as f64;
    let mut shares: Vec<_> = shares.into_iter().collect();
    shares.sort_by_key(|(who, value)| (std::cmp::Reverse(*value), *who));
    let more = shares.len().saturating_sub(OTHERS_SHOWN);
    let mut lines = vec![format!("by process, {} of them:", shares.len())];
    lines.extend(shares.iter().take(OTHERS_SHOWN).map(|((pid, name), value)| {
        let (share, time) = (percent(*value as f64 / total), seconds(u64::try_from(*value).unwrap_or(0)));
        format!("{share:>7} {time:>8.2} s  {} (pid {pid})", shown(name))
    }));
    if more > 0 {
        let rest: i64 = shares.iter().skip(OTHERS_SHOWN).map(|(_, value)| *value).sum();
        lines.push(format!("{:>7} {:>8} of {more} more", percent(rest as f64 / total), ""));
    }
    lines
}

/// What was lost, cut or has no name.
pub(super) fn account(account: &Account) -> Vec<String> {
    let (seen, naming) = (&account.statistics, &account.naming);
    let share =
        |part: u64, of: u64| if of == 0 { "none".to_owned() } else { percent(part as f64 / of as f64) };
    let kernel = match account.abilities.is_kernel_seen {
        true => format!("{} of the kernel's", share(naming.kernel_named, naming.kernel)),
        false => "the kernel is not seen".to_owned(),
    };
    let mut lost = vec![
        ("lost", seen.lost),
        ("cut at the root", seen.truncated),
        ("without a process", seen.unattributed),
    ];
    lost.extend([
        ("throttled", seen.throttled),
        ("malformed", seen.malformed),
        ("without room", account.overflow),
    ]);
    lost.retain(|(what, n)| *n > 0 || *what == "lost");
    let lost: Vec<String> = lost.iter().map(|(what, n)| format!("{what} {n}")).collect();
    let named = share(naming.user_named, naming.user);
    let mut lines =
        vec![format!("sure of it: {}; names for {named} of the programs' frames, {kernel}", lost.join(", "))];
    lines.extend(
        account
            .waiting_refused
            .as_ref()
            .map(|refusal| format!("waiting is not seen: {refusal}; cure: {}", refusal.cure())),
    );
    lines
}

/// etcd's functions that most time lies below, without what every request passes through.
fn widest(counts: &FunctionCounts, n: usize) -> Vec<&FunctionCount> {
    let passed = ["Handler", "nterceptor", ".func", "ChainUnary", "etcdmain."];
    let is_own =
        |name: &str| name.starts_with("go.etcd.io/") && !passed.iter().any(|part| name.contains(part));
    let own = counts.functions.iter().filter(|function| function.total > 0 && is_own(&function.name));
    let mut functions: Vec<_> = own.collect();
    functions.sort_by_key(|function| std::cmp::Reverse(function.total));
    functions.truncate(n);
    functions
}

/// What is in use.
pub(super) fn heap(stacks: &Stacks) -> Vec<String> {
    let total = size(counts::of(stacks).total);
    by_size(stacks, format!("heap in use: {total} (as of the last garbage collection)"))
}

/// What was asked for in the window, freed since or not.
pub(super) fn allocated(stacks: &Stacks) -> Vec<String> {
    by_size(stacks, format!("allocated meanwhile: {}", size(counts::of(stacks).total)))
}

fn by_size(stacks: &Stacks, head: String) -> Vec<String> {
    let counts = counts::of(stacks);
    let mut lines = vec![head];
    for function in top(&counts, OTHERS_SHOWN) {
        let share = percent(function.own as f64 / counts.total.max(1) as f64);
        lines.push(format!("{share:>7} {:>10}  {}", size(function.own), shown(&function.name)));
    }
    lines
}

fn cost(seen: &Gathered) -> String {
    let own = seen.own_cpu_ns.map_or("not known".to_owned(), |own| format!("{:.2} s", seconds(own)));
    let mut calls = Vec::new();
    match (&seen.cpu, &seen.account) {
        (Ok(_), Some(account)) => calls.push(format!("CPU sampling at {} Hz", account.statistics.hz)),
        (Ok(_), None) => calls.push("CPU sampling at 100 Hz".to_owned()),
        (Err(_), _) => {}
    }
    if seen.heap.is_ok() {
        calls.push(format!("heap call {}", duration(seconds(seen.heap_ns))));
    }
    if seen.goroutines.counts.is_ok() {
        calls.push(format!("goroutine calls {}", duration(seconds(seen.goroutines.took_ns))));
    }
    let pages = [&seen.pages.0, &seen.pages.1];
    let pages: Vec<u64> = pages.iter().filter_map(|page| Some(page.as_ref()?.body_bytes)).collect();
    calls.push(format!("{} metrics pages ({})", pages.len(), size(pages.iter().sum())));
    let bytes = size(u64::try_from(seen.bytes).unwrap_or(u64::MAX));
    format!("cost: {}, {bytes} of profiles fetched, agent CPU {own}", calls.join(", "))
}

fn top(counts: &FunctionCounts, n: usize) -> impl Iterator<Item = &FunctionCount> {
    let mut functions: Vec<_> = counts.functions.iter().filter(|function| function.own > 0).collect();
    functions.sort_by_key(|function| (std::cmp::Reverse(function.own), std::cmp::Reverse(function.total)));
    functions.into_iter().take(n)
}

/// Names come from the profiled process: nothing that moves a terminal's cursor.
fn shown(name: &str) -> String {
    short(name).chars().filter(|c| !c.is_control()).take(160).collect()
}

pub(super) fn seconds(ns: u64) -> f64 {
    ns as f64 / 1e9
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_cannot_drive_a_terminal() {
        assert_eq!(shown("go.etcd.io/x.\u{1b}[2Jf\n"), "x.[2Jf");
        assert_eq!(shown(&"x".repeat(1_000)).len(), 160);
    }

    #[test]
    fn shares_of_the_node_add_up() {
        let mut after = HostFact::default();
        after.cpu.user_ns = 50;
        after.cpu.steal_ns = 25;
        after.cpu.idle_ns = 25;
        let spent = Spent::between(&HostFact::default(), &after).unwrap();
        assert_eq!((spent.busy, spent.steal, spent.iowait), (0.75, 0.25, 0.0));
        assert!(Spent::between(&after, &after).is_none());
    }

    #[test]
    fn the_first_line_says_why_there_is_no_profile() {
        let check = |missing: Missing, expected: &str| assert_eq!(without(&missing), expected);
        check(Missing::Interrupted, "interrupted, no CPU profile");
        check(
            FetchError::NoEndpoint.into(),
            "no CPU profile: no pprof endpoint (etcd serves one with --enable-pprof)",
        );
        check(FetchError::AnotherProfileRunning.into(), "no CPU profile: another cpu profile is running");
    }
}
