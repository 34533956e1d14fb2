//! A node that speaks the real session, and waiting for conditions. Shared by the tests of `marchd` and `marchctl`.
#![allow(dead_code, reason = "each test binary uses a part")]

use std::path::Path;
use std::time::{Duration, Instant};

use march_model::State;
use march_proto::v1::{self, daemon_message::Message, node_message};
use march_proto::{connect, convert};
use tokio::sync::mpsc;
use tokio_stream::StreamExt;
use tokio_stream::wrappers::ReceiverStream;
use tonic::Streaming;

/// Far longer than anything takes; only a failing test waits for it.
pub const DEADLINE: Duration = Duration::from_secs(20);

/// A node agent without a data plane: it checks what it is sent as a real one must, and answers as the test says.
pub struct Node {
    inbound: Streaming<v1::DaemonMessage>,
    outbound: mpsc::Sender<v1::NodeMessage>,
    /// The documents that it holds.
    pub held: State,
    /// The admin states that it was sent last.
    pub admins: Vec<v1::BackendAdmin>,
}

/// What a push was.
#[derive(Debug, PartialEq, Eq)]
pub enum Push {
    Snapshot {
        revision: u64,
        documents: usize,
    },
    Delta {
        from: u64,
        to: u64,
        upserts: usize,
        deletes: usize,
    },
}

impl Node {
    /// Opens a session of a node that runs a revision, 0 for none.
    pub async fn connect(socket: &Path, name: &str, running: (u64, &State)) -> Self {
        let channel = connect::channel(socket).await.expect("the daemon listens");
        let (outbound, messages) = mpsc::channel(64);
        let hello = v1::Hello {
            node: name.to_owned(),
            version: "test".to_owned(),
            running_revision: running.0,
            running_hash: if running.0 == 0 {
                String::new()
            } else {
                running.1.hash().to_string()
            },
        };
        send(&outbound, node_message::Message::Hello(hello)).await;
        let session = connect::node(channel)
            .session(ReceiverStream::new(messages))
            .await;
        let inbound = session.expect("the session opens").into_inner();
        Self {
            inbound,
            outbound,
            held: running.1.clone(),
            admins: Vec::new(),
        }
    }

    /// The next message, or why the session ended.
    pub async fn next(&mut self) -> Result<Message, tonic::Status> {
        let next = tokio::time::timeout(DEADLINE, self.inbound.next()).await;
        match next.expect("a message or the end within the deadline") {
            Some(Ok(message)) => Ok(message.message.expect("a known message")),
            Some(Err(status)) => Err(status),
            None => Err(tonic::Status::cancelled("the stream ended")),
        }
    }

    /// The next push, applied and checked against its hash; admin states on the way are kept.
    pub async fn push(&mut self) -> Push {
        loop {
            match self.next().await.expect("a push") {
                Message::Snapshot(snapshot) => {
                    self.held = convert::state_of_snapshot(&snapshot).expect("a sound snapshot");
                    self.admins = snapshot.backend_admins;
                    let documents = snapshot.documents.len();
                    return Push::Snapshot {
                        revision: snapshot.revision,
                        documents,
                    };
                }
                Message::Delta(delta) => {
                    self.held = convert::state_of_delta(&self.held, &delta).expect("a sound delta");
                    return Push::Delta {
                        from: delta.from,
                        to: delta.to,
                        upserts: delta.upserts.len(),
                        deletes: delta.deletes.len(),
                    };
                }
                Message::BackendAdmins(admins) => self.admins = admins.states,
                other => panic!("expected a push, got {other:?}"),
            }
        }
    }

    pub async fn ack(&self, revision: u64) {
        let timings = v1::Timings {
            verified_us: 1,
            compiled_us: 2,
            published_us: 3,
            running_us: 4,
            generation: revision,
        };
        self.say(node_message::Message::Ack(v1::Ack {
            revision,
            timings: Some(timings),
        }))
        .await;
    }

    pub async fn nack(&self, revision: u64, document: &str, path: &str, message: &str) {
        let error = v1::FieldError {
            document: document.to_owned(),
            path: path.to_owned(),
            message: message.to_owned(),
            ..Default::default()
        };
        self.say(node_message::Message::Nack(v1::Nack {
            revision,
            errors: vec![error],
        }))
        .await;
    }

    pub async fn telemetry(&self, telemetry: v1::Telemetry) {
        self.say(node_message::Message::Telemetry(telemetry)).await;
    }

    pub async fn reply(&self, id: u64, reply: v1::query_reply::Reply) {
        self.say(node_message::Message::QueryReply(v1::QueryReply {
            id,
            reply: Some(reply),
        }))
        .await;
    }

    pub async fn say(&self, message: node_message::Message) {
        send(&self.outbound, message).await;
    }
}

async fn send(outbound: &mpsc::Sender<v1::NodeMessage>, message: node_message::Message) {
    outbound
        .send(v1::NodeMessage {
            message: Some(message),
        })
        .await
        .expect("the session is open");
}

/// Looks until the condition holds; fails the test when it does not within the deadline.
pub async fn eventually<T, F: Future<Output = Option<T>>>(
    what: &str,
    mut look: impl FnMut() -> F,
) -> T {
    let end = Instant::now() + DEADLINE;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < end, "not within the deadline: {what}");
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// A rule document.
pub fn rule(name: &str, priority: u32) -> String {
    format!(
        "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: {name} }}\nspec: {{ priority: {priority}, action: drop }}\n---\n"
    )
}

/// A service with its pool of one backend.
pub fn service(name: &str, vip: &str, backend: &str) -> String {
    format!(
        "apiVersion: marchproxy/v1\nkind: Service\nmetadata: {{ name: {name} }}\nspec: {{ address: {vip}, port: 80, protocol: tcp, pool: {name} }}\n---\napiVersion: marchproxy/v1\nkind: Pool\nmetadata: {{ name: {name} }}\nspec: {{ backends: [ {{ address: {backend}, port: 8080 }} ] }}\n---\n"
    )
}
