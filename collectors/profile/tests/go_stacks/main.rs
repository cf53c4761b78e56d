//! Stacks of Go programs, held against what is known of them: by Go's own profiler of an etcd under load, and of a program
//! whose callers are known.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy sees only #[test] functions as tests"
)]

mod agreement;
mod callers;
mod etcd;
mod pairs;
#[path = "../shared/toolchain.rs"]
mod toolchain;
