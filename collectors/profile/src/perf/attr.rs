//! What we ask of a perf event: the kernel's attribute struct, filled for the two kinds of event we open.
//!
//! Owns the layout (include/uapi/linux/perf_event.h, its fifth extension), the bits, and which of them an older kernel
//! does not know. Refuses `PERF_SAMPLE_PERIOD` but on tracepoints: with a fixed period the kernel then writes every event.

use std::num::NonZeroU32;

use super::record::{Beside, Layout};
use super::tracepoint::{Switches, Tracepoints};

/// Bytes of user stack in a sample, unless more are asked for: a frameless leaf's return address lies at most 512 bytes up
/// in Go's assembly.
pub const STACK_BYTES: StackBytes = StackBytes(512);
/// For programs without frame pointers that somebody looks at: in most of them the whole stack.
pub const STACK_BYTES_DEEP: StackBytes = StackBytes(16 << 10);
/// The kernel keeps a record's length in 16 bits, and takes multiples of eight.
const STACK_BYTES_MAX: u32 = 65_528;
/// The kernel's own default limit, and its answer to more is an error.
pub const DEPTH_MAX: u16 = 127;
/// The kernel ships with a limit of 100,000 and lowers it under load; more than this nobody here asks for.
const HZ_MAX: u32 = 10_000;

/// User registers of a sample, by the kernel's numbers, in the order they come: frame pointer, (link register), stack
/// pointer, instruction pointer.
#[cfg(target_arch = "x86_64")]
pub const REGISTERS: &[u32] = &[6, 7, 8];
/// User registers of a sample, by the kernel's numbers, in the order they come: x29, x30, sp, pc.
#[cfg(target_arch = "aarch64")]
pub const REGISTERS: &[u32] = &[29, 30, 31, 32];

const SOFTWARE: u32 = 1;
const TRACEPOINT: u32 = 2;
const CPU_CLOCK: u64 = 0;
const TASK_CLOCK: u64 = 1;
const CONTEXT_SWITCHES: u64 = 3;
const DUMMY: u64 = 9;
const CLOCK_MONOTONIC: i32 = 1;
/// How long a watched task runs at most until it says so: by so much too long is a wait behind which it ended.
const STINT_NS_MAX: u64 = 10_000_000;

/// `PERF_SAMPLE_*`: what a sample holds. Four of them stand in the trailer of every other record too.
mod field {
    pub(super) const IP: u64 = 1 << 0;
    pub(super) const TID: u64 = 1 << 1;
    pub(super) const TIME: u64 = 1 << 2;
    pub(super) const READ: u64 = 1 << 4;
    pub(super) const CALLCHAIN: u64 = 1 << 5;
    pub(super) const CPU: u64 = 1 << 7;
    pub(super) const PERIOD: u64 = 1 << 8;
    pub(super) const RAW: u64 = 1 << 10;
    pub(super) const REGS_USER: u64 = 1 << 12;
    pub(super) const STACK_USER: u64 = 1 << 13;
    pub(super) const IDENTIFIER: u64 = 1 << 16;
    pub(super) const CGROUP: u64 = 1 << 21;
}

/// `PERF_FORMAT_*`: what reading the event gives beside its count.
mod reading {
    pub(super) const ID: u64 = 1 << 2;
    pub(super) const GROUP: u64 = 1 << 3;
    pub(super) const LOST: u64 = 1 << 4;
}

/// The bit field in the middle of the struct.
mod flag {
    pub(super) const DISABLED: u64 = 1 << 0;
    pub(super) const INHERIT: u64 = 1 << 1;
    pub(super) const EXCLUDE_KERNEL: u64 = 1 << 5;
    pub(super) const EXCLUDE_HV: u64 = 1 << 6;
    pub(super) const EXCLUDE_IDLE: u64 = 1 << 7;
    pub(super) const MMAP: u64 = 1 << 8;
    pub(super) const COMM: u64 = 1 << 9;
    pub(super) const FREQ: u64 = 1 << 10;
    pub(super) const TASK: u64 = 1 << 13;
    pub(super) const WATERMARK: u64 = 1 << 14;
    pub(super) const SAMPLE_ID_ALL: u64 = 1 << 18;
    pub(super) const EXCLUDE_GUEST: u64 = 1 << 20;
    pub(super) const EXCLUDE_CALLCHAIN_KERNEL: u64 = 1 << 21;
    pub(super) const EXCLUDE_CALLCHAIN_USER: u64 = 1 << 22;
    pub(super) const MMAP2: u64 = 1 << 23;
    pub(super) const COMM_EXEC: u64 = 1 << 24;
    pub(super) const USE_CLOCKID: u64 = 1 << 25;
    pub(super) const CONTEXT_SWITCH: u64 = 1 << 26;
    pub(super) const KSYMBOL: u64 = 1 << 29;
    pub(super) const BPF_EVENT: u64 = 1 << 30;
    pub(super) const CGROUP: u64 = 1 << 32;
    pub(super) const BUILD_ID: u64 = 1 << 34;
}

/// How much of the user stack comes with a sample.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct StackBytes(u32);

impl StackBytes {
    /// A multiple of 8 of at most 65,528; anything else is none. The kernel copies less where the stack ends before, or
    /// where the record would be too long.
    #[must_use]
    pub fn new(bytes: u32) -> Option<StackBytes> {
        (bytes.is_multiple_of(8) && (8..=STACK_BYTES_MAX).contains(&bytes)).then_some(StackBytes(bytes))
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0
    }
}

/// Samples a second of CPU time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Hz(NonZeroU32);

impl Hz {
    /// Always on.
    pub const STEADY: Hz = Hz::known(19);
    /// When somebody asks.
    pub const ASKED: Hz = Hz::known(99);
    /// After a trigger.
    pub const TRIGGERED: Hz = Hz::known(499);

    /// A rate between 1 and 10,000; anything else is none.
    #[must_use]
    pub fn new(hz: u32) -> Option<Hz> {
        NonZeroU32::new(hz).filter(|hz| hz.get() <= HZ_MAX).map(Hz)
    }

    const fn known(hz: u32) -> Hz {
        match NonZeroU32::new(hz) {
            Some(hz) => Hz(hz),
            None => Hz(NonZeroU32::MIN),
        }
    }

    /// As a number.
    #[must_use]
    pub fn get(self) -> u32 {
        self.0.get()
    }

    /// Between two samples.
    #[must_use]
    pub fn period_ns(self) -> u64 {
        1_000_000_000 / u64::from(self.0.get())
    }
}

/// What a kernel knows, newest first: each level has everything that the next one has.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Level {
    /// 4.3 and later: nothing of the below.
    Basic,
    /// 5.1: functions that the kernel makes at run time.
    Ksymbol,
    /// 5.7: the cgroup of a sample.
    Cgroup,
    /// 5.12: the build id of what is mapped.
    BuildId,
    /// 6.0: what an event lost, exactly.
    Lost,
}

impl Level {
    /// The next older one.
    #[must_use]
    pub fn older(self) -> Option<Level> {
        match self {
            Level::Lost => Some(Level::BuildId),
            Level::BuildId => Some(Level::Cgroup),
            Level::Cgroup => Some(Level::Ksymbol),
            Level::Ksymbol => Some(Level::Basic),
            Level::Basic => None,
        }
    }
}

/// Whom the events follow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scope {
    /// All tasks of each CPU.
    Node,
    /// Named tasks and what they start.
    Tasks,
}

/// What stacks are taken of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Measure {
    /// Of what runs, so many times a second.
    Running,
    /// Of what leaves the CPU, each time, with how long it stayed away.
    Waiting,
}

/// How the events of one session look.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Of what.
    pub measure: Measure,
    /// How often.
    pub hz: Hz,
    /// What the kernel knows.
    pub level: Level,
    /// Whom.
    pub scope: Scope,
    /// Whether samples in the kernel are taken; without a privilege they may not.
    pub is_kernel_seen: bool,
    /// Deepest stack.
    pub depth: u16,
    /// Bytes of stack in each sample.
    pub stack_bytes: StackBytes,
    /// Unread bytes in a ring that wake us before the time.
    pub wakeup_bytes: u32,
    /// How waiting is seen; `None` where running is.
    pub switches: Option<Switches>,
}

impl Shape {
    /// How its records are laid out.
    #[must_use]
    pub fn layout(&self) -> Layout {
        let beside = match self.switches {
            Some(Switches::Traced(_)) => Beside::Tracepoint,
            Some(Switches::Timed) => Beside::Stint,
            Some(Switches::Counted(_)) | None => Beside::Nothing,
        };
        Layout { registers: REGISTERS.len(), has_cgroup: self.level >= Level::Cgroup, beside }
    }

    /// Whether tasks are timed by a clock of their own.
    pub(super) fn is_timed(&self) -> bool {
        self.switches == Some(Switches::Timed)
    }

    fn traced(&self) -> Option<&Tracepoints> {
        self.switches.as_ref().and_then(Switches::traced)
    }
}

/// What became of a wish, once the kernel was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Abilities {
    /// Whether whole CPUs are watched or tasks.
    pub scope: Scope,
    /// Followed tasks keep the rate that they were opened with, and waiting has none.
    pub is_rate_fixed: bool,
    /// Whether stacks go on into the kernel.
    pub is_kernel_seen: bool,
    /// What the kernel knows.
    pub level: Level,
    /// Bytes of one ring; less than was asked for where locked memory is short.
    pub ring_bytes: usize,
    /// Deepest stack.
    pub depth: u16,
    /// Bytes of stack in each sample.
    pub stack_bytes: StackBytes,
    /// How the records are laid out.
    pub layout: Layout,
    /// How waiting is seen, and why not better; `None` where running is.
    pub switches: Option<Switches>,
}

/// `struct perf_event_attr` up to and including its fifth extension, which kernel 4.8 knows and we need.
#[repr(C)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Attr {
    kind: u32,
    size: u32,
    config: u64,
    sample_period_or_freq: u64,
    sample_type: u64,
    read_format: u64,
    flags: u64,
    wakeup_watermark: u32,
    breakpoint_kind: u32,
    config1: u64,
    config2: u64,
    branch_sample_type: u64,
    sample_regs_user: u64,
    sample_stack_user: u32,
    clockid: i32,
    sample_regs_intr: u64,
    aux_watermark: u32,
    sample_max_stack: u16,
    reserved: u16,
}

/// What the kernel calls `PERF_ATTR_SIZE_VER5`.
const ATTR_BYTES: u32 = 112;
const _: () = assert!(size_of::<Attr>() == 112, "the kernel counts its fields as we do");

/// Fields of every record. The identifier comes first in a sample and last elsewhere, whatever else there is.
const TRAILER: u64 = field::TID | field::TIME | field::CPU | field::IDENTIFIER;

impl Attr {
    /// The event that samples.
    #[must_use]
    pub fn sampling(shape: &Shape) -> Attr {
        let (kind, config) = match (shape.measure, shape.traced()) {
            (Measure::Running, _) => (SOFTWARE, CPU_CLOCK),
            (Measure::Waiting, Some(tracepoints)) => (TRACEPOINT, u64::from(tracepoints.switch_id)),
            (Measure::Waiting, None) => (SOFTWARE, CONTEXT_SWITCHES),
        };
        let mut attr = Attr { kind, ..Attr::both(shape, config) };
        (attr.sample_period_or_freq, attr.flags) = match shape.measure {
            Measure::Running => (u64::from(shape.hz.get()), attr.flags | flag::FREQ),
            Measure::Waiting => (1, attr.flags),
        };
        attr.sample_type |= field::IP | field::CALLCHAIN | field::REGS_USER | field::STACK_USER;
        if shape.traced().is_some() {
            attr.sample_type |= field::PERIOD | field::RAW;
        }
        if shape.is_timed() {
            attr.sample_type |= field::READ;
            attr.read_format |= reading::GROUP;
        }
        if shape.level >= Level::Cgroup {
            attr.sample_type |= field::CGROUP;
        }
        attr.sample_regs_user = REGISTERS.iter().fold(0, |bits, number| bits | 1 << number);
        attr.sample_stack_user = shape.stack_bytes.get();
        attr.sample_max_stack = shape.depth;
        attr
    }

    /// The event by which a watched task is seen to be back; `None` where that is told otherwise. The scheduler counts
    /// nanoseconds with it, so that without `PERF_SAMPLE_PERIOD` each of them would be a sample. Its records look like the
    /// other one's, with nothing in them that costs time.
    #[must_use]
    pub fn returning(shape: &Shape) -> Option<Attr> {
        let tracepoints = shape.traced().filter(|_| shape.scope == Scope::Tasks)?;
        Some(Attr::stackless(shape, u64::from(tracepoints.runtime_id)))
    }

    /// The clock that is read with each sample of a task that is timed: how long it has run on this CPU. It is a member of
    /// the sampling event's group, and itself a sample when that has grown by some milliseconds.
    #[must_use]
    pub fn clock(shape: &Shape) -> Option<Attr> {
        shape
            .is_timed()
            .then(|| Attr { sample_period_or_freq: STINT_NS_MAX, ..Attr::stackless(shape, TASK_CLOCK) })
    }

    /// The sampling event's companion of another kind: its records look like that one's, with nothing in them that costs time.
    fn stackless(shape: &Shape, config: u64) -> Attr {
        let mut attr = Attr { config, sample_stack_user: 0, ..Attr::sampling(shape) };
        attr.flags |= flag::EXCLUDE_CALLCHAIN_KERNEL | flag::EXCLUDE_CALLCHAIN_USER;
        attr
    }

    /// The event that only tells of processes: it counts nothing, and goes on while the other one rests.
    #[must_use]
    pub fn side_band(shape: &Shape) -> Attr {
        let mut attr = Attr::both(shape, DUMMY);
        attr.flags |= flag::MMAP | flag::MMAP2 | flag::COMM | flag::COMM_EXEC | flag::TASK;
        if shape.level >= Level::Ksymbol && shape.is_kernel_seen {
            attr.flags |= flag::KSYMBOL | flag::BPF_EVENT;
        }
        if shape.level >= Level::Cgroup && shape.scope == Scope::Node {
            attr.flags |= flag::CGROUP;
        }
        if shape.level >= Level::BuildId {
            attr.flags |= flag::BUILD_ID;
        }
        if matches!(shape.switches, Some(Switches::Counted(_))) {
            attr.flags |= flag::CONTEXT_SWITCH;
        }
        attr
    }

    fn both(shape: &Shape, config: u64) -> Attr {
        let mut flags = flag::DISABLED
            | flag::EXCLUDE_HV
            | flag::EXCLUDE_IDLE
            | flag::EXCLUDE_GUEST
            | flag::WATERMARK
            | flag::SAMPLE_ID_ALL
            | flag::USE_CLOCKID;
        if !shape.is_kernel_seen {
            flags |= flag::EXCLUDE_KERNEL;
        }
        if shape.scope == Scope::Tasks {
            flags |= flag::INHERIT;
        }
        Attr {
            kind: SOFTWARE,
            size: ATTR_BYTES,
            config,
            sample_type: TRAILER,
            read_format: reading::ID | if shape.level >= Level::Lost { reading::LOST } else { 0 },
            flags,
            wakeup_watermark: shape.wakeup_bytes,
            clockid: CLOCK_MONOTONIC,
            ..Attr::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::tracepoint::Untraced;
    use super::{Attr, Hz, Level, Measure, STACK_BYTES, STACK_BYTES_DEEP, Scope, Shape, StackBytes};
    use super::{Switches, Tracepoints};

    fn shape(level: Level, scope: Scope) -> Shape {
        let measure = Measure::Running;
        Shape {
            measure,
            hz: Hz::ASKED,
            level,
            scope,
            is_kernel_seen: true,
            depth: 127,
            stack_bytes: STACK_BYTES,
            wakeup_bytes: 4096,
            switches: None,
        }
    }

    #[test]
    fn a_sampling_event_is_the_one_that_was_measured() {
        let attr = Attr::sampling(&shape(Level::Lost, Scope::Node));
        assert_eq!((attr.kind, attr.config, attr.size), (1, 0, 112));
        assert_eq!(attr.sample_period_or_freq, 99);
        assert_eq!(attr.sample_type, 0x1 | 0x2 | 0x4 | 0x20 | 0x80 | 0x1000 | 0x2000 | 0x1_0000 | 0x20_0000);
        assert_eq!(attr.sample_stack_user, 512);
        assert_eq!(attr.read_format, 4 | 16);
        if cfg!(target_arch = "x86_64") {
            assert_eq!(attr.sample_regs_user, 0x1c0);
        }
    }

    #[test]
    fn no_event_asks_for_the_period_of_a_sample() {
        for level in [Level::Basic, Level::Ksymbol, Level::Cgroup, Level::BuildId, Level::Lost] {
            for scope in [Scope::Node, Scope::Tasks] {
                let shape = shape(level, scope);
                assert_eq!(
                    (Attr::sampling(&shape).sample_type | Attr::side_band(&shape).sample_type) & (1 << 8),
                    0
                );
            }
        }
    }

    #[test]
    fn waiting_is_seen_at_each_switch() {
        let switches = Some(Switches::Counted(Untraced::Unwanted));
        let shape = Shape { measure: Measure::Waiting, switches, ..shape(Level::Lost, Scope::Tasks) };
        let attr = Attr::sampling(&shape);
        assert_eq!((attr.config, attr.sample_period_or_freq, attr.flags & (1 << 10)), (3, 1, 0));
        assert_ne!(Attr::side_band(&shape).flags & (1 << 26), 0);
        assert!(Attr::returning(&shape).is_none() && Attr::clock(&shape).is_none());
    }

    #[test]
    fn who_is_timed_has_a_clock_that_is_read_at_each_switch() {
        let switches = Some(Switches::Timed);
        let shape = Shape { measure: Measure::Waiting, switches, ..shape(Level::Lost, Scope::Tasks) };
        let (leaving, clock) = (Attr::sampling(&shape), Attr::clock(&shape).unwrap());
        assert_eq!((leaving.config, leaving.sample_period_or_freq), (3, 1));
        assert_eq!((clock.config, clock.sample_period_or_freq), (1, 10_000_000));
        let group = |attr: &Attr| (attr.sample_type & (1 << 4 | 1 << 8), attr.read_format);
        assert_eq!(group(&leaving), (1 << 4, 4 | 8 | 16));
        assert_eq!(group(&clock), group(&leaving), "one layout for both, and no period");
        assert_eq!(Attr::side_band(&shape).flags & (1 << 26), 0, "no switch of others is prepared");
    }

    #[test]
    fn tracepoints_make_the_kernel_prepare_no_switch_of_others() {
        let Ok(tracepoints) = Tracepoints::find() else { return };
        let switches = Some(Switches::Traced(tracepoints));
        let shape = Shape { measure: Measure::Waiting, switches, ..shape(Level::Lost, Scope::Tasks) };
        let (leaving, returning) = (Attr::sampling(&shape), Attr::returning(&shape).unwrap());
        assert_eq!((leaving.kind, leaving.sample_period_or_freq, leaving.flags & (1 << 10)), (2, 1, 0));
        assert_eq!(Attr::side_band(&shape).flags & (1 << 26), 0);
        assert_ne!(leaving.config, returning.config);
        assert_eq!(leaving.sample_type, returning.sample_type, "one layout for both");
        assert_ne!(returning.sample_type & (1 << 8), 0, "or each nanosecond is a sample");
        let node = Shape { scope: Scope::Node, ..shape };
        assert!(Attr::returning(&node).is_none(), "who comes stands in the record of who leaves");
    }

    #[test]
    fn an_older_kernel_is_asked_for_less() {
        let flags = |level| Attr::side_band(&shape(level, Scope::Node)).flags;
        let newer = [(Level::Lost, Level::Cgroup), (Level::Cgroup, Level::Ksymbol)];
        assert!(newer.iter().all(|(new, old)| flags(*new).count_ones() > flags(*old).count_ones()));
        assert_eq!(Attr::sampling(&shape(Level::BuildId, Scope::Node)).read_format, 4);
        assert_eq!(Level::Basic.older(), None);
    }

    #[test]
    fn as_much_of_the_stack_comes_as_the_kernel_can_say() {
        let deep = Shape { stack_bytes: STACK_BYTES_DEEP, ..shape(Level::Lost, Scope::Node) };
        assert_eq!(Attr::sampling(&deep).sample_stack_user, 16_384);
        assert_eq!([0, 12, 65_536].map(StackBytes::new), [None; 3], "the kernel refuses these");
        assert_eq!(StackBytes::new(65_528).map(StackBytes::get), Some(65_528));
    }

    #[test]
    fn a_rate_is_a_period_in_nanoseconds() {
        assert_eq!(Hz::TRIGGERED.period_ns(), 2_004_008);
        assert_eq!((Hz::new(0), Hz::new(10_001)), (None, None));
    }
}
