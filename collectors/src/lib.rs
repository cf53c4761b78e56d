//! Data in: everything the agent learns of etcd and of the node. Each module is one source and ends in records.
//!
//! Sources never meet exporters or processors; they know `model` and the world. The edges of every source: bounded in
//! bytes, entries and time; a failure is data, counted in the ledger with a reason.

pub mod clock;
pub mod discover;
mod etcd;
pub mod host;
pub mod logs;
pub mod marks;
pub mod member;
pub mod probe;
pub mod scrape;
pub mod target;
pub mod tls;
