//! The stories, one file each, against real processes. Read this list as an index.

// The tree keeps its own rules: dependencies, module docs, names, unsafe.
mod tidy;
// The harness itself: every release line of etcd starts, serves, loses a member and comes back.
mod clusters;
// The harness itself: receivers answer as they are told.
mod receivers;
// The harness itself: nothing it started survives it.
mod processes;
// The binary's answers and exit codes, on real clusters of every release line.
mod binary;
// Whatever others wrote: every parser returns, within its bounds.
mod hostile;
