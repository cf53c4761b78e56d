//! A file that stops all profiling on the node for as long as it exists.

use std::fs::Metadata;
use std::io::{self, ErrorKind};
use std::path::Path;
use std::time::Duration;

/// How often it is looked for while a capture runs.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Ends when the kill switch appears.
pub(super) async fn appears(path: &Path) {
    while !present(path).await {
        tokio::time::sleep(LOOK_EVERY).await;
    }
}

pub(super) async fn present(path: &Path) -> bool {
    is_there(tokio::fs::symlink_metadata(path).await)
}

/// A file that cannot be looked at counts as there: in doubt nothing is profiled.
pub(crate) fn is_there(looked_at: io::Result<Metadata>) -> bool {
    match looked_at {
        Ok(_) => true,
        Err(error) => !matches!(error.kind(), ErrorKind::NotFound | ErrorKind::NotADirectory),
    }
}
