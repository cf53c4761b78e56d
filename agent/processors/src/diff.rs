//! What changed between two profiles, beyond sampling noise.
