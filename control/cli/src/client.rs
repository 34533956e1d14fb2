//! Reaching the daemon.

use std::error::Error;
use std::io;
use std::path::Path;

use march_proto::connect;
use march_proto::v1::control_client::ControlClient;
use tonic::transport::Channel;

use crate::exit::{Code, Failure};

/// A client of the daemon at this socket.
pub(crate) async fn control(socket: &Path) -> Result<ControlClient<Channel>, Failure> {
    let channel = connect::channel(socket)
        .await
        .map_err(|error| unreachable(socket, &error))?;
    Ok(connect::control(channel))
}

fn unreachable(socket: &Path, error: &tonic::transport::Error) -> Failure {
    let place = socket.display();
    let mut cause: Option<&(dyn Error + 'static)> = Some(error);
    let mut last = String::new();
    while let Some(error) = cause {
        if let Some(error) = error.downcast_ref::<io::Error>() {
            return match error.kind() {
                io::ErrorKind::PermissionDenied => Failure::new(
                    Code::Denied,
                    format!(
                        "{place}: permission denied; only root and the group {} may",
                        march_proto::GROUP
                    ),
                ),
                io::ErrorKind::NotFound => Failure::new(
                    Code::Unavailable,
                    format!("{place}: no such socket; is marchd running?"),
                ),
                io::ErrorKind::ConnectionRefused => Failure::new(
                    Code::Unavailable,
                    format!("{place}: nobody listens; marchd is not running"),
                ),
                _ => Failure::new(Code::Unavailable, format!("{place}: {error}")),
            };
        }
        last = error.to_string();
        cause = error.source();
    }
    Failure::new(Code::Unavailable, format!("{place}: {last}"))
}
