//! The node and the watched processes, from /proc and cgroups.
