//! Profiles: counts by function for the engine, whole stacks for exporters and people.

use std::sync::Arc;

use serde::{Deserialize, Serialize};

use crate::time::Stamp;

pub mod runtime;
pub mod windows;

use windows::Window;

/// Functions kept in one [`FunctionCounts`]; the rest is summed in `other`.
pub const FUNCTIONS_MAX: usize = 10_000;

/// What a profile counts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ProfileKind {
    /// On-CPU time, nanoseconds.
    Cpu,
    /// Live heap, bytes.
    Heap,
    /// Goroutines, count.
    Goroutine,
    /// Time without a CPU, nanoseconds.
    OffCpu,
    /// Allocated since another capture, bytes.
    Alloc,
}

impl ProfileKind {
    /// Whether it is time over some time, and not a snapshot of what is there.
    #[must_use]
    pub fn has_length(self) -> bool {
        matches!(self, ProfileKind::Cpu | ProfileKind::OffCpu)
    }
}

/// The end of one [`crate::request::Request`] for a capture: exactly one for each.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct CaptureResult {
    /// The request's id.
    pub request: u64,
    /// The member that was profiled, by name.
    pub target: String,
    /// How it ended.
    pub outcome: CaptureOutcome,
}

/// How a capture ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum CaptureOutcome {
    /// Captured. `before` is `None` when there was no baseline, and the reason says why.
    Done {
        /// The baseline.
        before: Option<Arc<ProfileSet>>,
        /// Why there is none, or how old it is.
        baseline: Baseline,
        /// The capture.
        after: Arc<ProfileSet>,
    },
    /// Not begun, and why (`slot_full`, `cool_down`, `budget`, `kill_switch`, `no_endpoint`).
    Refused {
        /// A fixed word.
        reason: String,
    },
    /// Begun and failed (`timeout`, `status`, `another_profile_running`, `bad_profile`).
    Failed {
        /// A fixed word.
        reason: String,
        /// What was seen.
        detail: String,
    },
}

/// Where the "before" comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Baseline {
    /// Taken before the latest rollout marker.
    BeforeMarker,
    /// At least five minutes older than the trigger, no marker known.
    Aged,
    /// Younger than five minutes, no marker known.
    Young,
    /// There is none.
    Missing,
}

/// All kinds of one capture.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ProfileSet {
    /// When it began.
    pub at: Stamp,
    /// How CPU time was taken: `go_pprof` by the process itself, `perf` by the kernel.
    pub engine: String,
    /// Counts by kind.
    pub counts: Vec<FunctionCounts>,
    /// Kinds that began at another time.
    pub others_at: Vec<(ProfileKind, Stamp)>,
    /// Whole stacks; only exporters open them. Not recorded.
    #[serde(skip)]
    pub stacks: Arc<Vec<Stacks>>,
}

impl ProfileSet {
    /// Of what was taken at `at`, but for those whose stacks say otherwise.
    #[must_use]
    pub fn new(engine: &str, at: Stamp, counts: Vec<FunctionCounts>, stacks: Vec<Stacks>) -> ProfileSet {
        let others_at = stacks.iter().filter(|stacks| stacks.at != at);
        let others_at = others_at.map(|stacks| (stacks.kind, stacks.at)).collect();
        ProfileSet { at, engine: engine.to_owned(), counts, others_at, stacks: Arc::new(stacks) }
    }

    /// When a kind began.
    #[must_use]
    pub fn began(&self, kind: ProfileKind) -> Stamp {
        self.others_at.iter().find(|(other, _)| *other == kind).map_or(self.at, |(_, at)| *at)
    }
}

/// Counts by function and by call edge.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct FunctionCounts {
    /// What is counted.
    pub kind: ProfileKind,
    /// Length of the capture, nanoseconds; 0 for a snapshot.
    pub duration_ns: u64,
    /// Value that one sample stands for (period), in the unit of `kind`; 0 where samples differ in weight.
    pub period: u64,
    /// Sum over all samples, in the unit of `kind`.
    pub total: u64,
    /// The n of every share: samples taken, goroutines, or the effective number of sampled objects of a heap.
    pub samples: u64,
    /// Functions by name, ascending, at most [`FUNCTIONS_MAX`].
    pub functions: Vec<FunctionCount>,
    /// (caller, callee, value), indexes into `functions`, ascending, at most [`FUNCTIONS_MAX`].
    pub edges: Vec<(u32, u32, u64)>,
    /// Self value of functions that did not fit.
    pub other: u64,
    /// Requests answered meanwhile, where somebody counted.
    pub requests: Option<u64>,
    /// The same by window, oldest first, at most [`windows::WINDOWS_MAX`]; empty where the profile is one piece.
    pub windows: Vec<Window>,
}

/// One function.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FunctionCount {
    /// Full name.
    pub name: String,
    /// Value in the function itself (inlined callees not included).
    pub own: u64,
    /// Value in it and all it calls, recursion counted once.
    pub total: u64,
    /// Samples that contain it.
    pub samples: u64,
}

/// Whole stacks of one profile.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Stacks {
    /// What is counted.
    pub kind: ProfileKind,
    /// When it began.
    pub at: Stamp,
    /// Nanoseconds; 0 for a snapshot.
    pub duration_ns: u64,
    /// Period, in the unit of `kind`.
    pub period: u64,
    /// Modules.
    pub mappings: Vec<Mapping>,
    /// Functions.
    pub functions: Vec<Function>,
    /// Frames: an inlined call has one of its own.
    pub frames: Vec<Frame>,
    /// Whose samples they are; none where one process is all there is.
    pub owners: Vec<Owner>,
    /// Samples, stacks leaf first; a goroutine that is about to start has an empty one.
    pub samples: Vec<StackSample>,
    /// What is missing from them.
    #[serde(default)]
    pub losses: Losses,
    /// The profile as it was received (gzipped pprof), empty where we made it ourselves.
    pub pprof: Vec<u8>,
}

/// What a profile does not show although it happened: a reader must know how sure it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Losses {
    /// Samples that were taken and did not reach us, or found no room.
    pub lost: u64,
    /// Samples whose stack ends before its root.
    pub truncated: u64,
}

/// One module.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mapping {
    /// Path in the target's view.
    pub path: String,
    /// The linker's (GNU) build id, hex; empty when it has none.
    pub build_id: String,
    /// Go's build id, four hashes with slashes between them; empty when it has none.
    #[serde(default)]
    pub go_build_id: String,
    /// OpenTelemetry's hash of the file's head, tail and length, hex; empty when the file could not be read.
    #[serde(default)]
    pub htlhash: String,
    /// First address.
    pub start: u64,
    /// One past the last address.
    pub end: u64,
    /// File offset.
    pub offset: u64,
}

/// One function.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Function {
    /// Full name, `[module+0x…]` when unknown.
    pub name: String,
    /// Source file, may be empty.
    pub file: String,
    /// First line, 0 when unknown.
    pub start_line: i64,
}

/// One frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Frame {
    /// Index into `functions`.
    pub function: u32,
    /// Index into `mappings`; `u32::MAX` when unknown.
    pub mapping: u32,
    /// Address, 0 when unknown.
    pub address: u64,
    /// Line, 0 when unknown.
    pub line: i64,
    /// Inlined into the next frame towards the root.
    pub inlined: bool,
    /// What kind of code.
    #[serde(default)]
    pub kind: FrameKind,
}

/// What kind of code a frame is in: one process may run all of them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum FrameKind {
    /// Not known.
    #[default]
    Unknown,
    /// Compiled to machine code: C, C++, Rust, assembly.
    Native,
    /// Compiled by Go.
    Go,
    /// The kernel's.
    Kernel,
}

/// One stack with its weight.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct StackSample {
    /// Indexes into `frames`, leaf first.
    pub frames: Vec<u32>,
    /// Value in the unit of the kind.
    pub value: i64,
    /// Samples merged into it; for a heap the objects, scaled as the value is.
    pub count: i64,
    /// Index into `owners`; without such an owner it is not known, or there is but one.
    pub owner: u32,
}

/// Whose stack it was, where several processes or threads are seen.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Owner {
    /// Process id in the agent's namespace.
    pub pid: u32,
    /// The process's name, at most 15 bytes.
    pub process: String,
    /// The thread's, the same where it has none of its own.
    pub thread: String,
    /// Container id, 64 hexadecimal digits; empty outside containers.
    pub container: String,
    /// Pod name, its uid where the name is not known; empty outside pods.
    pub pod: String,
    /// Namespace of the pod, empty where not known.
    pub namespace: String,
    /// Where it ran; `None` where CPUs are not told apart.
    pub cpu: Option<u32>,
}
