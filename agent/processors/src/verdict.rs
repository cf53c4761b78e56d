//! Weighs burn, regressions and markers into one decision a target.
