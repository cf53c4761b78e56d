//! Conclusions from records: pure logic. No clock, no I/O, no tokio, no `Result`, no randomness; time is a record.

pub mod binomial;
pub mod detect;
pub mod diff;
pub mod excuse;
pub mod slo;
pub mod stitch;
pub mod topology;
pub mod verdict;

#[cfg(test)]
mod story;
