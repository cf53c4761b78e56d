//! The unix socket: never open to others, not even between `bind` and `chmod`; a dead agent's file is replaced, a living
//! agent's is not.

use std::fs::{self, DirBuilder, Permissions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, PermissionsExt};
use std::path::{Path, PathBuf};

use tokio::net::{UnixListener, UnixStream};

use super::BindError;

/// A bound socket; its file goes with it.
#[derive(Debug)]
pub(super) struct Socket {
    pub(super) listener: UnixListener,
    path: PathBuf,
}

impl Socket {
    pub(super) async fn bind(path: &Path) -> Result<Socket, BindError> {
        if UnixStream::connect(path).await.is_ok() {
            return Err(BindError::InUse(path.to_owned()));
        }
        let listener = bind_private(path).map_err(|error| BindError::Unix(path.to_owned(), error))?;
        Ok(Socket { listener, path: path.to_owned() })
    }
}

/// Binds under another name in a folder of mode 0700, then moves the file, already 0600, into place.
fn bind_private(path: &Path) -> io::Result<UnixListener> {
    let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let nursery = folder.join(format!(".admin-{}", std::process::id()));
    DirBuilder::new().mode(0o700).create(&nursery).or_else(|error| match error.kind() {
        io::ErrorKind::AlreadyExists => Ok(()),
        _ => Err(error),
    })?;
    let fresh = nursery.join("s");
    let bound = UnixListener::bind(&fresh).and_then(|listener| {
        fs::set_permissions(&fresh, Permissions::from_mode(0o600))?;
        fs::rename(&fresh, path)?;
        Ok(listener)
    });
    if bound.is_err()
        && let Err(error) = fs::remove_file(&fresh)
    {
        tracing::debug!(%error, "no socket to clean up");
    }
    fs::remove_dir(&nursery)?;
    bound
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_file(&self.path) {
            tracing::debug!(%error, path = %self.path.display(), "the socket's file was gone");
        }
    }
}
