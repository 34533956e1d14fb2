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
/// Messages towards the daemon that may wait: reports up to a half of them, answers to its questions, of which it has 64
/// open at most, and what it waits for before it goes on with a push.
const OUTGOING: usize = 256;
/// Places that only the last of those may take. The daemon is owed one such answer at a time.
const FOR_PUSHES: usize = 8;

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Offered {
    /// It will be sent.
    Taken,
    /// There is no room for its kind, and none waits for it: the next report is newer, and a question has a deadline.
    PassedOver,
    /// It cannot be sent, and the session cannot go on without it: drop the sender, and another session begins.
    Ended,
}

/// Puts a message into the queue towards the daemon, unless its kind must leave the room to others.
pub fn offer(outgoing: &mpsc::Sender<NodeMessage>, message: ToDaemon) -> Offered {
    let left_to_others = match &message {
        ToDaemon::Telemetry(_) => OUTGOING / 2,
        ToDaemon::QueryReply(_) => FOR_PUSHES,
        _ => 0,
    };
    if left_to_others > 0 && outgoing.capacity() <= left_to_others && !outgoing.is_closed() {
        return Offered::PassedOver;
    }
    let message = Some(message);
    match outgoing.try_send(NodeMessage { message }) {
        Ok(()) => Offered::Taken,
        Err(_) => Offered::Ended,
    }
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

#[cfg(test)]
mod tests {
    use march_proto::v1::{Ack, QueryReply, Telemetry};

    use super::*;

    #[test]
    fn reports_and_answers_to_questions_leave_room_for_answers_to_pushes() {
        let (outgoing, mut queue) = mpsc::channel(OUTGOING);
        let fill = |message: &ToDaemon| {
            let mut taken = 0;
            while offer(&outgoing, message.clone()) == Offered::Taken {
                taken += 1;
            }
            (taken, offer(&outgoing, message.clone()))
        };
        let reports = fill(&ToDaemon::Telemetry(Telemetry::default()));
        assert_eq!(reports, (OUTGOING / 2, Offered::PassedOver));
        let replies = fill(&ToDaemon::QueryReply(QueryReply::default()));
        assert_eq!(
            replies,
            (OUTGOING / 2 - FOR_PUSHES, Offered::PassedOver),
            "more than the daemon has questions open"
        );
        let ack = ToDaemon::Ack(Ack::default());
        assert_eq!(offer(&outgoing, ack.clone()), Offered::Taken);
        let first = queue.try_recv().expect("a message").message;
        assert!(matches!(first, Some(ToDaemon::Telemetry(_))));
        // A lost answer to a push would hang it: the session ends instead.
        assert_eq!(fill(&ack), (FOR_PUSHES, Offered::Ended));
        drop(queue);
        let report = ToDaemon::Telemetry(Telemetry::default());
        assert_eq!(offer(&outgoing, report), Offered::Ended);
    }
}
