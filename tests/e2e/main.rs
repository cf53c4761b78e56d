//! The stories, one file each, against real processes. Read this list as an index.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "all of it is test: a story that cannot go on has failed"
)]

// The tree keeps its own rules: dependencies, module docs, names, unsafe.
mod tidy;
// The harness itself: every release line of etcd starts, serves, loses a member and comes back.
mod clusters;
// The harness itself: receivers answer as they are told.
mod receivers;
// The harness itself: nothing it started survives it.
mod processes;
// The demo: Ctrl-C in the middle of it, or its death, leaves nothing running.
mod demo;
// The binary's answers and exit codes, on real clusters of every release line.
mod binary;
// `check`, `validate`, `mark`, `version`: what they print and how they end.
mod command_line;
// `agent --profile`: line one, files, and who may not.
mod profile_command;
// Goroutines at both ends of a window: a real leak is named, by what grows and by Go's own search, and pools are not.
mod goroutines;
// The same by the kernel's samples: of members without an endpoint, of any process, of a command.
mod profile_kernel;
// The daemon's own, of members without an endpoint: always on, on a regression, and for who asks later.
mod profile_daemon;
// Profiles as files: what other tools and `agent diff` and `view` make of them.
mod profile_files;
// Every release line: metrics, probes, board and check, over each protocol and compression.
mod versions;
// Members killed, frozen and deposed: probes tell which, and no rollout is blamed.
mod faults;
// Log lines: slow ones become spans, keys stay, no line is lost over restarts and crashes.
mod logs;
// Alarms of etcd and data that differ: a finding each, and no rollout goes on over them.
mod alarms;
// The main job: a bad rollout, one signed signal, its end; and the agent killed in between.
mod rollback;
// A recording replays to the same lines in any zone; cut and changed files are told apart.
mod replay;
// OTLP receivers at their worst: the agent stays well, lines arrive, drops are counted.
mod receiver;
// A watched service is replaced: its new build is a rollout, a new start a restart, the old build a put-back.
mod services;
// The agent's own heap, over its socket.
mod own_heap;
// Faster probes by request: bounded, shown, over by themselves.
mod boost;
// The OpenTelemetry Collector: takes all four signals, counts and writes what was meant, misses nothing after an outage.
mod collector;
// Without configuration: members are found, read, never written; a broken reload changes nothing.
mod zero_config;
// Whatever others wrote: every parser returns, within its bounds.
mod hostile;
