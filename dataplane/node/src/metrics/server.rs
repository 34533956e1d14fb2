//! As much of an HTTP/1.1 server as two read-only pages need.

use core::net::SocketAddr;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;

use super::Snapshot;

/// Bytes of a request that are read before it is refused.
const REQUEST_BYTES: usize = 8 * 1024;

/// How long a client has to ask and to take the answer.
const CLIENT_TIME: Duration = Duration::from_secs(10);

/// Clients served at once; others wait in the kernel's queue.
const CLIENTS: usize = 16;

/// How long accepting pauses after it failed.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Why the pages cannot be served.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The pages have no authentication, so they stay on this machine.
    #[error("metrics address {0} is not a loopback address")]
    NotLoopback(SocketAddr),
    /// The address cannot be listened on.
    #[error("cannot listen on {address} for metrics: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the kernel said.
        source: io::Error,
    },
}

/// A running server. Dropping it stops it.
#[derive(Debug)]
pub struct MetricsServer {
    address: SocketAddr,
    task: JoinHandle<()>,
}

impl MetricsServer {
    /// Where it listens.
    pub const fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for MetricsServer {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Serves `/metrics` and `/healthz` on `address` (loopback; port 0 takes a free one). `snapshot` is called once per
/// request and must not block.
pub async fn serve(
    address: SocketAddr,
    snapshot: impl Fn() -> Snapshot + Send + Sync + 'static,
) -> Result<MetricsServer, ServeError> {
    if !address.ip().is_loopback() {
        return Err(ServeError::NotLoopback(address));
    }
    let failed = |source| ServeError::Listen { address, source };
    let listener = TcpListener::bind(address).await.map_err(failed)?;
    let address = listener.local_addr().map_err(failed)?;
    let task = tokio::spawn(accept_loop(listener, Arc::new(snapshot)));
    Ok(MetricsServer { address, task })
}

async fn accept_loop(
    listener: TcpListener,
    snapshot: Arc<impl Fn() -> Snapshot + Send + Sync + 'static>,
) {
    let clients = Arc::new(Semaphore::new(CLIENTS));
    loop {
        // The semaphore is never closed.
        let Ok(permit) = Arc::clone(&clients).acquire_owned().await else {
            return;
        };
        match listener.accept().await {
            Ok((client, _)) => {
                let snapshot = Arc::clone(&snapshot);
                tokio::spawn(async move {
                    // A client that is too slow or goes away gets nothing, and nobody needs to know.
                    let _ = tokio::time::timeout(CLIENT_TIME, answer(client, &*snapshot)).await;
                    drop(permit);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "metrics: accept failed, pausing");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Reads one request, answers it and closes.
async fn answer(mut client: TcpStream, snapshot: &impl Fn() -> Snapshot) -> io::Result<()> {
    let mut request = Vec::with_capacity(1024);
    let mut limited = (&mut client).take(REQUEST_BYTES as u64);
    while !request.windows(4).any(|window| window == b"\r\n\r\n") {
        if limited.read_buf(&mut request).await? == 0 {
            break;
        }
    }
    let page = page_for(&request, snapshot);
    let head = format!(
        "HTTP/1.1 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        page.status,
        page.content_type,
        page.body.len(),
    );
    client.write_all(head.as_bytes()).await?;
    client.write_all(page.body.as_bytes()).await?;
    client.shutdown().await
}

struct Page {
    status: &'static str,
    content_type: &'static str,
    body: String,
}

fn page_for(request: &[u8], snapshot: &impl Fn() -> Snapshot) -> Page {
    let text = |status, body| Page {
        status,
        content_type: "text/plain; charset=utf-8",
        body,
    };
    let is_whole = request.windows(4).any(|window| window == b"\r\n\r\n");
    let line = request
        .split(|byte| *byte == b'\r')
        .next()
        .unwrap_or_default();
    let mut words = line.split(|byte| *byte == b' ');
    let (Some(method), Some(target), true) = (words.next(), words.next(), is_whole) else {
        return text("400 Bad Request", "bad request\n".to_owned());
    };
    if method != b"GET" {
        return text("405 Method Not Allowed", "only GET\n".to_owned());
    }
    let path = target
        .split(|byte| *byte == b'?')
        .next()
        .unwrap_or_default();
    match path {
        b"/metrics" => Page {
            status: "200 OK",
            content_type: "text/plain; version=0.0.4; charset=utf-8",
            body: snapshot().to_text(),
        },
        b"/healthz" => match snapshot().health_page() {
            Ok(body) => text("200 OK", body),
            Err(body) => text("503 Service Unavailable", body),
        },
        _ => text(
            "404 Not Found",
            "here are /metrics and /healthz\n".to_owned(),
        ),
    }
}
