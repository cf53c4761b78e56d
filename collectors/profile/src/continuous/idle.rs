//! How much of the node's CPUs is left over: a node without any is not asked for more than it can spare.

use std::fs;

/// With less than this of its CPU time left, a node is busy.
const IDLE_MIN: f64 = 0.05;
/// Fields of the first line of /proc/stat that are idle time: idle and iowait (proc_stat(5), `cpu`).
const IDLE_FIELDS: [usize; 2] = [3, 4];
/// Fields after `user` .. `steal`; guests are in `user` already.
const FIELDS: usize = 8;

/// CPU time since the boot, in ticks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Ticks {
    idle: u64,
    all: u64,
}

impl Ticks {
    pub(super) fn read() -> Option<Ticks> {
        Ticks::parse(&fs::read_to_string("/proc/stat").ok()?)
    }

    fn parse(text: &str) -> Option<Ticks> {
        let line = text.lines().find_map(|line| line.strip_prefix("cpu "))?;
        let fields: Vec<u64> =
            line.split_ascii_whitespace().take(FIELDS).map_while(|field| field.parse().ok()).collect();
        let idle = IDLE_FIELDS.iter().filter_map(|at| fields.get(*at)).sum();
        (fields.len() > IDLE_FIELDS[1]).then_some(Ticks { idle, all: fields.iter().sum() })
    }

    /// Whether the time since then had next to no idle time in it.
    pub(super) fn is_busy_since(self, before: Ticks) -> bool {
        let (idle, all) = (self.idle.saturating_sub(before.idle), self.all.saturating_sub(before.all));
        #[expect(clippy::cast_precision_loss, reason = "ticks of seconds")]
        let share = idle as f64 / all as f64;
        all > 0 && share < IDLE_MIN
    }
}

#[cfg(test)]
mod tests {
    use super::Ticks;

    fn ticks(line: &str) -> Ticks {
        Ticks::parse(&format!("{line}\ncpu0 1 1 1 1 1\nintr 5\n")).unwrap()
    }

    #[test]
    fn waiting_for_a_disk_is_idle_and_steal_is_not() {
        let before = ticks("cpu  100 0 100 1000 50 0 0 0 0 0");
        let check =
            |line: &str, expected: bool| assert_eq!(ticks(line).is_busy_since(before), expected, "{line}");
        check("cpu  200 0 100 1004 50 0 0 0 0 0", true);
        check("cpu  190 0 100 1010 50 0 0 0 0 0", false);
        check("cpu  190 0 100 1000 60 0 0 0 0 0", false);
        check("cpu  190 0 100 1000 50 0 0 10 0 0", true);
        assert!(!before.is_busy_since(before), "nothing is known of no time");
        assert_eq!(Ticks::parse("cpu 1 2 x"), None);
        assert!(Ticks::read().is_some());
    }
}
