//! Profiles of processes: capture, baselines, one capture at a time.
