//! The nouns of Backburn: what collectors see, processors conclude and exporters ship.
//!
//! Owns the types that cross a crate boundary, the bounded inbox they travel in and the ledger of losses.
//! Refuses I/O, clocks (a [`time::Clock`] is handed in) and every dependency but serde and tokio's semaphore and channel.

pub mod board;
pub mod finding;
pub mod hex;
pub mod host;
pub mod inbox;
pub mod ledger;
pub mod log;
pub mod mark;
pub mod member;
pub mod origin;
pub mod probe;
pub mod profile;
pub mod record;
pub mod request;
pub mod scrape;
pub mod time;
pub mod verdict;
