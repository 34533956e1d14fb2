//! `marchd`, the control daemon: desired state in, revisions out to the nodes.
//!
//! What it is: the gRPC API of `march-proto` on a unix socket, the database of `march-store` behind it, one session
//! per node. What it is not: it forwards no packet, and no packet waits for it; a node runs its last revision without
//! it. Entry point: [`serve`].
//!
//! Invariants: a change is answered only when it is on the disk; a node is sent only what is committed, at most one
//! push at a time, so that a slow node delays nobody; only root and members of the group `marchproxy` are answered.
#![forbid(unsafe_code)]

mod api;
mod apply;
mod ask;
mod backends;
mod convergence;
mod errors;
mod metrics;
mod nodes;
mod observe;
mod peer;
mod session;
mod sets;
mod shared;
mod socket;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use march_proto::MAX_MESSAGE_BYTES;
use march_proto::v1::control_server::ControlServer;
use march_proto::v1::node_server::NodeServer;
use march_store::{Store, StoreError};
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::Server;

use crate::shared::Shared;

/// How long an orderly stop waits for peers to close their connections.
const GRACE: Duration = Duration::from_secs(3);

/// What the daemon needs to know.
#[derive(Clone, Debug)]
pub struct Options {
    /// Where it listens.
    pub socket: PathBuf,
    /// The database.
    pub database: PathBuf,
    /// The bound of the database, in bytes.
    pub max_database_bytes: u64,
    /// Where health and metrics are served; loopback only. None: nowhere.
    pub metrics: Option<SocketAddr>,
}

/// Why the daemon cannot start or go on.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The database cannot be used.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The socket cannot be made.
    #[error("cannot listen on {path}: {source}")]
    Socket {
        /// The socket.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Health and metrics are for loopback addresses only.
    #[error("metrics address {0} is not a loopback address, and there is no TLS for it")]
    MetricsAddress(SocketAddr),
    /// The server broke.
    #[error("the server failed: {0}")]
    Server(#[from] tonic::transport::Error),
}

/// Serves until `stop` becomes true, then ends the sessions, closes the database and removes the socket.
pub async fn serve(options: Options, mut stop: watch::Receiver<bool>) -> Result<(), ServeError> {
    if let Some(address) = options.metrics
        && !address.ip().is_loopback()
    {
        return Err(ServeError::MetricsAddress(address));
    }
    // The database first: its lock says that no other daemon uses the socket's path.
    let store = Store::open(&options.database, options.max_database_bytes)?;
    let shared = Shared::new(store, stop.clone())?;
    let listener = socket::listen(&options.socket).map_err(|source| ServeError::Socket {
        path: options.socket.clone(),
        source,
    })?;
    let desired = shared.desired();
    tracing::info!(
        event = "daemon.started",
        version = env!("CARGO_PKG_VERSION"),
        socket = %options.socket.display(),
        database = %options.database.display(),
        revision = desired.revision,
        documents = desired.state.len(),
    );
    if let Some(address) = options.metrics {
        tokio::spawn(metrics::serve(address, Arc::clone(&shared)));
    }
    let control = ControlServer::new(api::Api::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let node = NodeServer::new(session::Sessions::new(Arc::clone(&shared)))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .max_encoding_message_size(MAX_MESSAGE_BYTES);
    let mut grace = stop.clone();
    let stopped = async move {
        // An error means that the sender is gone, which is an end as well.
        let _ = stop.wait_for(|stop| *stop).await;
    };
    let served = Server::builder()
        .add_service(InterceptedService::new(control, peer::check))
        .add_service(InterceptedService::new(node, peer::check))
        .serve_with_incoming_shutdown(UnixListenerStream::new(listener), stopped);
    let served = tokio::select! {
        served = served => served,
        () = async {
            let _ = grace.wait_for(|stop| *stop).await;
            tokio::time::sleep(GRACE).await;
        } => {
            tracing::warn!(event = "daemon.connections_cut", "peers did not close their connections");
            Ok(())
        }
    };
    socket::remove(&options.socket);
    let closed = shared.with_store(|_, store| store.checkpoint().map_err(errors::store));
    if let Err(error) = closed.await {
        tracing::warn!(event = "store.not_checkpointed", error = error.message());
    }
    tracing::info!(
        event = "daemon.stopped",
        revision = shared.desired().revision
    );
    Ok(served?)
}
