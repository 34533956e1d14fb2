//! The session with the control daemon: one gRPC stream over its unix socket, opened again whenever it breaks.
//!
//! This task only carries messages. The agent decides; what it answers goes into the sender that [`Inbound::Connected`]
//! brought.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use march_proto::v1::daemon_message::Message as FromDaemon;
use march_proto::v1::node_message::Message as ToDaemon;
use march_proto::v1::{Hello, NodeMessage};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio_stream::wrappers::ReceiverStream;

/// Between attempts: doubled from the first to the last.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LAST_PAUSE: Duration = Duration::from_secs(5);
/// A session that stood this long was no failure: the next attempt comes quickly again.
const STOOD: Duration = Duration::from_secs(10);
/// Messages towards the daemon that may wait.
const OUTGOING: usize = 64;

/// Whether the queue towards the daemon has more room than its answers may need.
pub fn has_room_for_reports(outgoing: &mpsc::Sender<NodeMessage>) -> bool {
    outgoing.capacity() > OUTGOING / 2
}

/// What comes from the session.
#[derive(Debug)]
pub enum Inbound {
    /// It stands; answers go into the sender.
    Connected(mpsc::Sender<NodeMessage>),
    /// A message, and when it came.
    Message(Box<FromDaemon>, Instant),
    /// It broke or could not be opened.
    Disconnected(String),
}

/// What the node runs, for `Hello`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Running {
    /// Revision; 0: none.
    pub revision: u64,
    /// Content hash; empty: none.
    pub hash: String,
}

/// Starts the task. It ends with the receiver of `inbound`.
pub fn spawn(
    socket: PathBuf,
    node: String,
    running: watch::Receiver<Running>,
    inbound: mpsc::Sender<Inbound>,
) -> JoinHandle<()> {
    tokio::spawn(async move {
        let mut pause = FIRST_PAUSE;
        loop {
            let start = Instant::now();
            let reason = hold(&socket, &node, &running, &inbound).await;
            if inbound.send(Inbound::Disconnected(reason)).await.is_err() {
                return;
            }
            if start.elapsed() > STOOD {
                pause = FIRST_PAUSE;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LAST_PAUSE);
        }
    })
}

/// Holds one session as long as it stands; returns why it ended.
async fn hold(
    socket: &Path,
    node: &str,
    running: &watch::Receiver<Running>,
    inbound: &mpsc::Sender<Inbound>,
) -> String {
    let channel = match march_proto::connect::channel(socket).await {
        Ok(channel) => channel,
        Err(error) => {
            return format!(
                "cannot reach marchd on {}: {}",
                socket.display(),
                chain(&error)
            );
        }
    };
    let (sender, receiver) = mpsc::channel(OUTGOING);
    let Running { revision, hash } = running.borrow().clone();
    let hello = Hello {
        node: node.to_owned(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        running_revision: revision,
        running_hash: hash,
    };
    if sender
        .send(NodeMessage {
            message: Some(ToDaemon::Hello(hello)),
        })
        .await
        .is_err()
    {
        return "the session ended before it began".to_owned();
    }
    let mut client = march_proto::connect::node(channel);
    let mut stream = match client.session(ReceiverStream::new(receiver)).await {
        Ok(response) => response.into_inner(),
        Err(status) => return format!("marchd refused the session: {}", status.message()),
    };
    if inbound.send(Inbound::Connected(sender)).await.is_err() {
        return "the agent stopped".to_owned();
    }
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                let Some(message) = message.message else {
                    continue;
                };
                if inbound
                    .send(Inbound::Message(Box::new(message), Instant::now()))
                    .await
                    .is_err()
                {
                    return "the agent stopped".to_owned();
                }
            }
            Ok(None) => return "marchd closed the session".to_owned(),
            Err(status) => return format!("the session broke: {}", status.message()),
        }
    }
}

fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}
