//! The likely bottleneck, from what one capture showed. Owns the thresholds and the order of the rules; pure: no clock, no file.
//!
//! The rules are asked in order of what causes what: a node that is robbed of its CPU makes fsync look slow, an expensive
//! range makes garbage, garbage makes CPU. The first that fires is the answer, the others that fire are told beside it.

/// Share of the node's CPU time. etcd names no limit; ours: at 10 %, a 100 ms heartbeat tick loses 10 ms on average.
const STEAL_SHARE_MIN: f64 = 0.10;
/// kubelet's default hard eviction limit, `memory.available<100Mi`: below it the kernel reclaims bbolt's mapped pages.
const MEMORY_AVAILABLE_MIN_BYTES: u64 = 100 << 20;
/// etcd's FAQ: the 99th percentile of `etcd_disk_wal_fsync_duration_seconds` should be below 10 ms.
const FSYNC_P99_MAX_S: f64 = 0.010;
/// etcd's FAQ: the 99th percentile of `etcd_disk_backend_commit_duration_seconds` should be below 25 ms.
const COMMIT_P99_MAX_S: f64 = 0.025;
/// Fewer observations have no 99th percentile worth an answer; an idle member syncs about every other second. Ours.
const DISK_OBSERVATIONS_MIN: u64 = 10;
/// Go's collector is built to take a quarter of the CPUs while it runs (`gcBackgroundUtilization`): a quarter of all CPU
/// means that it runs all the time. For compaction the same figure, ours.
const BACKGROUND_SHARE_MIN: f64 = 0.25;
/// Ours, from a member under unbounded whole-prefix reads (77 % of samples below Range on 3.5 and 3.7) and idle ones (< 10 %).
const RANGE_SHARE_MIN: f64 = 0.40;
/// A share of nearly nothing is no bottleneck: so many cores must be spent, unless slow lines say that callers waited. Ours.
const CORES_MIN: f64 = 0.25;
/// Slow-request lines of ranges a second that tell without a profile. Ours: etcd writes one at 100 ms and above.
const SLOW_RANGES_PER_SECOND_MIN: f64 = 1.0;
/// `CockroachDB`'s automatic CPU profiler fires at 65 % of the CPUs by default.
const CPU_SHARE_MIN: f64 = 0.65;
/// Threads of etcd that could run and did not, in cores: neighbours take it as a hypervisor's steal would; the same 10 %. Ours.
const WAITED_CORES_MIN: f64 = 0.10;
/// No idle time worth the name is left on the node. Ours.
const NODE_FULL_SHARE_MIN: f64 = 0.90;

/// A 99th percentile over the window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct P99 {
    /// Seconds; the highest finite bucket where it lies beyond.
    pub(super) seconds: f64,
    /// Whether it lies beyond the highest finite bucket.
    pub(super) beyond: bool,
    /// Observations.
    pub(super) n: u64,
}

impl Signs {
    fn who(&self) -> &str {
        if self.who.is_empty() { "etcd" } else { &self.who }
    }
}

impl P99 {
    /// For people: `12.3 ms (n 412)`.
    pub(super) fn told(self) -> String {
        let than = if self.beyond { "> " } else { "" };
        format!("{than}{} (n {})", duration(self.seconds), self.n)
    }
}

/// The part of etcd's CPU samples that is below some functions.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Hot {
    /// 0 to 1.
    pub(super) share: f64,
    /// The function below which most of it lies.
    pub(super) function: String,
}

/// Slow-request lines of ranges.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct SlowRanges {
    /// Requests in the window.
    pub(super) count: u64,
    /// Longest, seconds.
    pub(super) longest_s: f64,
}

/// What was seen; `None` is not known, never zero.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Signs {
    /// Whose they are; etcd's where nothing is said.
    pub(super) who: String,
    /// Length of the window, seconds.
    pub(super) window_s: f64,
    /// Cores that etcd may use.
    pub(super) cores: Option<f64>,
    /// Cores that it used.
    pub(super) used: Option<f64>,
    /// Share of the node's CPU time that the hypervisor took.
    pub(super) steal: Option<f64>,
    /// Share of the node's CPU time that somebody used, steal included.
    pub(super) node_busy: Option<f64>,
    /// Time that etcd's threads could run and had no CPU, in cores.
    pub(super) waited: Option<f64>,
    /// Memory available on the node, bytes.
    pub(super) memory_available: Option<u64>,
    /// WAL fsync.
    pub(super) fsync: Option<P99>,
    /// Backend commit.
    pub(super) commit: Option<P99>,
    /// Share of the window in which a compaction held the store.
    pub(super) compaction_pause: Option<f64>,
    /// CPU samples in ranges.
    pub(super) range: Option<Hot>,
    /// CPU samples in compaction.
    pub(super) compaction: Option<Hot>,
    /// CPU samples in the garbage collector.
    pub(super) garbage: Option<Hot>,
    /// Slow lines of ranges; `None` when no log is known.
    pub(super) slow_ranges: Option<SlowRanges>,
}

/// The answer.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decision {
    /// One line.
    pub(super) line: String,
    /// What else is beyond its threshold.
    pub(super) also: Vec<String>,
}

/// Names the likely bottleneck.
pub(super) fn decide(signs: &Signs) -> Decision {
    let mut rules = [steal, memory, disk, compaction, range, garbage, cpu, crowded];
    if is_full(signs) {
        // On a node without idle time a slow fsync may be a goroutine that waits for a CPU: first what takes the CPU.
        rules = [steal, memory, compaction, range, garbage, cpu, crowded, disk];
    }
    let mut fired = rules.iter().filter_map(|rule| rule(signs));
    let Some(first) = fired.next() else { return Decision { line: nothing(signs), also: Vec::new() } };
    Decision { line: format!("likely bottleneck: {first}"), also: fired.collect() }
}

fn nothing(signs: &Signs) -> String {
    match signs.used {
        Some(used) => format!("not CPU: {} used", cores(used)),
        None => "no bottleneck seen; CPU use is not known".to_owned(),
    }
}

fn is_full(signs: &Signs) -> bool {
    signs.node_busy.is_some_and(|busy| busy >= NODE_FULL_SHARE_MIN)
}

fn steal(signs: &Signs) -> Option<String> {
    let share = signs.steal.filter(|share| *share >= STEAL_SHARE_MIN)?;
    Some(format!("steal: the hypervisor took {} of the node's CPU time", percent(share)))
}

fn memory(signs: &Signs) -> Option<String> {
    let bytes = signs.memory_available.filter(|bytes| *bytes < MEMORY_AVAILABLE_MIN_BYTES)?;
    Some(format!("memory: {} available on the node", size(bytes)))
}

fn disk(signs: &Signs) -> Option<String> {
    let slow = |p99: Option<P99>, max: f64| {
        p99.filter(|p99| p99.n >= DISK_OBSERVATIONS_MIN && (p99.beyond || p99.seconds > max))
    };
    if let Some(p99) = slow(signs.fsync, FSYNC_P99_MAX_S) {
        return Some(format!("fsync: WAL fsync p99 {}, should be below 10 ms", p99.told()));
    }
    let p99 = slow(signs.commit, COMMIT_P99_MAX_S)?;
    Some(format!("fsync: backend commit p99 {}, should be below 25 ms", p99.told()))
}

/// Share and function, where so many cores go there.
fn heavy<'a>(signs: &Signs, hot: Option<&'a Hot>, share_min: f64) -> Option<(&'a Hot, f64)> {
    let hot = hot.filter(|hot| hot.share >= share_min)?;
    let spent = signs.used.unwrap_or(0.0) * hot.share;
    (spent >= CORES_MIN).then_some((hot, spent))
}

fn compaction(signs: &Signs) -> Option<String> {
    if let Some((hot, spent)) = heavy(signs, signs.compaction.as_ref(), BACKGROUND_SHARE_MIN) {
        return Some(format!("compaction: {} of etcd's CPU ({})", percent(hot.share), cores(spent)));
    }
    let pause = signs.compaction_pause.filter(|share| *share >= BACKGROUND_SHARE_MIN)?;
    Some(format!("compaction: it held the store for {} of the time", percent(pause)))
}

fn range(signs: &Signs) -> Option<String> {
    let slow = signs.slow_ranges.filter(|slow| slow.count > 0);
    let told = slow.map_or(String::new(), |slow| {
        format!("; {} slow range requests, longest {}", slow.count, duration(slow.longest_s))
    });
    match &signs.range {
        Some(hot) if hot.share >= RANGE_SHARE_MIN => {
            let spent = signs.used.unwrap_or(0.0) * hot.share;
            (spent >= CORES_MIN || slow.is_some()).then(|| {
                let (share, cores) = (percent(hot.share), cores(spent));
                format!("an expensive range: {share} of etcd's CPU ({cores}) below {}{told}", hot.function)
            })
        }
        Some(_) => None,
        None => {
            let slow = slow?;
            let a_second = slow.count as f64 / signs.window_s.max(1.0);
            (a_second >= SLOW_RANGES_PER_SECOND_MIN).then(|| {
                let longest = duration(slow.longest_s);
                format!("an expensive range: {a_second:.1} slow range requests a second, longest {longest}")
            })
        }
    }
}

fn garbage(signs: &Signs) -> Option<String> {
    let (hot, spent) = heavy(signs, signs.garbage.as_ref(), BACKGROUND_SHARE_MIN)?;
    let (share, spent) = (percent(hot.share), cores(spent));
    Some(format!("memory: garbage collection takes {share} of {}'s CPU ({spent})", signs.who()))
}

fn cpu(signs: &Signs) -> Option<String> {
    let (used, of) = signs.used.zip(signs.cores)?;
    (used >= of * CPU_SHARE_MIN).then(|| format!("CPU: {used:.1} of {of:.0} cores used"))
}

fn crowded(signs: &Signs) -> Option<String> {
    let busy = signs.node_busy.filter(|_| is_full(signs))?;
    let waited = signs.waited.filter(|waited| *waited >= WAITED_CORES_MIN)?;
    let used = cores(signs.used?);
    let busy = percent(busy);
    Some(format!(
        "CPU: others fill the node ({busy} busy); {} used {used} and waited for {}",
        signs.who(),
        cores(waited)
    ))
}

/// `0.2 of a core`, `1.4 cores`.
pub(super) fn cores(used: f64) -> String {
    if used < 0.095 {
        format!("{used:.2} of a core")
    } else if used < 0.95 {
        format!("{used:.1} of a core")
    } else {
        format!("{used:.1} cores")
    }
}

/// `12.3 %`, two digits below ten.
pub(super) fn percent(share: f64) -> String {
    format!("{:.*} %", usize::from(share < 0.0995), share * 100.0)
}

/// `0.85 ms`, `12.3 ms`, `1.20 s`.
pub(super) fn duration(seconds: f64) -> String {
    if seconds >= 1.0 {
        format!("{seconds:.2} s")
    } else {
        format!("{:.*} ms", if seconds < 0.001 { 2 } else { 1 }, seconds * 1_000.0)
    }
}

/// `12.3 MiB`.
pub(super) fn size(bytes: u64) -> String {
    let bytes_f = bytes as f64;
    if bytes < 1 << 20 {
        format!("{:.1} KiB", bytes_f / 1_024.0)
    } else {
        format!("{:.1} MiB", bytes_f / 1_048_576.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A member that does a little, on a node with two cores.
    fn quiet() -> Signs {
        Signs {
            who: String::new(),
            window_s: 10.0,
            cores: Some(2.0),
            used: Some(0.2),
            steal: Some(0.0),
            node_busy: Some(0.2),
            waited: Some(0.01),
            memory_available: Some(4 << 30),
            fsync: p99(0.002, 400),
            commit: p99(0.004, 100),
            compaction_pause: Some(0.0),
            range: hot(0.08),
            compaction: hot(0.0),
            garbage: hot(0.05),
            slow_ranges: slow(0),
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "the field is an option")]
    fn p99(seconds: f64, n: u64) -> Option<P99> {
        Some(P99 { seconds, beyond: false, n })
    }

    #[expect(clippy::unnecessary_wraps, reason = "the field is an option")]
    fn hot(share: f64) -> Option<Hot> {
        Some(Hot { share, function: "f".to_owned() })
    }

    #[expect(clippy::unnecessary_wraps, reason = "the field is an option")]
    fn slow(count: u64) -> Option<SlowRanges> {
        Some(SlowRanges { count, longest_s: 0.24 })
    }

    fn check(signs: &Signs, line: &str, also: &[&str]) {
        let seen = decide(signs);
        assert_eq!(seen.line, line);
        assert_eq!(seen.also.len(), also.len(), "{seen:?}");
        for (seen, expected) in seen.also.iter().zip(also) {
            assert!(seen.starts_with(expected), "{seen}");
        }
    }

    #[test]
    fn a_quiet_member_has_no_bottleneck() {
        check(&quiet(), "not CPU: 0.2 of a core used", &[]);
        check(&Signs { used: Some(0.013), ..quiet() }, "not CPU: 0.01 of a core used", &[]);
        // Others are busy, and etcd does not mind.
        check(&Signs { node_busy: Some(0.99), ..quiet() }, "not CPU: 0.2 of a core used", &[]);
        check(&Signs::default(), "no bottleneck seen; CPU use is not known", &[]);
    }

    #[test]
    fn each_cause_is_named_with_its_figure() {
        check(
            &Signs { steal: Some(0.31), ..quiet() },
            "likely bottleneck: steal: the hypervisor took 31 % of the node's CPU time",
            &[],
        );
        check(
            &Signs { memory_available: Some(50 << 20), ..quiet() },
            "likely bottleneck: memory: 50.0 MiB available on the node",
            &[],
        );
        check(
            &Signs { fsync: p99(0.0231, 412), ..quiet() },
            "likely bottleneck: fsync: WAL fsync p99 23.1 ms (n 412), should be below 10 ms",
            &[],
        );
        check(
            &Signs { commit: Some(P99 { seconds: 8.192, beyond: true, n: 12 }), ..quiet() },
            "likely bottleneck: fsync: backend commit p99 > 8.19 s (n 12), should be below 25 ms",
            &[],
        );
        check(
            &Signs { compaction: hot(0.5), used: Some(0.6), ..quiet() },
            "likely bottleneck: compaction: 50 % of etcd's CPU (0.3 of a core)",
            &[],
        );
        check(
            &Signs { compaction: None, compaction_pause: Some(0.4), ..quiet() },
            "likely bottleneck: compaction: it held the store for 40 % of the time",
            &[],
        );
        check(
            &Signs { garbage: hot(0.3), used: Some(1.0), ..quiet() },
            "likely bottleneck: memory: garbage collection takes 30 % of etcd's CPU (0.3 of a core)",
            &[],
        );
        check(
            &Signs { used: Some(1.4), node_busy: Some(0.8), ..quiet() },
            "likely bottleneck: CPU: 1.4 of 2 cores used",
            &[],
        );
        check(
            &Signs { node_busy: Some(0.97), waited: Some(0.4), ..quiet() },
            "likely bottleneck: CPU: others fill the node (97 % busy); etcd used 0.2 of a core and waited for 0.4 of a core",
            &[],
        );
    }

    #[test]
    fn an_expensive_range_is_told_by_cores_or_by_slow_lines() {
        check(
            &Signs { range: hot(0.77), used: Some(1.0), ..quiet() },
            "likely bottleneck: an expensive range: 77 % of etcd's CPU (0.8 of a core) below f",
            &[],
        );
        // Little CPU, because little was left: callers waited all the same.
        check(
            &Signs { range: hot(0.77), used: Some(0.14), slow_ranges: slow(37), ..quiet() },
            "likely bottleneck: an expensive range: 77 % of etcd's CPU (0.1 of a core) below f; \
             37 slow range requests, longest 240.0 ms",
            &[],
        );
        check(&Signs { range: hot(0.77), used: Some(0.02), ..quiet() }, "not CPU: 0.02 of a core used", &[]);
        check(
            &Signs { range: None, slow_ranges: slow(37), ..quiet() },
            "likely bottleneck: an expensive range: 3.7 slow range requests a second, longest 240.0 ms",
            &[],
        );
        check(&Signs { range: None, slow_ranges: slow(3), ..quiet() }, "not CPU: 0.2 of a core used", &[]);
    }

    #[test]
    fn a_percentile_of_a_few_is_no_answer() {
        check(
            &Signs { fsync: p99(0.5, 9), commit: p99(0.5, 9), ..quiet() },
            "not CPU: 0.2 of a core used",
            &[],
        );
    }

    #[test]
    fn a_full_node_excuses_the_disk() {
        let both = Signs { fsync: p99(0.05, 400), range: hot(0.77), used: Some(1.0), ..quiet() };
        check(
            &both,
            "likely bottleneck: fsync: WAL fsync p99 50.0 ms (n 400), should be below 10 ms",
            &["an expensive range"],
        );
        check(
            &Signs { node_busy: Some(0.99), waited: Some(0.5), ..both },
            "likely bottleneck: an expensive range: 77 % of etcd's CPU (0.8 of a core) below f",
            &["CPU: others fill the node", "fsync"],
        );
    }
}
