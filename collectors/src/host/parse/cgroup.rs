//! The texts of control groups, as the kernel's `admin-guide/cgroup-v2.rst` and `cgroup-v1/` describe them.
//!
//! Owns the fields that are used; what is missing or no number is `None`, as kernels and controllers differ.

use model::host::{CgroupCpu, CgroupIo};

/// A group path is kept up to this length; a container's has 200 characters.
const PATH_MAX: usize = 512;

/// A limit of version 1 from here on is none: it begins as the largest multiple of a page below 2^63.
const NO_LIMIT_BYTES: u64 = 1 << 60;

/// The groups of one process, from `/proc/PID/cgroup`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Paths {
    /// Of version 2.
    pub unified: Option<String>,
    /// Of version 1, by controller.
    pub cpu: Option<String>,
    /// Of version 1.
    pub cpuacct: Option<String>,
    /// Of version 1.
    pub memory: Option<String>,
    /// Of version 1.
    pub blkio: Option<String>,
}

/// Reads `/proc/PID/cgroup`: `hierarchy:controllers:path` lines.
#[must_use]
pub fn paths(text: &str) -> Paths {
    let mut paths = Paths::default();
    for line in text.lines() {
        let mut parts = line.splitn(3, ':');
        let (Some(number), Some(controllers), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        if !path.starts_with('/') || path.len() > PATH_MAX {
            continue;
        }
        if number == "0" && controllers.is_empty() {
            paths.unified = Some(path.to_owned());
        }
        for controller in controllers.split(',') {
            let place = match controller {
                "cpu" => &mut paths.cpu,
                "cpuacct" => &mut paths.cpuacct,
                "memory" => &mut paths.memory,
                "blkio" => &mut paths.blkio,
                _ => continue,
            };
            *place = Some(path.to_owned());
        }
    }
    paths
}

/// A value of a `name value` list, e.g. of `memory.events`.
#[must_use]
pub fn value(text: &str, name: &str) -> Option<u64> {
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.trim().parse().ok())
}

/// `cpu.stat`: version 2 counts microseconds and the usage too, version 1 nanoseconds of throttling alone.
#[must_use]
pub fn cpu_stat(text: &str) -> CgroupCpu {
    let us = |name| Some(value(text, name)?.saturating_mul(1_000));
    CgroupCpu {
        usage_ns: us("usage_usec"),
        limit_millicpus: None,
        periods: value(text, "nr_periods").unwrap_or(0),
        throttled_periods: value(text, "nr_throttled").unwrap_or(0),
        throttled_ns: us("throttled_usec").or_else(|| value(text, "throttled_time")).unwrap_or(0),
    }
}

/// Quota over period of `cpu.max` (`50000 100000`), thousandths of a CPU; `None` for `max`.
#[must_use]
pub fn cpu_max(text: &str) -> Option<u64> {
    let mut words = text.split_ascii_whitespace();
    millicpus(words.next()?, words.next()?)
}

/// The same of version 1's two files; a quota of -1 is none.
#[must_use]
pub fn millicpus(quota: &str, period: &str) -> Option<u64> {
    let (quota, period): (u64, u64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
    quota.checked_mul(1_000)?.checked_div(period)
}

/// A limit in bytes; `max`, and what version 1 writes for none, is `None`.
#[must_use]
pub fn limit(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|bytes| *bytes < NO_LIMIT_BYTES)
}

/// `io.stat`: a line a device, `259:0 rbytes=1 wbytes=2 …`.
#[must_use]
pub fn io_stat(text: &str) -> CgroupIo {
    let sum = |name: &str| {
        let values = text.split_ascii_whitespace().filter_map(|word| word.strip_prefix(name)?.parse().ok());
        values.fold(0_u64, u64::saturating_add)
    };
    CgroupIo { read_bytes: sum("rbytes="), write_bytes: sum("wbytes=") }
}

/// `blkio.throttle.io_service_bytes`: `8:0 Read 1`, a line a device and operation.
#[must_use]
pub fn blkio(text: &str) -> CgroupIo {
    let sum = |name: &str| {
        let values = text.lines().filter_map(|line| {
            let mut words = line.split_ascii_whitespace().skip(1);
            (words.next()? == name).then(|| words.next()?.parse().ok())?
        });
        values.fold(0_u64, u64::saturating_add)
    };
    CgroupIo { read_bytes: sum("Read"), write_bytes: sum("Write") }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn groups_of_both_versions_are_told_apart() {
        let hybrid = "4:memory:/app\n2:cpuacct,cpu:/app/x:y\n1:name=systemd:/s\n0::/user.slice\n";
        let expected = Paths {
            unified: Some("/user.slice".to_owned()),
            cpu: Some("/app/x:y".to_owned()),
            cpuacct: Some("/app/x:y".to_owned()),
            memory: Some("/app".to_owned()),
            blkio: None,
        };
        assert_eq!(paths(hybrid), expected);
        assert_eq!(paths("0::/../../kubepods.slice/x\n").unified.as_deref(), Some("/../../kubepods.slice/x"));
        for torn in ["", "0::", "0:", "x", "0::relative"] {
            assert_eq!(paths(torn), Paths::default(), "{torn}");
        }
    }

    #[test]
    fn throttling_is_in_nanoseconds_in_both_versions() {
        let two =
            "usage_usec 5\nuser_usec 4\nsystem_usec 1\nnr_periods 30\nnr_throttled 7\nthrottled_usec 250\n";
        let one = "nr_periods 30\nnr_throttled 7\nthrottled_time 250000\n";
        let expected = CgroupCpu {
            usage_ns: Some(5_000),
            limit_millicpus: None,
            periods: 30,
            throttled_periods: 7,
            throttled_ns: 250_000,
        };
        assert_eq!(cpu_stat(two), expected);
        assert_eq!(cpu_stat(one), CgroupCpu { usage_ns: None, ..expected });
        assert_eq!(cpu_stat(""), CgroupCpu::default());
    }

    #[test]
    fn limits_are_numbers_or_none() {
        assert_eq!(
            (cpu_max("50000 100000\n"), cpu_max("max 100000\n"), cpu_max("")),
            (Some(500), None, None)
        );
        assert_eq!((millicpus("150000\n", "100000\n"), millicpus("-1\n", "100000\n")), (Some(1_500), None));
        assert_eq!(millicpus("1", "0"), None);
        assert_eq!(
            (limit("1048576\n"), limit("max\n"), limit("9223372036854771712\n")),
            (Some(1 << 20), None, None)
        );
        assert_eq!(value("low 0\nmax 3\noom 1\noom_kill 2\n", "oom_kill"), Some(2));
        assert_eq!(value("oom_killed 2\n", "oom_kill"), None);
    }

    #[test]
    fn devices_are_added_up() {
        let io = CgroupIo { read_bytes: 11, write_bytes: 22 };
        assert_eq!(io_stat("8:0 rbytes=1 wbytes=2 rios=9\n8:16 rbytes=10 wbytes=20 dbytes=5\n"), io);
        assert_eq!(
            blkio("8:0 Read 1\n8:0 Write 2\n8:16 Read 10\n8:16 Write 20\n8:16 Total 30\nTotal 33\n"),
            io
        );
    }

    proptest! {
        #[test]
        fn any_text_is_read_without_panic(text in "\\PC{0,200}|[0-9a-z_:=/. \n]{0,300}") {
            let _paths = paths(&text);
            let _cpu = (cpu_stat(&text), cpu_max(&text), limit(&text));
            let _io = (io_stat(&text), blkio(&text), value(&text, "max"));
        }
    }
}
