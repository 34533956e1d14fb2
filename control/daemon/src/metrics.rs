//! Health and metrics over plain HTTP/1.1, for loopback only.

use std::fmt::Write as _;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use march_proto::v1;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

use crate::shared::Shared;

/// How many connections are served at a time.
const MAX_CONNECTIONS: usize = 16;
/// The longest request head, in bytes.
const MAX_HEAD_BYTES: usize = 4_096;

/// Serves until the daemon ends. An address in use is a warning: the daemon's work does not need it.
pub(crate) async fn serve(address: SocketAddr, shared: Arc<Shared>) {
    let listener = match TcpListener::bind(address).await {
        Ok(listener) => listener,
        Err(error) => {
            tracing::warn!(event = "metrics.unavailable", %address, %error);
            return;
        }
    };
    let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    loop {
        let slot = Arc::clone(&slots)
            .acquire_owned()
            .await
            .expect("the semaphore is never closed");
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    // A client that goes or stalls is its own affair.
                    let _ =
                        tokio::time::timeout(Duration::from_secs(5), answer(stream, &shared)).await;
                    drop(slot);
                });
            }
            // Out of descriptors, perhaps: give the others time to end.
            Err(_) => tokio::time::sleep(Duration::from_millis(100)).await,
        }
    }
}

async fn answer(mut stream: TcpStream, shared: &Shared) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") && head.len() < MAX_HEAD_BYTES {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next().unwrap_or(&[]));
    let mut words = line.split(' ');
    let (status, body) = match (words.next(), words.next()) {
        (Some("GET"), Some("/healthz")) => ("200 OK", "ok\n".to_owned()),
        (Some("GET"), Some("/metrics")) => ("200 OK", metrics(shared)),
        (Some("GET"), _) => (
            "404 Not Found",
            "there is /healthz and /metrics\n".to_owned(),
        ),
        _ => ("405 Method Not Allowed", "GET only\n".to_owned()),
    };
    let response = format!(
        "HTTP/1.1 {status}\r\ncontent-type: text/plain; version=0.0.4; charset=utf-8\r\ncontent-length: {}\r\n\
         connection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(response.as_bytes()).await?;
    stream.shutdown().await
}

fn metrics(shared: &Shared) -> String {
    let desired = shared.desired();
    let hash = desired.state.hash().to_string();
    let nodes = shared.nodes.statuses(None, desired.revision, &hash);
    let count = |state: v1::NodeState| nodes.iter().filter(|node| node.state() == state).count();
    let mut text = String::new();
    let mut gauge = |name: &str, help: &str, values: &[(String, u64)]| {
        let _ = writeln!(
            text,
            "# HELP marchproxy_{name} {help}\n# TYPE marchproxy_{name} gauge"
        );
        for (labels, value) in values {
            let _ = writeln!(text, "marchproxy_{name}{labels} {value}");
        }
    };
    gauge(
        "head_revision",
        "Number of the newest revision.",
        &[(String::new(), desired.revision)],
    );
    gauge(
        "documents",
        "Documents in the newest revision.",
        &[(String::new(), desired.state.len() as u64)],
    );
    let states = [
        ("running", v1::NodeState::Running),
        ("pending", v1::NodeState::Pending),
        ("refused", v1::NodeState::Refused),
        ("stale", v1::NodeState::Stale),
        ("lost", v1::NodeState::Lost),
    ];
    let by_state =
        states.map(|(word, state)| (format!("{{state=\"{word}\"}}"), count(state) as u64));
    gauge(
        "nodes",
        "Nodes by how they stand towards the newest revision.",
        &by_state,
    );
    let label = |node: &v1::NodeStatus| format!("{{node=\"{}\"}}", node.node);
    let running: Vec<_> = nodes
        .iter()
        .map(|node| (label(node), node.running_revision))
        .collect();
    gauge(
        "node_running_revision",
        "Revision that a node runs.",
        &running,
    );
    text
}
