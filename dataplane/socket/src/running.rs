//! What one generation means to sockets: its services' counters, its backends' lives, its pools' cursors.

use core::net::{IpAddr, SocketAddr};
use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use march_tables::{Backend, BackendId, Generation, PoolId, ServiceId};
use tokio::sync::watch;

use crate::counters::{BackendCounters, ServiceCounters};

/// One backend for as long as it may hold connections: from the generation that brings it to the one that takes it away.
#[derive(Debug)]
pub(crate) struct BackendLife {
    pub(crate) slot: u16,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) counters: Arc<BackendCounters>,
    ended: watch::Sender<bool>,
}

impl BackendLife {
    fn new(slot: u16, backend: &Backend, counters: Arc<BackendCounters>) -> Self {
        let ended = watch::Sender::new(!backend.state.keeps_flows());
        Self {
            slot,
            address: backend.address,
            port: backend.port,
            counters,
            ended,
        }
    }

    /// Where a client that asked for `service_port` is connected to.
    pub(crate) fn target(&self, service_port: u16) -> SocketAddr {
        SocketAddr::new(
            self.address,
            if self.port == 0 {
                service_port
            } else {
                self.port
            },
        )
    }

    /// Returns once the backend is offline or gone: its connections must end.
    pub(crate) async fn ended(&self) {
        // The sender lives in `self`, so this cannot fail before it is true.
        let _ = self.ended.subscribe().wait_for(|ended| *ended).await;
    }

    fn is_same(&self, backend: &Backend) -> bool {
        self.address == backend.address && self.port == backend.port
    }
}

/// A generation as new connections see it. Immutable but for the counters and cursors in it.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) generation: Arc<Generation>,
    services: Vec<(Box<str>, Arc<ServiceCounters>)>,
    pub(crate) backends: Vec<Arc<BackendLife>>,
    cursors: Vec<Mutex<u32>>,
}

impl Running {
    /// Takes over from `previous` what is still the same: counters by service name, lives of unchanged backends.
    pub(crate) fn new(generation: Arc<Generation>, previous: Option<&Self>) -> Self {
        let known: HashMap<&str, &Arc<ServiceCounters>> = previous
            .map(|running| {
                running
                    .services
                    .iter()
                    .map(|(name, kept)| (&**name, kept))
                    .collect()
            })
            .unwrap_or_default();
        let services = service_ids(&generation)
            .map(|id| {
                let name = &generation.services.get(id).name;
                let counters = known
                    .get(&**name)
                    .map_or_else(Arc::default, |kept| Arc::clone(kept));
                (name.clone(), counters)
            })
            .collect();
        let backends = generation
            .backends
            .iter()
            .enumerate()
            .map(|(slot, backend)| life_of(slot, backend, previous))
            .collect();
        let cursors = (0..generation.pools.len()).map(|_| Mutex::new(0)).collect();
        Self {
            generation,
            services,
            backends,
            cursors,
        }
    }

    /// Ends the connections to every backend of this generation that `next` no longer carries.
    pub(crate) fn retire_backends(&self, next: &Self) {
        for (slot, life) in self.backends.iter().enumerate() {
            let kept = next.generation.backends.get(slot);
            if !kept.is_some_and(|backend| life.is_same(backend) && backend.state.keeps_flows()) {
                life.ended.send_replace(true);
            }
        }
    }

    pub(crate) fn service_counters(&self, id: ServiceId) -> &Arc<ServiceCounters> {
        &self.services[usize::from(id)].1
    }

    pub(crate) fn services(&self) -> impl Iterator<Item = (&str, &ServiceCounters)> {
        self.services
            .iter()
            .map(|(name, counters)| (&**name, &**counters))
    }

    /// The pool's choice for `hash`; `None` if nothing in it takes new connections.
    pub(crate) fn choose(&self, pool: PoolId, hash: u64) -> Option<&Arc<BackendLife>> {
        let index = usize::from(pool);
        let mut cursor = self
            .cursors
            .get(index)?
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let chosen: BackendId = self
            .generation
            .pools
            .get(index)?
            .choose(hash, &mut cursor)?;
        self.backends.get(usize::from(chosen))
    }
}

/// Every service of a generation.
pub(crate) fn service_ids(generation: &Generation) -> impl Iterator<Item = ServiceId> + use<> {
    // Ids are 16 bits wide, so a generation holds fewer services than that.
    (0..generation.services.len()).filter_map(|index| ServiceId::try_from(index).ok())
}

fn life_of(slot: usize, backend: &Backend, previous: Option<&Running>) -> Arc<BackendLife> {
    let slot_id = u16::try_from(slot).unwrap_or(u16::MAX);
    let Some(life) = previous.and_then(|running| running.backends.get(slot)) else {
        return Arc::new(BackendLife::new(slot_id, backend, Arc::default()));
    };
    if !life.is_same(backend) {
        return Arc::new(BackendLife::new(slot_id, backend, Arc::default()));
    }
    let was_ended = *life.ended.borrow();
    if was_ended && backend.state.keeps_flows() {
        return Arc::new(BackendLife::new(
            slot_id,
            backend,
            Arc::clone(&life.counters),
        ));
    }
    Arc::clone(life)
}
