//! How long the threads of a process stood in the run queue: could run, had no CPU. Owns the reading of `schedstat`.

use std::fs;

/// etcd has a dozen threads, 10,000 at most by Go's own limit; beyond this the rest is not told.
const THREADS_MAX: usize = 1_024;

/// The sum over all living threads since each began, nanoseconds; `None` where the kernel does not tell.
pub(super) fn total_ns(pid: u32) -> Option<u64> {
    let threads = fs::read_dir(format!("/proc/{pid}/task")).ok()?.take(THREADS_MAX);
    let waited: Vec<u64> = threads
        .filter_map(|thread| waited_ns(&fs::read_to_string(thread.ok()?.path().join("schedstat")).ok()?))
        .collect();
    (!waited.is_empty()).then(|| waited.iter().sum())
}

/// `ran_ns waited_ns slices`, as the kernel's sched-stats document has it.
fn waited_ns(text: &str) -> Option<u64> {
    text.split_ascii_whitespace().nth(1)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_second_figure_is_the_waiting() {
        assert_eq!(waited_ns("8200 1700 3\n"), Some(1_700));
        assert_eq!(waited_ns("8200"), None);
        assert_eq!(waited_ns("a b c"), None);
        assert_eq!(total_ns(u32::MAX), None);
    }
}
