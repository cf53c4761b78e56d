//! Collectors against real etcd members of each supported version, started here on free loopback ports.
#![expect(clippy::expect_used, reason = "a test fails by panicking")]
#![expect(clippy::print_stdout, reason = "the figures of a run are shown with --nocapture")]

mod cluster;
mod members;
mod probes;
mod processes;
mod secured;
mod server;
