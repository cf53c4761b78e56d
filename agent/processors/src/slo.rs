//! Objectives, exact counts, burn lanes.
