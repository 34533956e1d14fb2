//! What every part of the daemon sees: the head, the store, the nodes.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use march_model::State;
use march_proto::v1;
use march_store::{AdminState, BackendAdmin, Store, StoreError};
use tokio::sync::{Semaphore, watch};
use tonic::Status;

use crate::errors;
use crate::nodes::Nodes;

/// What the nodes should run. Replaced as a whole, after the commit.
#[derive(Clone, Debug)]
pub(crate) struct Desired {
    /// The head; 0 before the first commit.
    pub revision: u64,
    pub state: Arc<State>,
    /// When this process committed or loaded it.
    pub since: Instant,
    /// Every backend that is not enabled.
    pub admins: Arc<Vec<v1::BackendAdmin>>,
}

#[derive(Debug)]
pub(crate) struct Shared {
    store: Mutex<Store>,
    desired: watch::Sender<Desired>,
    pub nodes: Nodes,
    /// Whose turn it is to have packets judged by documents that do not run.
    pub candidates: Semaphore,
    pub stop: watch::Receiver<bool>,
    pub started_unix_ms: u64,
    pub database: String,
}

impl Shared {
    pub fn new(store: Store, stop: watch::Receiver<bool>) -> Result<Arc<Self>, StoreError> {
        let head = store.head()?;
        let desired = Desired {
            revision: head.number,
            state: Arc::new(head.state),
            since: Instant::now(),
            admins: Arc::new(admin_messages(&store.backend_states()?)),
        };
        let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
        Ok(Arc::new(Self {
            database: store.path().display().to_string(),
            store: Mutex::new(store),
            desired: watch::Sender::new(desired),
            nodes: Nodes::default(),
            candidates: Semaphore::new(1),
            stop,
            started_unix_ms: since.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0)),
        }))
    }

    /// What the nodes should run now.
    pub fn desired(&self) -> Desired {
        self.desired.borrow().clone()
    }

    /// The documents of a revision; 0 is the head.
    pub async fn state_at(self: &Arc<Self>, revision: u64) -> Result<(u64, Arc<State>), Status> {
        let desired = self.desired();
        if revision == 0 || revision == desired.revision {
            return Ok((desired.revision, desired.state));
        }
        let found = self
            .with_store(move |_, store| store.state_at(revision).map_err(errors::store))
            .await?;
        let missing = || errors::store(StoreError::NoRevision { number: revision });
        Ok((revision, Arc::new(found.ok_or_else(missing)?)))
    }

    /// Follows what the nodes should run.
    pub fn follow(&self) -> watch::Receiver<Desired> {
        self.desired.subscribe()
    }

    /// Publishes what was committed. Call it inside [`Shared::with_store`], so that commits and pushes keep one order.
    pub fn publish(&self, revision: u64, state: State) {
        self.desired.send_modify(|desired| {
            desired.revision = revision;
            desired.state = Arc::new(state);
            desired.since = Instant::now();
        });
    }

    /// Publishes admin states; like [`Shared::publish`].
    pub fn publish_admins(&self, admins: &[BackendAdmin]) {
        self.desired
            .send_modify(|desired| desired.admins = Arc::new(admin_messages(admins)));
    }

    /// Runs blocking work on the store, one at a time, off the runtime's workers. It goes on to its end even if the
    /// caller went away.
    pub async fn with_store<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, &mut Store) -> Result<T, Status> + Send + 'static,
    ) -> Result<T, Status> {
        let shared = Arc::clone(self);
        blocking(move || {
            // A panic in an earlier call cannot leave the store in between: its transaction was rolled back.
            let mut store = shared.store.lock().unwrap_or_else(PoisonError::into_inner);
            work(&shared, &mut store)
        })
        .await
    }
}

/// Runs work that computes for long or blocks.
pub(crate) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Status> + Send + 'static,
) -> Result<T, Status> {
    let joined = tokio::task::spawn_blocking(work).await;
    joined.unwrap_or_else(|_| {
        Err(Status::internal(
            "the call failed inside the daemon; see its log",
        ))
    })
}

fn admin_messages(admins: &[BackendAdmin]) -> Vec<v1::BackendAdmin> {
    admins.iter().map(admin_message).collect()
}

pub(crate) fn admin_message(admin: &BackendAdmin) -> v1::BackendAdmin {
    let state = match admin.state {
        AdminState::Enabled => v1::AdminState::Enabled,
        AdminState::Drain => v1::AdminState::Drain,
        AdminState::Offline => v1::AdminState::Offline,
    };
    v1::BackendAdmin {
        pool: admin.pool.to_string(),
        address: admin.address.to_string(),
        port: admin.port.into(),
        state: state.into(),
    }
}
