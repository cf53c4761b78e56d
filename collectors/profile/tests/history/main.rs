//! The ring of profile windows on real disks: full ones, read-only ones, and under a writer that is killed.

#![expect(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "clippy sees only #[test] functions as tests"
)]

mod disks;
mod lives;
mod windows;
