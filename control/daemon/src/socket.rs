//! The unix socket: who may open it, and its life.

use std::io;
use std::os::unix::fs::{FileTypeExt, PermissionsExt};
use std::path::Path;

use march_proto::GROUP;
use tokio::net::UnixListener;

use crate::peer;

/// Listens, taking the place of a socket that a killed daemon left. Mode 0660, group `marchproxy` where it exists.
///
/// The caller holds the database, so no other daemon of this state directory listens there.
pub(crate) fn listen(path: &Path) -> io::Result<UnixListener> {
    match std::fs::symlink_metadata(path) {
        Ok(found) if found.file_type().is_socket() => {
            if std::os::unix::net::UnixStream::connect(path).is_ok() {
                return Err(io::Error::new(
                    io::ErrorKind::AddrInUse,
                    "another daemon listens there",
                ));
            }
            std::fs::remove_file(path)?;
        }
        Ok(_) => {
            return Err(io::Error::new(
                io::ErrorKind::AlreadyExists,
                "something else is there",
            ));
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let listener = UnixListener::bind(path)?;
    match peer::group_id(GROUP) {
        Some(group) => std::os::unix::fs::chown(path, None, Some(group))?,
        None => tracing::warn!(
            event = "socket.no_group",
            group = GROUP,
            "only root can connect"
        ),
    }
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o660))?;
    Ok(listener)
}

/// Removes the socket at an orderly stop.
pub(crate) fn remove(path: &Path) {
    if let Err(error) = std::fs::remove_file(path) {
        tracing::warn!(event = "socket.not_removed", path = %path.display(), %error);
    }
}
