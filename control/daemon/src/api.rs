//! The `Control` service: each call in a few lines, the work elsewhere.

use std::pin::Pin;
use std::sync::Arc;
use std::time::SystemTime;

use march_model::{Key, Kind, Name, State};
use march_proto::v1;
use march_store::Revision;
use tokio_stream::Stream;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use crate::apply::{self, Terms};
use crate::shared::Shared;
use crate::{ask, backends, errors, observe, peer, sets};

/// How many revisions history shows unless the call says.
const DEFAULT_HISTORY: u32 = 50;

#[derive(Debug)]
pub(crate) struct Api {
    shared: Arc<Shared>,
}

impl Api {
    pub fn new(shared: Arc<Shared>) -> Self {
        Self { shared }
    }
}

#[tonic::async_trait]
impl v1::control_server::Control for Api {
    async fn apply(
        &self,
        request: Request<v1::ApplyRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let author = peer::name_of(&request);
        let request = request.into_inner();
        let others = apply::others(request.prune());
        let is_dry = request.dry_run() == v1::DryRun::OnlyCheck;
        let terms = Terms::new(
            author,
            request.comment,
            request.base_revision,
            request.wait_ms,
        )?;
        let batch = apply::parse(request.files).await?;
        if is_dry {
            let (revision, plan) = apply::check(&self.shared, batch, others).await?;
            let mut response = apply::respond(revision, &plan);
            response.set_outcome(v1::Outcome::Checked);
            return Ok(Response::new(response));
        }
        let change = move |state: &State, _: &march_store::Store| {
            state
                .plan(batch, others, SystemTime::now().into())
                .map_err(march_proto::status::invalid)
        };
        apply::commit(&self.shared, terms, change)
            .await
            .map(Response::new)
    }

    async fn diff(
        &self,
        request: Request<v1::DiffRequest>,
    ) -> Result<Response<v1::DiffResponse>, Status> {
        let request = request.into_inner();
        let others = apply::others(request.prune());
        let batch = apply::parse(request.files).await?;
        let (base_revision, plan) = apply::check(&self.shared, batch, others).await?;
        let v1::ApplyResponse {
            changes, warnings, ..
        } = apply::respond(base_revision, &plan);
        Ok(Response::new(v1::DiffResponse {
            base_revision,
            changes,
            warnings,
        }))
    }

    async fn delete(
        &self,
        request: Request<v1::DeleteRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let author = peer::name_of(&request);
        let request = request.into_inner();
        let terms = Terms::new(
            author,
            request.comment,
            request.base_revision,
            request.wait_ms,
        )?;
        let keys: Result<Vec<Key>, String> =
            request.documents.iter().map(TryFrom::try_from).collect();
        let keys = keys.map_err(Status::invalid_argument)?;
        if keys.is_empty() {
            return Err(Status::invalid_argument("no document is named"));
        }
        let change = move |state: &State, _: &march_store::Store| apply::removal(state, &keys);
        apply::commit(&self.shared, terms, change)
            .await
            .map(Response::new)
    }

    async fn rollback(
        &self,
        request: Request<v1::RollbackRequest>,
    ) -> Result<Response<v1::ApplyResponse>, Status> {
        let author = peer::name_of(&request);
        let request = request.into_inner();
        let comment = match request.comment {
            comment if comment.is_empty() => format!("rollback to revision {}", request.revision),
            comment => comment,
        };
        let terms = Terms::new(author, comment, request.base_revision, request.wait_ms)?;
        let number = request.revision;
        let change =
            move |state: &State, store: &march_store::Store| apply::rollback(state, store, number);
        apply::commit(&self.shared, terms, change)
            .await
            .map(Response::new)
    }

    async fn get(
        &self,
        request: Request<v1::GetRequest>,
    ) -> Result<Response<v1::GetResponse>, Status> {
        let v1::GetRequest {
            kind,
            name,
            revision,
        } = request.into_inner();
        let kind: Option<Kind> = optional(&kind)?;
        let name: Option<Name> = optional(&name)?;
        let (revision, state) = self.shared.state_at(revision).await?;
        let is_wanted = |key: &Key| {
            kind.is_none_or(|kind| key.kind == kind)
                && name.as_ref().is_none_or(|name| key.name == *name)
        };
        let documents: Vec<v1::Document> = state
            .documents()
            .filter(|document| is_wanted(document.key()))
            .map(Into::into)
            .collect();
        match (documents.is_empty(), &name) {
            (true, Some(name)) => {
                let kind = kind.map_or("document", Kind::as_str);
                Err(Status::not_found(format!(
                    "there is no {kind} {name} in revision {revision}"
                )))
            }
            _ => Ok(Response::new(v1::GetResponse {
                revision,
                hash: state.hash().to_string(),
                documents,
            })),
        }
    }

    async fn history(
        &self,
        request: Request<v1::HistoryRequest>,
    ) -> Result<Response<v1::HistoryResponse>, Status> {
        let v1::HistoryRequest { limit, revision } = request.into_inner();
        let limit = if limit == 0 { DEFAULT_HISTORY } else { limit };
        let read = move |_: &Shared, store: &mut march_store::Store| {
            if revision == 0 {
                let revisions = store.history(limit).map_err(errors::store)?;
                return Ok(revisions.into_iter().map(revision_message).collect());
            }
            let (found, changes) = store.revision(revision).map_err(errors::store)?;
            let changes = changes.iter().map(Into::into).collect();
            Ok(vec![v1::Revision {
                changes,
                ..revision_message(found)
            }])
        };
        let revisions = self.shared.with_store(read).await?;
        Ok(Response::new(v1::HistoryResponse { revisions }))
    }

    async fn nodes(
        &self,
        request: Request<v1::NodesRequest>,
    ) -> Result<Response<v1::NodesResponse>, Status> {
        let name: Option<Name> = optional(&request.into_inner().node)?;
        let desired = self.shared.desired();
        let hash = desired.state.hash().to_string();
        let nodes = self
            .shared
            .nodes
            .statuses(name.as_ref(), desired.revision, &hash);
        match name {
            Some(name) if nodes.is_empty() => Err(Status::not_found(format!(
                "node {name} never connected to this daemon"
            ))),
            _ => Ok(Response::new(v1::NodesResponse { nodes })),
        }
    }

    type WatchDropsStream = Pin<Box<dyn Stream<Item = Result<v1::DropReport, Status>> + Send>>;

    async fn watch_drops(
        &self,
        request: Request<v1::WatchDropsRequest>,
    ) -> Result<Response<Self::WatchDropsStream>, Status> {
        let name: Option<Name> = optional(&request.into_inner().node)?;
        let reports = observe::watch_drops(&self.shared, name);
        Ok(Response::new(Box::pin(ReceiverStream::new(reports))))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let explanation = ask::explain(&self.shared, request.into_inner()).await?;
        Ok(Response::new(v1::ExplainResponse {
            explanation: Some(explanation),
        }))
    }

    type TraceStream = Pin<Box<dyn Stream<Item = Result<v1::TraceEvents, Status>> + Send>>;

    async fn trace(
        &self,
        request: Request<v1::TraceRequest>,
    ) -> Result<Response<Self::TraceStream>, Status> {
        let events = ask::trace(&self.shared, request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(events))))
    }

    async fn get_rule_hits(
        &self,
        request: Request<v1::RuleHitsRequest>,
    ) -> Result<Response<v1::RuleHitsResponse>, Status> {
        let name: Option<Name> = optional(&request.into_inner().node)?;
        ask::rule_hits(&self.shared, name).await.map(Response::new)
    }

    async fn set_backend_state(
        &self,
        request: Request<v1::SetBackendStateRequest>,
    ) -> Result<Response<v1::SetBackendStateResponse>, Status> {
        let author = peer::name_of(&request);
        let wanted = request.into_inner().backend;
        let wanted = wanted.ok_or_else(|| Status::invalid_argument("no backend is given"))?;
        backends::set(&self.shared, wanted, author)
            .await
            .map(Response::new)
    }

    async fn backend_states(
        &self,
        _: Request<v1::BackendStatesRequest>,
    ) -> Result<Response<v1::BackendStatesResponse>, Status> {
        let states = self.shared.desired().admins.to_vec();
        Ok(Response::new(v1::BackendStatesResponse { states }))
    }

    async fn set_load(
        &self,
        request: Request<Streaming<v1::SetLoadRequest>>,
    ) -> Result<Response<v1::SetLoadResponse>, Status> {
        let author = peer::name_of(&request);
        sets::load(&self.shared, author, request.into_inner())
            .await
            .map(Response::new)
    }

    type SetExportStream =
        Pin<Box<dyn Stream<Item = Result<v1::SetExportResponse, Status>> + Send>>;

    async fn set_export(
        &self,
        request: Request<v1::SetExportRequest>,
    ) -> Result<Response<Self::SetExportStream>, Status> {
        let lists = sets::export(&self.shared, request.into_inner()).await?;
        Ok(Response::new(Box::pin(ReceiverStream::new(lists))))
    }

    async fn set_contains(
        &self,
        request: Request<v1::SetContainsRequest>,
    ) -> Result<Response<v1::SetContainsResponse>, Status> {
        sets::contains(&self.shared, request.into_inner())
            .await
            .map(Response::new)
    }

    async fn info(
        &self,
        _: Request<v1::InfoRequest>,
    ) -> Result<Response<v1::InfoResponse>, Status> {
        let desired = self.shared.desired();
        Ok(Response::new(v1::InfoResponse {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            revision: desired.revision,
            hash: desired.state.hash().to_string(),
            documents: desired.state.len() as u64,
            started_unix_ms: self.shared.started_unix_ms,
            database: self.shared.database.clone(),
            nodes_connected: u32::try_from(self.shared.nodes.connected().len()).unwrap_or(u32::MAX),
        }))
    }
}

/// An empty word is none.
fn optional<T: std::str::FromStr<Err = String>>(word: &str) -> Result<Option<T>, Status> {
    if word.is_empty() {
        return Ok(None);
    }
    word.parse().map(Some).map_err(Status::invalid_argument)
}

fn revision_message(revision: Revision) -> v1::Revision {
    v1::Revision {
        number: revision.number,
        hash: revision.hash,
        author: revision.author,
        comment: revision.comment,
        created_unix_ms: revision.created_unix_ms,
        documents: revision.documents,
        added: revision.counts.added,
        changed: revision.counts.changed,
        removed: revision.counts.removed,
        changes: Vec::new(),
    }
}
