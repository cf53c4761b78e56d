//! The texts of /proc, as the kernel's `Documentation/filesystems/proc.rst`, `admin-guide/iostats.rst` and
//! `accounting/psi.rst` describe them.
//!
//! Owns the fields that are used. Refuses units it was not told (ticks and pages are handed in) and skips what it does
//! not know: newer kernels add fields at the end.

use std::collections::HashSet;

use model::host::{CpuTimes, Disk};

pub mod cgroup;

/// Block devices of one node; more are a storage server's, not etcd's.
pub const DISKS_MAX: usize = 256;

/// Number of CPUs online and the times of all together, from `/proc/stat`.
#[must_use]
pub fn stat(text: &str, ticks_per_second: u64) -> Option<(u32, CpuTimes)> {
    let mut cpus = 0_u32;
    let mut times = None;
    for line in text.lines().take_while(|line| line.starts_with("cpu")) {
        let mut words = line.split_ascii_whitespace();
        if words.next()? != "cpu" {
            cpus = cpus.saturating_add(1);
            continue;
        }
        let mut ns = || Some(ticks_ns(words.next()?.parse().ok()?, ticks_per_second));
        let (user, nice, system, idle) = (ns()?, ns()?, ns()?, ns()?);
        // Older kernels end here or there; what they do not count is 0. Guest time is in user already.
        let mut later = || ns().unwrap_or(0);
        let (iowait_ns, irq, softirq, steal_ns) = (later(), later(), later(), later());
        times = Some(CpuTimes {
            user_ns: user.saturating_add(nice),
            system_ns: system.saturating_add(irq).saturating_add(softirq),
            idle_ns: idle,
            iowait_ns,
            steal_ns,
        });
    }
    Some((cpus, times?))
}

/// MemTotal and MemAvailable in bytes, from `/proc/meminfo`.
#[must_use]
pub fn meminfo(text: &str) -> Option<(u64, u64)> {
    let kib = |name: &str| {
        let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'))?;
        let number = line.trim().strip_suffix("kB")?.trim_end().parse::<u64>().ok()?;
        Some(number.saturating_mul(1024))
    };
    Some((kib("MemTotal")?, kib("MemAvailable")?))
}

/// Total stall time of the `some` line of `/proc/pressure/*`, microseconds.
#[must_use]
pub fn pressure(text: &str) -> Option<u64> {
    let some = text.lines().find_map(|line| line.strip_prefix("some "))?;
    some.split_ascii_whitespace().find_map(|word| word.strip_prefix("total="))?.parse().ok()
}

/// The devices of `/proc/diskstats` that have done anything, loop and RAM disks left out; `keep` says which names are
/// whole devices. At most [`DISKS_MAX`].
#[must_use]
pub fn diskstats(text: &str, keep: impl Fn(&str) -> bool) -> Vec<Disk> {
    let disks = text.lines().filter_map(disk);
    let real = disks.filter(|disk| {
        let virtual_disk = disk.name.starts_with("loop") || disk.name.starts_with("ram");
        !virtual_disk && disk.reads.saturating_add(disk.writes) > 0 && keep(&disk.name)
    });
    real.take(DISKS_MAX).collect()
}

fn disk(line: &str) -> Option<Disk> {
    let mut words = line.split_ascii_whitespace().skip(2);
    let name = words.next()?.to_owned();
    let mut fields = [0_u64; 17];
    for field in &mut fields {
        *field = match words.next() {
            Some(word) => word.parse().ok()?,
            None => break,
        };
    }
    let [reads, _, _, read_ms, writes, _, _, write_ms, _, busy_ms, _, _, _, _, _, flushes, flush_ms] = fields;
    Some(Disk { name, reads, read_ms, writes, write_ms, flushes, flush_ms, busy_ms })
}

/// What `/proc/PID/stat` says, in the kernel's units.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PidStat {
    /// comm, at most 15 bytes of the kernel's own cutting.
    pub name: String,
    /// utime + stime, clock ticks.
    pub cpu_ticks: u64,
    /// Threads.
    pub threads: u64,
    /// Since boot, clock ticks.
    pub started_ticks: u64,
    /// Resident set, pages.
    pub rss_pages: u64,
}

/// Reads `/proc/PID/stat`; the name may hold blanks and parentheses, so fields count from the last `)`.
#[must_use]
pub fn pid_stat(text: &str) -> Option<PidStat> {
    let (head, tail) = text.rsplit_once(')')?;
    let (_, name) = head.split_once('(')?;
    let fields: Vec<&str> = tail.split_ascii_whitespace().take(22).collect();
    // Field 3 of proc(5), the state, is the first after the name.
    let field = |number: usize| fields.get(number - 3)?.parse::<u64>().ok();
    Some(PidStat {
        name: name.to_owned(),
        cpu_ticks: field(14)?.saturating_add(field(15)?),
        threads: field(20)?,
        started_ticks: field(22)?,
        rss_pages: field(24)?,
    })
}

/// The inode of a socket, from the target of a link in `/proc/PID/fd`.
#[must_use]
pub fn socket_inode(link: &str) -> Option<u64> {
    link.strip_prefix("socket:[")?.strip_suffix(']')?.parse().ok()
}

/// How many established connections of `/proc/PID/net/tcp` (or `tcp6`) belong to these sockets. The file lists the whole
/// network namespace, not the process.
#[must_use]
pub fn established(text: &str, sockets: &HashSet<u64>) -> u64 {
    const ESTABLISHED: &str = "01";
    let ours = text.lines().skip(1).filter(|line| {
        let mut words = line.split_ascii_whitespace().skip(3);
        words.next() == Some(ESTABLISHED)
            && words
                .nth(5)
                .and_then(|inode| inode.parse().ok())
                .is_some_and(|inode: u64| sockets.contains(&inode))
    });
    u64::try_from(ours.count()).unwrap_or(u64::MAX)
}

/// Clock ticks as nanoseconds.
#[must_use]
pub fn ticks_ns(ticks: u64, ticks_per_second: u64) -> u64 {
    let ns = u128::from(ticks) * 1_000_000_000 / u128::from(ticks_per_second.max(1));
    u64::try_from(ns).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const STAT: &str = "\
cpu  120 30 50 9000 70 1 4 25 60 0
cpu0 60 15 25 4500 35 0 2 12 30 0
cpu1 60 15 25 4500 35 1 2 13 30 0
intr 1462898 0 9 0
ctxt 115315
";

    #[test]
    fn cpu_times_are_summed_by_what_they_mean() {
        let (cpus, times) = stat(STAT, 100).unwrap();
        assert_eq!(cpus, 2);
        let ms = 10_000_000;
        let expected = CpuTimes {
            user_ns: 150 * ms,
            system_ns: 55 * ms,
            idle_ns: 9000 * ms,
            iowait_ns: 70 * ms,
            steal_ns: 25 * ms,
        };
        assert_eq!(times, expected);
        assert_eq!(stat("cpu 1 2 3 4\n", 100).unwrap().1.steal_ns, 0, "before Linux 2.6.11");
        for bad in ["", "cpu0 1 2 3 4\n", "cpu 1 2 3\n", "cpu a b c d\n"] {
            assert_eq!(stat(bad, 100), None, "{bad}");
        }
    }

    #[test]
    fn memory_is_in_bytes() {
        let text = "MemTotal:       24604932 kB\nMemFree:         1 kB\nMemAvailable:   20000000 kB\n";
        assert_eq!(meminfo(text), Some((24_604_932 * 1024, 20_000_000 * 1024)));
        assert_eq!(meminfo("MemTotal: 1 kB\n"), None);
        assert_eq!(meminfo("MemTotal: x kB\nMemAvailable: 1 kB\n"), None);
    }

    #[test]
    fn pressure_is_the_total_of_some() {
        let text = "some avg10=0.22 avg60=0.17 avg300=1.11 total=58761459\nfull avg10=0.00 total=7\n";
        assert_eq!(pressure(text), Some(58_761_459));
        assert_eq!(pressure("full avg10=0.00 total=7\n"), None);
        assert_eq!(pressure("some avg10=0.22\n"), None);
    }

    #[test]
    fn disks_are_whole_devices_that_did_something() {
        let text = "\
   7       0 loop0 9 0 9 9 9 0 9 9 0 9 9
 254       0 vda 1000 5 9000 700 2000 6 8000 1500 2 1800 2200 0 0 0 0 350 90
 254       1 vda1 900 5 9000 600 2000 6 8000 1500 0 1700 2100 0 0 0 0 0 0
 254      16 vdb 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0 0
 253       0 dm-0 1 0 8 2 3 0 24 4 0 5 6
   8       0 sda x 0 0 0 0 0 0 0 0 0 0
";
        let disks = diskstats(text, |name| name != "vda1");
        let vda = Disk {
            name: "vda".to_owned(),
            reads: 1000,
            read_ms: 700,
            writes: 2000,
            write_ms: 1500,
            flushes: 350,
            flush_ms: 90,
            busy_ms: 1800,
        };
        let old = Disk {
            name: "dm-0".to_owned(),
            reads: 1,
            read_ms: 2,
            writes: 3,
            write_ms: 4,
            busy_ms: 5,
            ..Disk::default()
        };
        assert_eq!(disks, [vda, old]);
    }

    #[test]
    fn a_process_may_be_called_anything() {
        let text = "4242 (a) b ((c) S 1 4242 4242 0 -1 4194560 3410 0 61 0 250 50 7 8 20 0 17 0 987654 1270000000 5120 \
                    18446744073709551615 1 1 0 0\n";
        let expected = PidStat {
            name: "a) b ((c".to_owned(),
            cpu_ticks: 300,
            threads: 17,
            started_ticks: 987_654,
            rss_pages: 5120,
        };
        assert_eq!(pid_stat(text), Some(expected));
        assert_eq!(pid_stat("4242 (etcd) S 1 2 3"), None);
        assert_eq!(pid_stat(""), None);
    }

    #[test]
    fn only_established_connections_of_the_process_count() {
        let text = "\
  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid  timeout inode
   0: 0100007F:094B 00000000:0000 0A 00000000:00000000 00:00000000 00000000     0        0 100 1 0 100 0 0 10 0
   1: 0100007F:094B 0100007F:D0A2 01 00000000:00000000 00:00000000 00000000     0        0 101 1 0 20 4 30 10 -1
   2: 0100007F:094B 0100007F:D0A4 01 00000000:00000000 00:00000000 00000000     0        0 102 1 0 20 4 30 10 -1
   3: 0100007F:094B 0100007F:D0A6 06 00000000:00000000 00:00000000 00000000     0        0 0 1 0 20 4 30 10 -1
";
        assert_eq!(established(text, &HashSet::from([100, 101, 7])), 1);
        assert_eq!(established(text, &HashSet::from([101, 102])), 2);
        assert_eq!(established("", &HashSet::from([101])), 0);
        assert_eq!(socket_inode("socket:[101]"), Some(101));
        assert_eq!(socket_inode("pipe:[101]"), None);
        assert_eq!(socket_inode("socket:[x]"), None);
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}|[cpu0-9 \\n():kBsometal=,]{0,300}") {
            let _stat = stat(&text, 0).is_some();
            let _memory = meminfo(&text).is_some();
            let _pressure = pressure(&text).is_some();
            let _disks = diskstats(&text, |_| true).len();
            let _pid = pid_stat(&text).is_some();
            let _inode = socket_inode(&text).is_some();
            let _established = established(&text, &HashSet::new());
        }
    }
}
