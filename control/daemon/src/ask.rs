//! Questions to nodes: what would happen to a packet, what happens to live ones, which rules matched.

use std::sync::Arc;
use std::time::{Duration, Instant};

use march_model::{Name, State};
use march_proto::v1;
use march_proto::v1::query::Query;
use march_proto::v1::query_reply::Reply;
use tokio::sync::{mpsc, oneshot};
use tonic::Status;

use crate::apply;
use crate::nodes::Question;
use crate::shared::Shared;

/// The time for an answer unless the call gives one.
const DEFAULT_DEADLINE: Duration = Duration::from_secs(2);
/// The longest that a call may wait for an answer.
const MAX_DEADLINE: Duration = Duration::from_secs(30);
/// The time for an answer that has to compile a candidate first.
const CANDIDATE_DEADLINE: Duration = Duration::from_secs(10);
/// Between two reads of a trace.
const TRACE_READ_EVERY: Duration = Duration::from_millis(100);
/// Reads of a trace that wait for a slow caller.
const TRACE_QUEUE: usize = 16;

/// Asks a node and waits for its answer.
async fn ask(
    shared: &Shared,
    node: &Name,
    query: Query,
    within: Duration,
) -> Result<Reply, Status> {
    let (answer, answered) = oneshot::channel();
    let question = Question {
        query,
        deadline: Instant::now() + within,
        answer,
    };
    shared
        .nodes
        .ask(node, question)
        .map_err(Status::unavailable)?;
    let reply = tokio::time::timeout(within, answered).await;
    let reply =
        reply.map_err(|_| Status::unavailable(format!("node {node} did not answer in time")))?;
    let reply =
        reply.map_err(|_| Status::unavailable(format!("node {node} went away or is too busy")))?;
    match reply.reply {
        Some(Reply::Error(error)) => Err(Status::invalid_argument(format!("node {node}: {error}"))),
        Some(reply) => Ok(reply),
        None => Err(empty(node)),
    }
}

fn empty(node: &Name) -> Status {
    Status::internal(format!("node {node} gave an empty answer"))
}

/// The node of that name or, without a name, the only one.
fn node_of(shared: &Shared, name: &str) -> Result<Name, Status> {
    if !name.is_empty() {
        return name.parse().map_err(Status::invalid_argument);
    }
    let connected = shared.nodes.connected();
    match connected.as_slice() {
        [only] => Ok(only.clone()),
        [] => Err(Status::unavailable("no node is connected")),
        several => {
            let names: Vec<&str> = several.iter().map(Name::as_str).collect();
            Err(Status::invalid_argument(format!(
                "name a node: {}",
                names.join(", ")
            )))
        }
    }
}

/// Asks a node what would happen to a packet.
pub(crate) async fn explain(
    shared: &Arc<Shared>,
    request: v1::ExplainRequest,
) -> Result<v1::Explanation, Status> {
    let node = node_of(shared, &request.node)?;
    let mut query = request
        .query
        .ok_or_else(|| Status::invalid_argument("no packet is given"))?;
    // Each is a whole configuration on its way to a node, which compiles one at a time.
    let _turn = if request.revision == 0 && request.files.is_empty() {
        None
    } else {
        let turn = tokio::time::timeout(CANDIDATE_DEADLINE, shared.candidates.acquire()).await;
        Some(
            turn.map_err(|_| Status::unavailable("others ask about sets of documents; try again"))?,
        )
    };
    query.candidate = candidate(shared, request.revision, request.files, request.prune).await?;
    let within = match (request.deadline_ms, &query.candidate) {
        (0, None) => DEFAULT_DEADLINE,
        (0, Some(_)) => CANDIDATE_DEADLINE,
        (given, _) => Duration::from_millis(given.into()).min(MAX_DEADLINE),
    };
    match ask(shared, &node, Query::Explain(query), within).await? {
        Reply::Explanation(explanation) => Ok(explanation),
        _ => Err(empty(&node)),
    }
}

/// The set that a packet is to be judged by, if it is not what runs.
async fn candidate(
    shared: &Arc<Shared>,
    revision: u64,
    files: Vec<v1::SourceFile>,
    prune: i32,
) -> Result<Option<v1::Candidate>, Status> {
    let whole = |revision, state: &State| {
        Some(v1::Candidate {
            revision,
            documents: state.documents().map(Into::into).collect(),
        })
    };
    match (revision, files.is_empty()) {
        (0, true) => Ok(None),
        (0, false) => {
            let prune = v1::Prune::try_from(prune).unwrap_or_default();
            let batch = apply::parse(files).await?;
            let (_, plan) = apply::check(shared, batch, apply::others(prune)).await?;
            Ok(whole(0, &plan.state))
        }
        (revision, true) => {
            let (revision, state) = shared.state_at(revision).await?;
            Ok(whole(revision, &state))
        }
        (_, false) => Err(Status::invalid_argument(
            "either a revision or files, not both",
        )),
    }
}

/// How often rules matched, on one node or on all that are connected.
pub(crate) async fn rule_hits(
    shared: &Shared,
    name: Option<Name>,
) -> Result<v1::RuleHitsResponse, Status> {
    let names = match name {
        Some(name) => vec![name],
        None => shared.nodes.connected(),
    };
    let mut response = v1::RuleHitsResponse::default();
    for name in names {
        let mut hits = v1::NodeRuleHits {
            node: name.to_string(),
            ..Default::default()
        };
        if let Err(status) = all_hits(shared, &name, &mut hits.rules).await {
            status.message().clone_into(&mut hits.error);
        }
        response.nodes.push(hits);
    }
    Ok(response)
}

async fn all_hits(
    shared: &Shared,
    node: &Name,
    rules: &mut Vec<v1::RuleHit>,
) -> Result<(), Status> {
    let mut from = 0;
    loop {
        let query = Query::RuleHits(v1::RuleHitsQuery { from });
        let Reply::RuleHits(page) = ask(shared, node, query, DEFAULT_DEADLINE).await? else {
            return Err(empty(node));
        };
        rules.extend(page.rules);
        // A node that goes round in circles is not followed.
        if page.next <= from {
            return Ok(());
        }
        from = page.next;
    }
}

type Events = mpsc::Receiver<Result<v1::TraceEvents, Status>>;

/// Starts a trace and passes on what it records, until it is over or the caller goes.
pub(crate) async fn trace(
    shared: &Arc<Shared>,
    request: v1::TraceRequest,
) -> Result<Events, Status> {
    let node = node_of(shared, &request.node)?;
    let start = request
        .start
        .ok_or_else(|| Status::invalid_argument("the trace says nothing"))?;
    let started = ask(shared, &node, Query::TraceStart(start), DEFAULT_DEADLINE).await?;
    let Reply::TraceStarted(v1::TraceStarted { trace }) = started else {
        return Err(empty(&node));
    };
    let (sender, receiver) = mpsc::channel(TRACE_QUEUE);
    let shared = Arc::clone(shared);
    tokio::spawn(async move {
        if !read_trace(&shared, &node, trace, &sender).await {
            // The node ends it by itself if it does not hear this.
            let stop = Query::TraceStop(v1::TraceStop { trace });
            let _ = ask(&shared, &node, stop, DEFAULT_DEADLINE).await;
        }
    });
    Ok(receiver)
}

/// Reads until the trace is over (`true`) or nobody listens any more (`false`).
async fn read_trace(
    shared: &Shared,
    node: &Name,
    trace: u64,
    sender: &mpsc::Sender<Result<v1::TraceEvents, Status>>,
) -> bool {
    let mut stop = shared.stop.clone();
    let mut pace = tokio::time::interval(TRACE_READ_EVERY);
    loop {
        tokio::select! {
            _ = pace.tick() => {}
            () = sender.closed() => return false,
            _ = stop.wait_for(|stop| *stop) => return false,
        }
        let query = Query::TraceRead(v1::TraceRead { trace });
        let events = match ask(shared, node, query, DEFAULT_DEADLINE).await {
            Ok(Reply::TraceEvents(events)) => Ok(events),
            Ok(_) => Err(empty(node)),
            Err(status) => Err(status),
        };
        let is_over = events.as_ref().map_or(true, |events| events.over);
        let is_worth_it = events
            .as_ref()
            .map_or(true, |events| events.over || !events.events.is_empty());
        if is_worth_it && sender.send(events).await.is_err() {
            return false;
        }
        if is_over {
            return true;
        }
    }
}
