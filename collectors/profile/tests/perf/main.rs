//! The sampling engine on the kernel at hand: whatever it says of rates, processes and stacks is held against
//! programs of which that is known.
//!
//! Other work on the machine must not matter: what is counted is held against CPU time, never against time on the wall.
#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "clippy sees only #[test] functions as tests"
)]

mod always;
mod code;
#[path = "../shared/copies.rs"]
mod copies;
#[path = "../shared/kernel.rs"]
mod kernel;
mod lives;
mod privileges;
mod program;
mod rates;
mod sleeper;
mod waits;
