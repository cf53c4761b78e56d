//! Data out: OTLP, files for people, rollback signals. Exporters know `model` and the world, never collectors or processors.

pub mod files;
pub mod otlp;
pub mod rollback;
