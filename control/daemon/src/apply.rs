//! Changes to the desired state: apply, delete, roll back.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use march_content::Chunk;
use march_model::{Batch, Invalid, Key, MAX_TOTAL_BYTES, Name, Others, Plan, Source, State};
use march_proto::{status, v1};
use march_store::{Author, Store};
use tonic::{Code, Status};

use crate::shared::{Desired, Shared, blocking};
use crate::{convergence, errors};

/// The longest comment, in bytes.
const MAX_COMMENT_BYTES: usize = 1_024;

/// What every change says besides what it changes.
pub(crate) struct Terms {
    pub author: Author,
    /// 0: whatever the head is.
    pub base_revision: u64,
    pub wait_ms: u32,
}

impl Terms {
    pub fn new(
        name: String,
        comment: String,
        base_revision: u64,
        wait_ms: u32,
    ) -> Result<Self, Status> {
        if comment.len() > MAX_COMMENT_BYTES {
            return Err(Status::invalid_argument(format!(
                "a comment has up to {MAX_COMMENT_BYTES} bytes"
            )));
        }
        Ok(Self {
            author: Author { name, comment },
            base_revision,
            wait_ms,
        })
    }
}

/// Files of a call as a batch, read off the runtime's workers.
pub(crate) async fn parse(files: Vec<v1::SourceFile>) -> Result<Batch, Status> {
    let total: usize = files.iter().map(|file| file.text.len()).sum();
    if total as u64 > MAX_TOTAL_BYTES {
        let message = format!(
            "the files together are larger than {} MiB",
            MAX_TOTAL_BYTES >> 20
        );
        return Err(Status::invalid_argument(message));
    }
    let source = |file: v1::SourceFile| Source {
        name: file.name,
        text: file.text,
    };
    let sources: Vec<Source> = files.into_iter().map(source).collect();
    blocking(move || Ok(Batch::parse(&sources))).await
}

pub(crate) fn others(prune: v1::Prune) -> Others {
    match prune {
        v1::Prune::DeleteOthers => Others::Delete,
        v1::Prune::Unspecified => Others::Keep,
    }
}

/// What a batch would change.
pub(crate) async fn check(
    shared: &Arc<Shared>,
    batch: Batch,
    others: Others,
) -> Result<(u64, Plan), Status> {
    let Desired {
        revision, state, ..
    } = shared.desired();
    let plan = blocking(move || {
        let now = SystemTime::now().into();
        let planned = state.plan(batch, others, now);
        planned.map_err(status::invalid)
    })
    .await?;
    let stored = move |_: &Shared, store: &mut Store| {
        let checked = store.check_contents(&plan, &[]);
        checked.map_err(errors::store).map(|()| plan)
    };
    Ok((revision, shared.with_store(stored).await?))
}

/// A plan with the contents that it needs stored.
pub(crate) struct Change<T> {
    pub plan: Plan,
    pub chunks: Vec<Chunk>,
    /// What to tell of it besides.
    pub more: T,
}

/// Commits what `change` makes of the head, tells the nodes, and waits for them if the terms say so.
pub(crate) async fn commit(
    shared: &Arc<Shared>,
    terms: Terms,
    change: impl FnOnce(&State, &Store) -> Result<Plan, Status> + Send + 'static,
) -> Result<v1::ApplyResponse, Status> {
    let change = |state: &State, store: &Store| {
        change(state, store).map(|plan| Change {
            plan,
            chunks: Vec::new(),
            more: (),
        })
    };
    let (response, ()) = commit_with(shared, terms, change).await?;
    Ok(response)
}

/// The same for a change that brings contents.
pub(crate) async fn commit_with<T: Send + 'static>(
    shared: &Arc<Shared>,
    terms: Terms,
    change: impl FnOnce(&State, &Store) -> Result<Change<T>, Status> + Send + 'static,
) -> Result<(v1::ApplyResponse, T), Status> {
    let Terms {
        author,
        base_revision,
        wait_ms,
    } = terms;
    let work = move |shared: &Shared, store: &mut Store| {
        let head = shared.desired();
        if base_revision != 0 && base_revision != head.revision {
            let error = march_store::StoreError::Conflict {
                base: base_revision,
                head: head.revision,
            };
            return Err(errors::store(error));
        }
        let Change { plan, chunks, more } = change(&head.state, store)?;
        let revision = store
            .commit_with(head.revision, &plan, &chunks, &author)
            .map_err(errors::store)?;
        // Before the nodes hear of it: who comes later is not waited for.
        let nodes = shared.nodes.connected();
        if revision != head.revision {
            shared.publish(revision, plan.state.clone());
            tracing::info!(
                event = "revision.committed",
                revision,
                author = author.name,
                changes = plan.changes.len(),
                nodes = nodes.len(),
            );
        }
        Ok((revision, revision != head.revision, plan, nodes, more))
    };
    let (revision, is_new, plan, nodes, more) = shared.with_store(work).await?;
    let mut response = respond(revision, &plan);
    response.set_outcome(if is_new {
        v1::Outcome::Committed
    } else {
        v1::Outcome::Unchanged
    });
    if wait_ms > 0 {
        await_nodes(shared, &mut response, &nodes, wait_ms).await;
    }
    Ok((response, more))
}

async fn await_nodes(
    shared: &Shared,
    response: &mut v1::ApplyResponse,
    nodes: &[Name],
    wait_ms: u32,
) {
    let within = Duration::from_millis(wait_ms.into());
    response.nodes =
        convergence::wait(shared, nodes, response.revision, &response.hash, within).await;
    response.set_convergence(convergence::verdict(&response.nodes));
    if response.convergence() == v1::Convergence::Missed {
        tracing::warn!(
            event = "revision.not_converged",
            revision = response.revision
        );
    }
}

pub(crate) fn respond(revision: u64, plan: &Plan) -> v1::ApplyResponse {
    v1::ApplyResponse {
        revision,
        hash: plan.state.hash().to_string(),
        changes: plan.changes.iter().map(Into::into).collect(),
        warnings: plan.warnings.iter().cloned().map(Into::into).collect(),
        ..Default::default()
    }
}

/// What deleting these documents makes of a set.
pub(crate) fn removal(state: &State, keys: &[Key]) -> Result<Plan, Status> {
    let planned = state.plan_removal(keys).map_err(|missing| {
        let names: Vec<String> = missing.iter().map(Key::to_string).collect();
        Status::not_found(format!("there is no {}", names.join(", no ")))
    })?;
    planned.map_err(|invalid: Invalid| status::refused(Code::FailedPrecondition, invalid))
}

/// What going back to a revision makes of a set.
pub(crate) fn rollback(state: &State, store: &Store, number: u64) -> Result<Plan, Status> {
    let target = store.state_at(number).map_err(errors::store)?;
    let target =
        target.ok_or_else(|| errors::store(march_store::StoreError::NoRevision { number }))?;
    let changes = state.diff(&target);
    Ok(Plan {
        state: target,
        changes,
        warnings: Vec::new(),
    })
}
