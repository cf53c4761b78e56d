//! Where the set-up has put its tools, and which Go builds the programs of these stories.

use std::env;
use std::path::{Path, PathBuf};

/// What set-up has made.
pub(crate) fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.tools")
}

/// The Go of the set-up, or the one on PATH; `GO` names another one.
pub(crate) fn go() -> PathBuf {
    let ours = tools().join("go/bin/go");
    match env::var_os("GO") {
        Some(named) => named.into(),
        None if ours.exists() => ours,
        None => "go".into(),
    }
}
