//! Stacks of programs without frame pointers, as compilers on this machine make them, against the calls that are known to
//! have been made. What the kernel's walk says of the same samples stands beside it.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    clippy::indexing_slicing,
    reason = "clippy sees only #[test] functions as tests"
)]

mod other_code;
mod program;
mod sources;
mod stories;
#[path = "../shared/toolchain.rs"]
mod toolchain;
