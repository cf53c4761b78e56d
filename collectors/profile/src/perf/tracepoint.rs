//! The scheduler's tracepoints: what leaves a CPU and why, and when it is back.
//!
//! Owns where their numbers and fields are found, and the reading of what they put into a sample. Refuses to mount anything
//! where others could see it, and to guess: a kernel whose fields are not as expected is one without tracepoints.
//!
//! Both events belong to the watched tasks. `sched_switch` fires while the task that leaves still has its events on the
//! CPU, `sched_stat_runtime` when the scheduler first looks at how long the one that came has been running. At every
//! switch of others the kernel finds an empty list. A filter on a node-wide event has to be asked at each of them, and for
//! the kernel's own records of switches all the node's switches are prepared.

use std::ffi::CStr;
use std::fs::{self, File};
use std::io::{self, Read};
use std::os::fd::AsRawFd;
use std::path::{Path, PathBuf};

use super::session::WaitKind;
use super::sys;

/// Where it is mounted, if it is.
const PLACE: &str = "/sys/kernel/tracing";
/// The host's, in a container that shares its process ids.
const PLACE_OF_HOST: &str = "/proc/1/root/sys/kernel/tracing";
/// Of a `format` file: the longest of the scheduler's has 2 kB.
const TEXT_BYTES_MAX: u64 = 16 << 10;
/// What is asked of `sched_stat_runtime`: at least 50 µs. It fires whenever the scheduler looks at a clock, which a program
/// makes it do each time it reads its own CPU time: a million times a second, if it does nothing else. Of a shorter run only
/// the end is seen, by `sched_switch`, and it counts as part of the wait before it.
pub(super) const RETURNED: &CStr = c"runtime >= 50000";
/// `PROC_PID_INIT_INO`: the inode of the first namespace of process ids, which no other has.
const FIRST_NAMESPACE: &str = "pid:[4026531836]";

/// `prev_state` since kernel 4.14, and as far as they are used here before.
mod state {
    /// All that a task may wait in; without any of these it could have run on.
    pub(super) const REPORTED: u64 = 0xff;
    pub(super) const UNINTERRUPTIBLE: u64 = 0x02;
    /// It has ended, or waits to be reaped.
    pub(super) const DEAD: u64 = 0x10 | 0x20;
}

/// Why waiting is not seen by tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Untraced {
    /// The plan says so.
    #[error("tracefs was not to be used")]
    Unwanted,
    /// Nowhere mounted, and a mount of our own is not allowed.
    #[error("tracefs is not mounted and may not be mounted")]
    NotMounted,
    /// There, but not for us.
    #[error("tracefs may not be read")]
    Forbidden,
    /// The kernel has no such tracepoints, or with other fields.
    #[error("this kernel does not know the tracepoints sched_switch and sched_stat_runtime as we do")]
    Unknown,
    /// Numbers in tracepoints are the host's.
    #[error("the agent is not in the host's pid namespace, and tracepoints number tasks as the host does")]
    Namespace,
    /// `perf_event_open` said no to them and yes to others.
    #[error("the kernel refuses events on tracepoints")]
    Refused,
}

impl Untraced {
    /// One word, for counters and tables.
    #[must_use]
    pub fn label(self) -> &'static str {
        match self {
            Untraced::Unwanted => "unwanted",
            Untraced::NotMounted => "not_mounted",
            Untraced::Forbidden => "forbidden",
            Untraced::Unknown => "unknown_tracepoint",
            Untraced::Namespace => "namespace",
            Untraced::Refused => "refused",
        }
    }

    /// What a person can do about it.
    #[must_use]
    pub fn cure(self) -> &'static str {
        match self {
            Untraced::Unwanted => "let tracefs be used",
            Untraced::NotMounted => {
                "mount -t tracefs tracefs /sys/kernel/tracing; in a container, mount the host's /sys/kernel/tracing there"
            }
            Untraced::Forbidden => {
                "give the agent CAP_DAC_READ_SEARCH, or remount /sys/kernel/tracing with gid= and mode=750"
            }
            Untraced::Unknown => "use a kernel with CONFIG_EVENT_TRACING",
            Untraced::Namespace => "set hostPID",
            Untraced::Refused => "give the agent CAP_PERFMON",
        }
    }
}

/// By what it shall be told what a thread waits for, and so how waiting is seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// By the kernel's functions in its stack, which have names: all ways are open, and the one is taken that costs others
    /// least.
    ByStacks,
    /// By the scheduler's own word, where that is to be had.
    ByStates,
    /// As before Linux 6.13: by tracepoints or by records, to see what that costs.
    Tracepoints,
    /// As before Linux 6.13 without tracefs.
    Records,
}

impl Way {
    /// As the kernel's functions have names or not.
    #[must_use]
    pub fn of(is_kernel_named: bool) -> Way {
        if is_kernel_named { Way::ByStacks } else { Way::ByStates }
    }
}

/// How a session sees that threads leave the CPU and come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Switches {
    /// By the kernel's count of switches and by a clock of each watched task that runs when it does, read together at each
    /// switch: what of the time between two of them it did not run, it waited. Costs those that are watched, and others next
    /// to nothing. What for is told by the stack alone. Linux 6.13.
    Timed,
    /// By the scheduler's tracepoints: costs only those that are watched.
    Traced(Tracepoints),
    /// By the kernel's records of context switches: the whole node pays, and sleeping is not told apart from waiting for a
    /// device.
    Counted(Untraced),
}

impl Switches {
    /// The tracepoints, where they are used.
    #[must_use]
    pub fn traced(&self) -> Option<&Tracepoints> {
        match self {
            Switches::Traced(tracepoints) => Some(tracepoints),
            Switches::Timed | Switches::Counted(_) => None,
        }
    }
}

/// A number in what a tracepoint writes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Field {
    at: usize,
    is_long: bool,
}

impl Field {
    fn parse(format: &str, name: &str) -> Option<Field> {
        format.lines().find_map(|line| {
            let mut parts = line.trim().strip_prefix("field:")?.split(';').map(str::trim);
            let is_it = parts.next()?.split_whitespace().next_back()? == name;
            let at = parts.next()?.strip_prefix("offset:")?.parse().ok()?;
            let size: usize = parts.next()?.strip_prefix("size:")?.parse().ok()?;
            (is_it && matches!(size, 4 | 8)).then_some(Field { at, is_long: size == 8 })
        })
    }

    fn read(self, raw: &[u8]) -> Option<u64> {
        let bytes = raw.get(self.at..)?;
        match self.is_long {
            true => bytes.first_chunk().copied().map(u64::from_ne_bytes),
            false => bytes.first_chunk().copied().map(u32::from_ne_bytes).map(u64::from),
        }
    }
}

/// What happened, by a sample of one of the two.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Traced {
    /// The sampled thread leaves; how it will wait, unless it will not come back.
    Left {
        /// `None` for one that ends.
        kind: Option<WaitKind>,
        /// Who comes instead, as the host numbers it; 0 for nobody.
        next_tid: u32,
    },
    /// It has run since it came or since this was last told; for how long stands in the sample's period.
    Ran,
}

/// Numbers and fields of the two tracepoints.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tracepoints {
    pub(super) switch_id: u16,
    pub(super) runtime_id: u16,
    prev_state: Field,
    next_pid: Field,
}

impl Tracepoints {
    /// From where tracefs is mounted, or from a mount of our own that is attached nowhere and ends with this call.
    pub fn find() -> Result<Tracepoints, Untraced> {
        // Whatever is found elsewhere, this is the place that a person can do something about.
        let why = match Tracepoints::at(Path::new(PLACE)) {
            Err(why) => why,
            found => return found,
        };
        if let Ok(found) = Tracepoints::at(Path::new(PLACE_OF_HOST)) {
            return Ok(found);
        }
        let Ok(mount) = sys::private_mount(c"tracefs") else { return Err(why) };
        let place = PathBuf::from(format!("/proc/self/fd/{}", mount.as_raw_fd()));
        Tracepoints::at(&place)
    }

    fn at(tracefs: &Path) -> Result<Tracepoints, Untraced> {
        let events = tracefs.join("events/sched");
        let id = |event: &str| {
            let text = text(&events.join(event).join("id"))?;
            text.trim().parse().map_err(|_| Untraced::Unknown)
        };
        let (switch_id, runtime_id) = (id("sched_switch")?, id("sched_stat_runtime")?);
        let format = text(&events.join("sched_switch/format"))?;
        let field = |name| Field::parse(&format, name).ok_or(Untraced::Unknown);
        Ok(Tracepoints {
            switch_id,
            runtime_id,
            prev_state: field("prev_state")?,
            next_pid: field("next_pid")?,
        })
    }

    /// What a sample's raw part tells; it begins with the tracepoint's number.
    pub(super) fn read(&self, raw: &[u8]) -> Option<Traced> {
        let id = u16::from_ne_bytes(*raw.first_chunk()?);
        if id == self.runtime_id {
            return Some(Traced::Ran);
        }
        let state = self.prev_state.read(raw).filter(|_| id == self.switch_id)?;
        let next_tid = u32::try_from(self.next_pid.read(raw)?).ok()?;
        let kind = match state & state::REPORTED {
            0 => Some(WaitKind::Preempted),
            waits if waits & state::DEAD != 0 => None,
            waits if waits & state::UNINTERRUPTIBLE != 0 => Some(WaitKind::Uninterruptible),
            _ => Some(WaitKind::Sleeping),
        };
        Some(Traced::Left { kind, next_tid })
    }
}

fn text(path: &Path) -> Result<String, Untraced> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(TEXT_BYTES_MAX).read_to_string(&mut text));
    match read.map_err(|error| error.kind()) {
        Ok(_) => Ok(text),
        Err(io::ErrorKind::PermissionDenied) => Err(Untraced::Forbidden),
        Err(io::ErrorKind::InvalidData) => Err(Untraced::Unknown),
        Err(_) => Err(Untraced::NotMounted),
    }
}

/// Whether processes have the numbers here that the kernel itself knows them by.
#[must_use]
pub fn is_first_namespace() -> bool {
    fs::read_link("/proc/self/ns/pid").is_ok_and(|link| link.as_os_str() == FIRST_NAMESPACE)
}

#[cfg(test)]
mod tests {
    use super::{Field, Traced, Tracepoints, WaitKind};

    const FORMAT: &str = "name: sched_switch\nID: 372\nformat:\n\
        \tfield:unsigned short common_type;\toffset:0;\tsize:2;\tsigned:0;\n\n\
        \tfield:char prev_comm[16];\toffset:8;\tsize:16;\tsigned:0;\n\
        \tfield:long prev_state;\toffset:32;\tsize:8;\tsigned:1;\n\
        \tfield:pid_t next_pid;\toffset:56;\tsize:4;\tsigned:1;\n\nprint fmt: \"prev_state=%d\"\n";

    fn tracepoints() -> Tracepoints {
        let field = |name| Field::parse(FORMAT, name).unwrap();
        let (prev_state, next_pid) = (field("prev_state"), field("next_pid"));
        Tracepoints { switch_id: 372, runtime_id: 363, prev_state, next_pid }
    }

    fn raw(id: u16, state: u64, next: u32) -> Vec<u8> {
        let mut raw = vec![0; 68];
        raw[..2].copy_from_slice(&id.to_ne_bytes());
        raw[32..40].copy_from_slice(&state.to_ne_bytes());
        raw[56..60].copy_from_slice(&next.to_ne_bytes());
        raw
    }

    #[test]
    fn fields_are_where_the_format_says() {
        assert_eq!(Field::parse(FORMAT, "prev_state"), Some(Field { at: 32, is_long: true }));
        assert_eq!(Field::parse(FORMAT, "next_pid"), Some(Field { at: 56, is_long: false }));
        assert_eq!(Field::parse(FORMAT, "common_type"), None, "no number that we could read");
        assert_eq!(Field::parse(FORMAT, "prev_stat"), None);
        assert_eq!(Field::parse("field:long prev_state;\toffset:x;", "prev_state"), None);
    }

    #[test]
    fn who_leaves_says_why() {
        let check = |state, expected| {
            let left = Traced::Left { kind: expected, next_tid: 9 };
            assert_eq!(tracepoints().read(&raw(372, state, 9)), Some(left), "{state:#x}");
        };
        check(0x100, Some(WaitKind::Preempted));
        check(0, Some(WaitKind::Preempted));
        check(1, Some(WaitKind::Sleeping));
        check(2, Some(WaitKind::Uninterruptible));
        check(0x82, Some(WaitKind::Uninterruptible));
        check(4, Some(WaitKind::Sleeping));
        check(0x80, Some(WaitKind::Sleeping));
        check(0x20, None);
        assert_eq!(tracepoints().read(&raw(363, 0, 0)), Some(Traced::Ran));
    }

    #[test]
    fn another_event_and_a_short_one_tell_nothing() {
        assert_eq!(tracepoints().read(&raw(371, 0, 0)), None);
        let whole = raw(372, 1, 9);
        assert!((0..60).all(|length| tracepoints().read(&whole[..length]).is_none()));
    }

    #[test]
    fn this_kernel_has_them_where_tracefs_is_to_be_had() {
        match Tracepoints::find() {
            Ok(found) => assert_ne!(found.switch_id, found.runtime_id),
            Err(why) => {
                assert!(!why.cure().is_empty() && !why.label().is_empty());
                let is_root = std::fs::read_dir("/root").is_ok();
                assert!(!is_root, "{why}: {}", why.cure());
            }
        }
    }
}
