//! What a profile of waiting is told as: how much, what for, and where.

use model::profile::Stacks;
use profile::counts;
use profile::kernel::Account;

use super::{CPU_SHOWN, percent, seconds, shown};

/// Where time passed without a CPU; idle threads wait too, so it is no answer by itself.
pub(in crate::cli::profile) fn off_cpu(
    stacks: &Stacks,
    window_ns: u64,
    account: Option<&Account>,
) -> Vec<String> {
    let counts = counts::of(stacks);
    let threads = counts.total as f64 / window_ns.max(1) as f64;
    let waits: i64 = stacks.samples.iter().map(|sample| sample.count).fold(0, i64::saturating_add);
    let kinds = account.and_then(kinds_of_waits).unwrap_or_default();
    let mut lines = vec![format!("waiting: {threads:.1} threads on average, {waits} waits{kinds}")];
    let mut functions: Vec<_> =
        counts.functions.iter().filter(|function| is_telling(&function.name)).collect();
    functions.sort_by_key(|function| std::cmp::Reverse(function.total));
    lines.extend(functions.into_iter().take(CPU_SHOWN).map(|function| {
        let share = percent(function.total as f64 / counts.total.max(1) as f64);
        format!("{share:>7} {:>8.2} s  {}", seconds(function.total), shown(&function.name))
    }));
    lines
}

/// What for: a thread that could have run is not slow by itself, and one that waits for a disk is not idle.
fn kinds_of_waits(account: &Account) -> Option<String> {
    let waited = account.waiting.as_ref()?.waited;
    let asleep = if account.are_waits_told_apart { "asleep" } else { "asleep or for a device" };
    let kinds = [
        (asleep, waited.sleeping_ns),
        ("for a device", waited.uninterruptible_ns),
        ("for a CPU", waited.preempted_ns),
    ];
    let total: u64 = kinds.iter().map(|(_, ns)| *ns).sum();
    let share = |(what, ns): (&str, u64)| format!("{} {what}", percent(ns as f64 / total.max(1) as f64));
    let kinds = kinds.into_iter().filter(|(_, ns)| *ns > 0).map(share);
    (total > 0).then(|| format!(": {}", kinds.collect::<Vec<_>>().join(", ")))
}

/// Every wait passes through the scheduler, every goroutine's through the runtime.
fn is_telling(name: &str) -> bool {
    let passed =
        ["[kernel", "[unknown", "runtime.goexit", "runtime.mstart", "runtime.mcall", "runtime.park_m"];
    let scheduler =
        ["schedule", "__schedule", "do_syscall_64", "entry_SYSCALL_64_after_hwframe", "x64_sys_call"];
    !passed.iter().any(|part| name.starts_with(part)) && !scheduler.contains(&name)
}
