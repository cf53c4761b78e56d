//! Reads `/metrics` pages into columns.

pub mod exposition;
