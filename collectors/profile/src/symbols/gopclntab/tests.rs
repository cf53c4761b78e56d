//! Held against what Go itself says.
