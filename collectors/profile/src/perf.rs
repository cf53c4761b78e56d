//! Stacks of running programs, from the kernel's sampling events: no helper in the target, no compiler on the node.
//!
//! Owns the events and their rings, the decoder of what the kernel writes, who was running at that moment, and the
//! session that puts them together. Refuses to name functions: a frame here is a place in a file.

pub mod attr;
pub mod cgroup;
pub(crate) mod copied;
pub mod cpus;
pub mod events;
pub mod maps;
pub mod modules;
pub mod processes;
pub mod record;
pub mod refusal;
pub mod ring;
pub mod session;
pub mod stacks;
pub mod statistics;
mod synthesis;
pub(crate) mod sys;
pub mod target;
pub mod tracepoint;
