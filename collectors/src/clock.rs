//! The one place that reads the system's clocks; sends a tick each second.
