//! What is known of every node: its session, what it runs, what it last said.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use march_model::Name;
use march_proto::{STALE_AFTER_MS, v1};
use tokio::sync::{broadcast, mpsc, oneshot, watch};

/// How many node names are remembered; the longest absent are forgotten first.
const MAX_NODES: usize = 4_096;
/// How many queries wait for one session to take them.
const QUERY_QUEUE: usize = 32;
/// How many telemetry messages a watcher may lag before it skips some.
const TELEMETRY_QUEUE: usize = 256;

/// A question to a node and where the answer goes.
#[derive(Debug)]
pub(crate) struct Question {
    pub query: v1::query::Query,
    pub deadline: Instant,
    pub answer: oneshot::Sender<v1::QueryReply>,
}

/// What is known of how a node came to run what it runs.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Progress {
    pub timings: Option<v1::Timings>,
    pub commit_to_ack: Option<Duration>,
}

/// Telemetry on its way to watchers.
#[derive(Clone, Debug)]
pub(crate) struct Report {
    pub node: Name,
    pub telemetry: Arc<v1::Telemetry>,
}

#[derive(Debug)]
struct Node {
    /// The number of its session; none while it is not connected.
    session: Option<u64>,
    questions: mpsc::Sender<Question>,
    version: String,
    running: (u64, String),
    /// Whether this session said so, and not only the greeting.
    is_confirmed: bool,
    progress: Progress,
    refused: Option<(u64, Vec<v1::FieldError>)>,
    heard: Instant,
    telemetry: Option<Arc<v1::Telemetry>>,
}

/// Every node that ever connected, as far as [`MAX_NODES`] go.
#[derive(Debug)]
pub(crate) struct Nodes {
    known: Mutex<BTreeMap<Name, Node>>,
    /// Counts changes of what nodes run; followed by those who wait for convergence and by replaced sessions.
    changes: watch::Sender<u64>,
    reports: broadcast::Sender<Report>,
}

impl Default for Nodes {
    fn default() -> Self {
        Self {
            known: Mutex::default(),
            changes: watch::Sender::new(0),
            reports: broadcast::Sender::new(TELEMETRY_QUEUE),
        }
    }
}

/// A session's place in [`Nodes`]. Dropping it marks the node as not connected.
#[derive(Debug)]
pub(crate) struct Seat<'a> {
    nodes: &'a Nodes,
    pub name: Name,
    session: u64,
}

impl Nodes {
    fn known(&self) -> MutexGuard<'_, BTreeMap<Name, Node>> {
        // Every change below is a plain assignment: a panic elsewhere leaves nothing half-done.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Wakes whenever a node connects, goes, acknowledges or refuses.
    pub fn changes(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    /// Follows telemetry.
    pub fn reports(&self) -> broadcast::Receiver<Report> {
        self.reports.subscribe()
    }

    /// Seats a session; one of the same name that sat there is replaced and notices it.
    pub fn seat(&self, name: Name, hello: &v1::Hello) -> (Seat<'_>, mpsc::Receiver<Question>) {
        let (questions, asked) = mpsc::channel(QUERY_QUEUE);
        let mut known = self.known();
        let session = self.changes.borrow().wrapping_add(1);
        let previous = known.remove(&name);
        if known.len() >= MAX_NODES {
            let absent = known.iter().filter(|(_, node)| node.session.is_none());
            let oldest = absent
                .min_by_key(|(_, node)| node.heard)
                .map(|(name, _)| name.clone());
            oldest.map(|name| known.remove(&name));
        }
        known.insert(
            name.clone(),
            Node {
                session: Some(session),
                questions,
                version: hello.version.clone(),
                running: (hello.running_revision, hello.running_hash.clone()),
                is_confirmed: false,
                progress: Progress::default(),
                refused: None,
                heard: Instant::now(),
                telemetry: previous.and_then(|node| node.telemetry),
            },
        );
        self.changed();
        drop(known);
        (
            Seat {
                nodes: self,
                name,
                session,
            },
            asked,
        )
    }

    /// The names of the nodes that are connected now.
    pub fn connected(&self) -> Vec<Name> {
        let known = self.known();
        known
            .iter()
            .filter(|(_, node)| node.session.is_some())
            .map(|(name, _)| name.clone())
            .collect()
    }

    /// How a node stands towards a revision.
    pub fn result(&self, name: &Name, revision: u64, hash: &str) -> v1::NodeResult {
        let known = self.known();
        let Some(node) = known.get(name) else {
            return v1::NodeResult {
                node: name.to_string(),
                state: v1::NodeState::Lost.into(),
                ..Default::default()
            };
        };
        let mut result = v1::NodeResult {
            node: name.to_string(),
            state: node.state(revision, hash).into(),
            running_revision: node.running.0,
            ..Default::default()
        };
        match (result.state(), &node.refused) {
            (v1::NodeState::Refused, Some((_, errors))) => result.errors.clone_from(errors),
            (v1::NodeState::Running, _) => {
                result.timings = node.progress.timings;
                let micros = node
                    .progress
                    .commit_to_ack
                    .map_or(0, |time| time.as_micros());
                result.commit_to_ack_us = u64::try_from(micros).unwrap_or(u64::MAX);
            }
            _ => {}
        }
        result
    }

    /// Since when a node is silent; none for one that was never here.
    pub fn silent_for(&self, name: &Name) -> Option<Duration> {
        self.known().get(name).map(|node| node.heard.elapsed())
    }

    /// Every node, or the one of this name.
    pub fn statuses(&self, name: Option<&Name>, head: u64, hash: &str) -> Vec<v1::NodeStatus> {
        let known = self.known();
        let wanted = known
            .iter()
            .filter(|(key, _)| name.is_none_or(|name| name == *key));
        wanted
            .map(|(name, node)| node.status(name, head, hash))
            .collect()
    }

    /// Hands a question to a node's session.
    pub fn ask(&self, name: &Name, question: Question) -> Result<(), String> {
        let known = self.known();
        match known.get(name) {
            Some(node) if node.session.is_some() => node
                .questions
                .try_send(question)
                .map_err(|_| format!("node {name} has too many questions waiting")),
            _ => Err(format!("node {name} is not connected")),
        }
    }
}

impl Node {
    fn state(&self, revision: u64, hash: &str) -> v1::NodeState {
        let (running, running_hash) = (self.running.0, self.running.1.as_str());
        let runs_it = running > revision || (running == revision && running_hash == hash);
        if self.session.is_none() {
            v1::NodeState::Lost
        } else if self.heard.elapsed() > Duration::from_millis(STALE_AFTER_MS) {
            v1::NodeState::Stale
        } else if self.is_confirmed && runs_it {
            v1::NodeState::Running
        } else if self
            .refused
            .as_ref()
            .is_some_and(|(refused, _)| *refused >= revision)
        {
            v1::NodeState::Refused
        } else {
            v1::NodeState::Pending
        }
    }

    fn status(&self, name: &Name, head: u64, hash: &str) -> v1::NodeStatus {
        v1::NodeStatus {
            node: name.to_string(),
            state: self.state(head, hash).into(),
            version: self.version.clone(),
            running_revision: self.running.0,
            running_hash: self.running.1.clone(),
            head_revision: head,
            errors: self
                .refused
                .as_ref()
                .map_or_else(Vec::new, |(_, errors)| errors.clone()),
            timings: self.progress.timings,
            silent_ms: u64::try_from(self.heard.elapsed().as_millis()).unwrap_or(u64::MAX),
            telemetry: self.telemetry.as_deref().cloned(),
        }
    }
}

impl Seat<'_> {
    /// Changes the node's entry; false when another session has the seat now.
    fn update(&self, change: impl FnOnce(&mut Node)) -> bool {
        let mut known = self.nodes.known();
        match known.get_mut(&self.name) {
            Some(node) if node.session == Some(self.session) => {
                change(node);
                true
            }
            _ => false,
        }
    }

    /// Whether this session still has the seat.
    pub fn is_mine(&self) -> bool {
        self.update(|_| {})
    }

    /// The node said something.
    pub fn on_heard(&self) {
        self.update(|node| node.heard = Instant::now());
    }

    /// The node runs a revision.
    pub fn on_running(&self, revision: u64, hash: &str, progress: Progress) {
        self.update(|node| {
            node.running = (revision, hash.to_owned());
            node.is_confirmed = true;
            node.progress = progress;
            node.refused = None;
        });
        self.nodes.changed();
    }

    /// The node refused a revision.
    pub fn on_refused(&self, revision: u64, errors: Vec<v1::FieldError>) {
        self.update(|node| node.refused = Some((revision, errors)));
        self.nodes.changed();
    }

    /// The node told of its state.
    pub fn on_telemetry(&self, telemetry: v1::Telemetry) {
        let telemetry = Arc::new(telemetry);
        if self.update(|node| node.telemetry = Some(Arc::clone(&telemetry))) {
            // Nobody watching is no error.
            let _ = self.nodes.reports.send(Report {
                node: self.name.clone(),
                telemetry,
            });
        }
    }
}

impl Drop for Seat<'_> {
    fn drop(&mut self) {
        self.update(|node| node.session = None);
        self.nodes.changed();
    }
}
