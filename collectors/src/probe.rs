//! Measures latency as a client sees it, open loop, one connection a member.
