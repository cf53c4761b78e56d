//! Reads what each profiler leaves behind into stacks, and judges them as they come.
//!
//! Owns four formats, as far as is needed here; one file each. Refuses to repair: a stack that cannot be read is an error.

pub(super) mod otlp;
pub(super) mod perf;
pub(super) mod pprof;
pub(super) mod samply;
