//! Profiles of processes: always, on demand, and what was before.
//!
//! Owns the kernel's samples and the names for them, the pull from a Go process's pprof endpoint and the decoder of what it
//! answers, the counts by function that the engine compares, and the ring of profiles from before. Refuses to judge: what
//! changed is the processors' to say.

pub mod baselines;
pub mod binaries;
pub mod capture;
pub mod continuous;
pub mod counts;
pub mod doctor;
pub mod dwarf;
pub mod fetch;
pub mod goheap;
pub mod gopprof;
pub mod goroutines;
pub mod history;
pub mod kernel;
pub mod names;
pub mod perf;
pub mod pods;
pub mod sampler;
pub mod symbols;
pub mod unwind;
pub mod waiting;
mod weight;
