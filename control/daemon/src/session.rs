//! One session with one node: pushes down, answers and telemetry up.
//!
//! The loop never waits for the node: what is to be sent stands in a short queue until the stream takes it, and while
//! a push is unanswered no other is made, so the queue's length is bounded by its kinds of message.

use std::collections::{HashMap, VecDeque};
use std::pin::Pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use march_model::State;
use march_proto::v1::{self, daemon_message, node_message};
use march_proto::{CLOSE_AFTER_MS, convert};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming};

use crate::nodes::{Progress, Question, Seat};
use crate::sets;
use crate::shared::{Desired, Shared};

/// How long a node may take to say who it is.
const HELLO_WITHIN: Duration = Duration::from_secs(10);
/// How many queries of one session may be unanswered.
const MAX_OPEN_QUERIES: usize = 64;

/// The `Node` service.
#[derive(Debug)]
pub(crate) struct Sessions {
    shared: Arc<Shared>,
}

impl Sessions {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

type Outbound = mpsc::Sender<Result<v1::DaemonMessage, Status>>;

#[tonic::async_trait]
impl v1::node_server::Node for Sessions {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::DaemonMessage, Status>> + Send>>;

    async fn session(
        &self,
        request: Request<Streaming<v1::NodeMessage>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let inbound = request.into_inner();
        let (outbound, stream) = mpsc::channel(1);
        let shared = Arc::clone(&self.shared);
        tokio::spawn(async move {
            let end = run(&shared, inbound, &outbound).await;
            if let Err(status) = end {
                // The node may be gone already.
                let _ = outbound
                    .send_timeout(Err(status), Duration::from_secs(1))
                    .await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(stream))))
    }
}

async fn run(
    shared: &Arc<Shared>,
    mut inbound: Streaming<v1::NodeMessage>,
    outbound: &Outbound,
) -> Result<(), Status> {
    let first = tokio::time::timeout(HELLO_WITHIN, inbound.next()).await;
    let first = first.map_err(|_| Status::deadline_exceeded("no Hello came"))?;
    let Some(node_message::Message::Hello(hello)) =
        first.transpose()?.and_then(|message| message.message)
    else {
        return Err(Status::invalid_argument("the first message must be Hello"));
    };
    let name = hello
        .node
        .parse()
        .map_err(|error: String| Status::invalid_argument(format!("Hello.node: {error}")))?;
    let (seat, mut questions) = shared.nodes.seat(name, &hello);
    tracing::info!(
        event = "node.connected",
        node = %seat.name,
        version = hello.version,
        running = hello.running_revision,
    );
    let mut session = Session::new(seat, hello);
    let end = session
        .drive(shared, &mut inbound, outbound, &mut questions)
        .await;
    let why = match &end {
        Ok(()) => "the node ended the session".to_owned(),
        Err(status) => status.message().to_owned(),
    };
    tracing::info!(event = "node.disconnected", node = %session.seat.name, why);
    end
}

/// A push that the node has not answered yet.
struct Push {
    revision: u64,
    state: Arc<State>,
    committed: Instant,
}

struct Session<'a> {
    seat: Seat<'a>,
    hello: v1::Hello,
    /// What the node runs, where its documents are known here.
    held: Option<(u64, Arc<State>)>,
    open_push: Option<Push>,
    /// The revision that was answered last, whatever the answer.
    answered: Option<u64>,
    admins_sent: Option<Arc<Vec<v1::BackendAdmin>>>,
    queue: VecDeque<daemon_message::Message>,
    open_queries: HashMap<u64, OpenQuery>,
    next_query: u64,
    /// Chunks that the node asked for are being read.
    is_reading_chunks: bool,
    heard: Instant,
}

/// A question that the node was sent.
struct OpenQuery {
    deadline: Instant,
    answer: tokio::sync::oneshot::Sender<v1::QueryReply>,
}

impl<'a> Session<'a> {
    fn new(seat: Seat<'a>, hello: v1::Hello) -> Self {
        Self {
            seat,
            hello,
            held: None,
            open_push: None,
            answered: None,
            admins_sent: None,
            queue: VecDeque::new(),
            open_queries: HashMap::new(),
            next_query: 1,
            is_reading_chunks: false,
            heard: Instant::now(),
        }
    }

    async fn drive(
        &mut self,
        shared: &Arc<Shared>,
        inbound: &mut Streaming<v1::NodeMessage>,
        outbound: &Outbound,
        questions: &mut mpsc::Receiver<Question>,
    ) -> Result<(), Status> {
        let mut desired = shared.follow();
        let mut changes = shared.nodes.changes();
        let mut stop = shared.stop.clone();
        let mut tick = tokio::time::interval(Duration::from_secs(1));
        let (read, mut chunks) = mpsc::channel(1);
        let start = desired.borrow_and_update().clone();
        self.on_start(&start);
        loop {
            tokio::select! {
                message = inbound.next() => match message.transpose()? {
                    None => return Ok(()),
                    Some(v1::NodeMessage {
                        message: Some(node_message::Message::ChunkRequest(request)),
                    }) => self.on_chunk_request(shared, request, &read)?,
                    Some(message) => {
                        self.on_message(message)?;
                        let now = desired.borrow_and_update().clone();
                        self.on_desired(&now);
                    }
                },
                permit = outbound.reserve(), if !self.queue.is_empty() => {
                    let permit = permit.map_err(|_| Status::cancelled("the node went away"))?;
                    permit.send(Ok(v1::DaemonMessage { message: self.queue.pop_front() }));
                }
                _ = desired.changed() => {
                    let now = desired.borrow_and_update().clone();
                    self.on_desired(&now);
                }
                Some(answer) = chunks.recv() => {
                    self.is_reading_chunks = false;
                    self.queue.push_back(daemon_message::Message::Chunks(answer?));
                }
                Some(question) = questions.recv() => self.on_question(question),
                _ = changes.changed() => {
                    if !self.seat.is_mine() {
                        return Err(Status::aborted("another session of this node took over"));
                    }
                }
                _ = tick.tick() => self.on_tick()?,
                _ = stop.wait_for(|stop| *stop) => {
                    return Err(Status::unavailable("the daemon is stopping"));
                }
            }
        }
    }

    /// A node that runs the head already is sent nothing but the admin states. Nor is anything pushed before the first
    /// commit: a new database must not empty a node that forwards.
    fn on_start(&mut self, desired: &Desired) {
        let hash = desired.state.hash().to_string();
        let runs_head =
            self.hello.running_revision == desired.revision && self.hello.running_hash == hash;
        if !runs_head && desired.revision > 0 {
            self.on_desired(desired);
            return;
        }
        if runs_head {
            self.held = Some((desired.revision, Arc::clone(&desired.state)));
            self.seat
                .on_running(desired.revision, &hash, Progress::default());
        }
        self.answered = Some(desired.revision);
        self.admins_sent = Some(Arc::clone(&desired.admins));
        self.queue
            .push_back(daemon_message::Message::Current(v1::Current {
                revision: desired.revision,
                hash,
                backend_admins: desired.admins.to_vec(),
            }));
    }

    /// Pushes what the node lacks, unless it still owes an answer.
    fn on_desired(&mut self, desired: &Desired) {
        let is_new = self.answered != Some(desired.revision);
        if self.open_push.is_none() && is_new {
            self.push(desired);
        }
        let known = self
            .admins_sent
            .as_ref()
            .is_some_and(|sent| Arc::ptr_eq(sent, &desired.admins));
        if !known {
            self.admins_sent = Some(Arc::clone(&desired.admins));
            // The list is always whole: one that still waits is out of date.
            self.queue
                .retain(|message| !matches!(message, daemon_message::Message::BackendAdmins(_)));
            let states = desired.admins.to_vec();
            self.queue
                .push_back(daemon_message::Message::BackendAdmins(v1::BackendAdmins {
                    states,
                }));
        }
    }

    fn push(&mut self, desired: &Desired) {
        let message = match &self.held {
            Some((revision, state)) => daemon_message::Message::Delta(convert::delta(
                (*revision, state),
                (desired.revision, &desired.state),
            )),
            None => {
                self.admins_sent = Some(Arc::clone(&desired.admins));
                let admins = desired.admins.to_vec();
                daemon_message::Message::Snapshot(convert::snapshot(
                    desired.revision,
                    &desired.state,
                    admins,
                ))
            }
        };
        tracing::debug!(event = "node.pushed", node = %self.seat.name, revision = desired.revision);
        self.queue.push_back(message);
        self.open_push = Some(Push {
            revision: desired.revision,
            state: Arc::clone(&desired.state),
            committed: desired.since,
        });
    }

    fn on_message(&mut self, message: v1::NodeMessage) -> Result<(), Status> {
        self.heard = Instant::now();
        self.seat.on_heard();
        match message.message {
            Some(node_message::Message::Ack(ack)) => self.on_ack(ack),
            Some(node_message::Message::Nack(nack)) => self.on_nack(nack),
            Some(node_message::Message::Telemetry(telemetry)) => {
                self.seat.on_telemetry(telemetry);
                Ok(())
            }
            Some(node_message::Message::QueryReply(reply)) => {
                if let Some(open) = self.open_queries.remove(&reply.id) {
                    // The one who asked may have given up.
                    let _ = open.answer.send(reply);
                }
                Ok(())
            }
            Some(node_message::Message::Hello(_)) => {
                Err(Status::invalid_argument("a second Hello"))
            }
            // A newer node may say what this daemon does not know; chunks are asked for above.
            Some(node_message::Message::ChunkRequest(_)) | None => Ok(()),
        }
    }

    /// Has chunks read beside the loop, which goes on meanwhile.
    fn on_chunk_request(
        &mut self,
        shared: &Arc<Shared>,
        request: v1::ChunkRequest,
        read: &mpsc::Sender<Result<v1::Chunks, Status>>,
    ) -> Result<(), Status> {
        self.heard = Instant::now();
        self.seat.on_heard();
        if std::mem::replace(&mut self.is_reading_chunks, true) {
            return Err(Status::invalid_argument(
                "chunks were asked for before those asked for last had come",
            ));
        }
        let (shared, read) = (Arc::clone(shared), read.clone());
        tokio::spawn(async move {
            let answer = sets::chunks(&shared, request.hashes).await;
            // The session may have ended.
            let _ = read.send(answer).await;
        });
        Ok(())
    }

    fn answered_push(&mut self, revision: u64) -> Result<Push, Status> {
        match self.open_push.take() {
            Some(push) if push.revision == revision => {
                self.answered = Some(revision);
                Ok(push)
            }
            _ => Err(Status::invalid_argument(format!(
                "an answer to revision {revision}, which was not asked"
            ))),
        }
    }

    fn on_ack(&mut self, ack: v1::Ack) -> Result<(), Status> {
        let push = self.answered_push(ack.revision)?;
        let commit_to_ack = push.committed.elapsed();
        let timings = ack.timings.unwrap_or_default();
        tracing::info!(
            event = "node.running",
            node = %self.seat.name,
            revision = ack.revision,
            running_us = timings.running_us,
            commit_to_ack_us = u64::try_from(commit_to_ack.as_micros()).unwrap_or(u64::MAX),
        );
        let hash = push.state.hash().to_string();
        self.held = Some((push.revision, push.state));
        let progress = Progress {
            timings: Some(timings),
            commit_to_ack: Some(commit_to_ack),
        };
        self.seat.on_running(ack.revision, &hash, progress);
        Ok(())
    }

    /// The next push will be a snapshot: what the node made of this one is not known.
    fn on_nack(&mut self, nack: v1::Nack) -> Result<(), Status> {
        self.answered_push(nack.revision)?;
        self.held = None;
        let first = nack
            .errors
            .first()
            .map_or("", |error| error.message.as_str());
        tracing::warn!(event = "node.refused", node = %self.seat.name, revision = nack.revision, error = first);
        self.seat.on_refused(nack.revision, nack.errors);
        Ok(())
    }

    fn on_question(&mut self, question: Question) {
        if self.open_queries.len() >= MAX_OPEN_QUERIES {
            // Dropping the question tells the one who asked.
            return;
        }
        let id = self.next_query;
        self.next_query += 1;
        let Question {
            query,
            deadline,
            answer,
        } = question;
        self.open_queries.insert(id, OpenQuery { deadline, answer });
        self.queue
            .push_back(daemon_message::Message::Query(v1::Query {
                id,
                query: Some(query),
            }));
    }

    fn on_tick(&mut self) -> Result<(), Status> {
        let now = Instant::now();
        self.open_queries.retain(|_, open| open.deadline > now);
        // A question that nobody waits for any more is not worth the node's time, nor the room that it takes here.
        let open = &self.open_queries;
        self.queue.retain(|message| match message {
            daemon_message::Message::Query(query) => open.contains_key(&query.id),
            _ => true,
        });
        if self.heard.elapsed() > Duration::from_millis(CLOSE_AFTER_MS) {
            return Err(Status::deadline_exceeded(format!(
                "nothing heard for {CLOSE_AFTER_MS} ms"
            )));
        }
        Ok(())
    }
}
