//! Backburn's agent: wires collectors, the engine and exporters together. Only this crate sees them all.
//!
//! Where to start reading: [`cli`] is the table of contents of what the program can do, `pipeline` runs parts,
//! `engine_task` is the one place where state changes.

mod admin;
mod artefacts;
pub mod cli;
mod config;
mod engine_task;
#[cfg(fuzzing)]
pub mod fuzzing;
mod pipeline;
mod recording;
mod run;
mod selfprofile;
mod state;
mod telemetry;
