//! Reads `/metrics` pages into columns.
