//! What the daemon says.

use std::time::{Duration, Instant};

use march_model::{FieldError, State};
use march_proto::convert::{state_of_delta, state_of_snapshot};
use march_proto::v1::daemon_message::Message as FromDaemon;
use march_proto::v1::node_message::Message as ToDaemon;
use march_proto::v1::{Ack, AdminState, BackendAdmin, Nack, NodeMessage, Telemetry};
use tokio::sync::{mpsc, watch};

use super::fetch::Timed;
use super::{Agent, Desired, REPORT_EVERY};
use crate::compile::{Admin, AdminStates};
use crate::contents;
use crate::ladder::Family;
use crate::last_good::{Stored, StoredAdminState};
use crate::session::{self, Inbound};

impl Agent {
    pub(super) async fn on_inbound(&mut self, message: Inbound) {
        match message {
            Inbound::Connected(outgoing) => {
                tracing::info!(event = "session.up", "connected to marchd");
                let life = show_life(outgoing.downgrade(), self.reported.subscribe());
                tokio::spawn(life);
                self.outgoing = Some(outgoing);
                self.note_trouble("session", None);
                self.report();
            }
            Inbound::Disconnected(reason) => {
                // Said once, not at every attempt.
                if self.outgoing.take().is_some() || !self.troubles.contains_key("session") {
                    tracing::warn!(
                        event = "session.down",
                        reason,
                        "no session with marchd; the running revision stays"
                    );
                }
                self.note_trouble("session", Some(reason));
                // Another session begins with another push.
                self.open_push = None;
            }
            Inbound::Message(message, received) => self.on_message(*message, received).await,
        }
    }

    async fn on_message(&mut self, message: FromDaemon, received: Instant) {
        match message {
            FromDaemon::Snapshot(snapshot) => {
                self.take_admins(snapshot.backend_admins.clone());
                let state = state_of_snapshot(&snapshot).map_err(|invalid| invalid.0);
                self.on_push(snapshot.revision, state, received).await;
            }
            FromDaemon::Delta(delta) => {
                let held = self
                    .desired
                    .as_ref()
                    .filter(|desired| desired.revision == delta.from);
                let state = match held {
                    Some(held) => state_of_delta(&held.state, &delta).map_err(|invalid| invalid.0),
                    None => Err(vec![FieldError::of_document(
                        "",
                        "from",
                        format!(
                            "this node does not hold revision {}, on which the delta stands",
                            delta.from
                        ),
                    )]),
                };
                self.on_push(delta.to, state, received).await;
            }
            FromDaemon::Current(current) => {
                // A daemon whose database is new knows nothing of what runs here, nor of who was drained.
                if current.hash != self.running.borrow().hash {
                    return;
                }
                let admins_changed = current.backend_admins != self.admin_list;
                self.take_admins(current.backend_admins);
                if let Some(desired) = &mut self.desired {
                    desired.revision = current.revision;
                }
                // Nothing new from the daemon is no new generation.
                if admins_changed {
                    self.refresh("admin").await;
                    self.keep_last_good();
                }
            }
            FromDaemon::BackendAdmins(admins) => {
                self.take_admins(admins.states);
                self.refresh("admin").await;
                self.keep_last_good();
            }
            FromDaemon::Query(query) => self.on_query(query),
            FromDaemon::Chunks(chunks) => self.on_chunks(chunks).await,
        }
    }

    /// Runs what was pushed and is whole, or refuses it, and answers.
    pub(super) async fn run_push(
        &mut self,
        push: Timed,
        desired: Result<Desired, Vec<FieldError>>,
    ) {
        let Timed {
            revision,
            received,
            verified_us,
        } = push;
        let result = match desired {
            Ok(desired) => {
                self.keep_candidate(&desired);
                self.apply(desired, received).await
            }
            Err(errors) => Err(errors),
        };
        match result {
            Ok(mut timings) => {
                timings.verified_us = verified_us;
                tracing::info!(
                    event = "revision.running",
                    revision,
                    generation = timings.generation,
                    running_us = timings.running_us,
                    "the revision runs"
                );
                self.note_trouble("revision", None);
                self.keep_last_good();
                self.tell(ToDaemon::Ack(Ack {
                    revision,
                    timings: Some(timings),
                }));
                self.forget_old_contents();
            }
            Err(errors) => {
                for error in &errors {
                    tracing::error!(event = "revision.refused", revision, %error, "this node refuses the revision");
                }
                let first = errors.first().map(ToString::to_string).unwrap_or_default();
                self.note_trouble(
                    "revision",
                    Some(format!("revision {revision} is refused: {first}")),
                );
                // What ran before goes on, with the admin states that came with what was refused.
                self.refresh("refusal").await;
                self.tell(ToDaemon::Nack(Nack {
                    revision,
                    errors: errors.into_iter().map(Into::into).collect(),
                }));
            }
        }
        self.report();
    }

    fn take_admins(&mut self, list: Vec<BackendAdmin>) {
        self.admin = admin_states(&list);
        self.admin_list = list;
    }

    fn stored(&self, desired: &Desired) -> Stored {
        Stored {
            revision: desired.revision,
            content_hash: desired.state.hash().to_string(),
            documents: desired
                .state
                .documents()
                .map(|document| document.canonical().to_owned())
                .collect(),
            admin_states: self
                .admin_list
                .iter()
                .map(|admin| StoredAdminState {
                    pool: admin.pool.clone(),
                    address: admin.address.clone(),
                    port: admin.port,
                    state: admin.state().as_str_name().to_owned(),
                })
                .collect(),
            contents: contents::roots(&desired.state)
                .map(|(_, root)| root.to_string())
                .collect(),
        }
    }

    /// A full disk must not keep a revision from running: it is said, and the node goes on.
    fn keep_candidate(&mut self, desired: &Desired) {
        let result = self.last_good.save_candidate(&self.stored(desired));
        self.note_disk(result);
    }

    /// Only what runs is good.
    fn keep_last_good(&mut self) {
        if let Some(desired) = &self.desired
            && self.running.borrow().hash == desired.state.hash().to_string()
        {
            let result = self
                .contents
                .keep(&desired.state)
                .map_err(|error| self.last_good.without_contents(error))
                .and_then(|()| self.last_good.promote(&self.stored(desired)));
            self.note_disk(result);
        }
    }

    fn note_disk(&mut self, result: Result<(), crate::last_good::LastGoodError>) {
        let trouble = result
            .err()
            .map(|error| format!("last-good cannot be kept: {error}"));
        if let Some(trouble) = &trouble {
            tracing::error!(
                event = "last_good.not_kept",
                trouble,
                "a restart without marchd would run an older revision"
            );
        }
        self.note_trouble("last-good", trouble);
    }

    pub(super) async fn start_from_last_good(&mut self) {
        let (stored, damaged) = self.last_good.load();
        for error in damaged {
            tracing::error!(event = "last_good.damaged", %error, "a last-good file cannot be used");
        }
        let Some((stored, desired)) = self.newest_whole(stored) else {
            if self.options.tier_limit != Some(Family::Socket) {
                self.resources.programs.preload(USUAL_PORTS);
            }
            tracing::info!(
                event = "last_good.none",
                "nothing to start from; waiting for marchd"
            );
            return;
        };
        let revision = desired.revision;
        let admins = stored.admin_states.iter().map(|admin| BackendAdmin {
            pool: admin.pool.clone(),
            address: admin.address.clone(),
            port: admin.port,
            state: AdminState::from_str_name(&admin.state)
                .unwrap_or_default()
                .into(),
        });
        self.take_admins(admins.collect());
        match self.apply(desired, Instant::now()).await {
            Ok(_) => tracing::info!(
                event = "last_good.running",
                revision,
                "running the last good revision"
            ),
            Err(errors) => say_refused(revision, &errors),
        }
    }

    /// Of what was stored, newest first, the first whose documents and contents are whole.
    fn newest_whole(&mut self, stored: Vec<Stored>) -> Option<(Stored, Desired)> {
        for stored in stored.iter().rev() {
            let roots = stored.contents.iter().filter_map(|root| root.parse().ok());
            self.contents.note_good(roots.collect());
        }
        for stored in stored {
            let revision = stored.revision;
            let documents = stored.documents.iter().map(String::as_str);
            let state = State::from_canonical(documents).map_err(|invalid| invalid.0);
            let desired = state.and_then(|state| {
                let sets = self.contents.sets(&state)?;
                Ok(Desired {
                    revision,
                    state,
                    sets,
                })
            });
            match desired {
                Ok(desired) => {
                    self.contents.adopt(&desired.sets);
                    return Some((stored, desired));
                }
                Err(errors) => say_refused(revision, &errors),
            }
        }
        None
    }
}

fn say_refused(revision: u64, errors: &[FieldError]) {
    for error in errors {
        tracing::error!(event = "last_good.refused", revision, %error, "the last good revision cannot run");
    }
}

/// Ports that a node is expected to have, before it has been told.
const USUAL_PORTS: usize = 2;

/// An agent that is busy this long is not just starting an engine: the daemon is to see that it is silent.
const BUSY_AT_MOST: Duration = Duration::from_mins(1);

/// Repeats the last report while the agent is busy, so that a node that opens devices or waits for the verifier does not
/// count as stale.
async fn show_life(
    outgoing: mpsc::WeakSender<NodeMessage>,
    mut reported: watch::Receiver<(Telemetry, Instant)>,
) {
    loop {
        match tokio::time::timeout(REPORT_EVERY * 2, reported.changed()).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) => return,
            Err(_) => {
                let (telemetry, since) = reported.borrow().clone();
                if since.elapsed() < BUSY_AT_MOST
                    && let Some(outgoing) = outgoing.upgrade()
                {
                    session::offer(&outgoing, ToDaemon::Telemetry(telemetry));
                }
            }
        }
        // The session is the agent's to end.
        if outgoing
            .upgrade()
            .is_none_or(|outgoing| outgoing.is_closed())
        {
            return;
        }
    }
}

pub(super) fn micros(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_micros()).unwrap_or(u64::MAX)
}

fn admin_states(list: &[BackendAdmin]) -> AdminStates {
    let mut states = AdminStates::default();
    for entry in list {
        let admin = match entry.state() {
            AdminState::Drain => Admin::Drain,
            AdminState::Offline => Admin::Offline,
            AdminState::Enabled | AdminState::Unspecified => Admin::Enabled,
        };
        match (entry.address.parse(), u16::try_from(entry.port)) {
            (Ok(address), Ok(port)) => states.set(entry.pool.clone(), address, port, admin),
            _ => tracing::error!(
                event = "session.bad_admin_state",
                ?entry,
                "marchd sent a backend that cannot be"
            ),
        }
    }
    states
}
