//! The test harness: real etcd clusters, receivers that stand in for backends, and the built agent as a process.
//!
//! It owns everything a story needs that is not the product, and it depends on no part of the product but `model`.
//! Everything here is synchronous: a receiver runs on a thread of its own, so that a test may pause its runtime's clock,
//! block, or have no runtime at all. What is started is ended by `Drop`, and by the kernel when the test dies first.

pub mod agent;
pub mod certs;
pub mod collector;
pub mod daemon;
pub mod etcd;
pub mod http;
pub mod incident;
mod listen;
pub mod process;
pub mod service;
pub mod sink;
mod sys;
pub mod webhook;
