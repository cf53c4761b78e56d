//! From bytes to records: what a fuzzer finds in bytes becomes times, texts, pages and lines that collectors could have made.
//!
//! Owns the generator and the seeds' meaning: the same bytes give the same records for ever. Refuses randomness and clocks.

pub mod records;
pub mod seed;
