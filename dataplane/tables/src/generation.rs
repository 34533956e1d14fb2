//! The one pointer that lcores follow.

use std::sync::Arc;

use crate::{
    AddressSet, Adjacency, AdjacencyId, Backend, BackendId, Config, Limit, LocalAddresses,
    Neighbours, Pool, PoolId, PortGuard, PortId, PortTable, Routes, Rules, Services, Treatment,
};

/// A revision compiled for this node. Immutable; parts that did not change are shared with the previous one.
#[derive(Clone, Debug)]
pub struct Generation {
    /// Counts generations on this node, from 1.
    pub id: u64,
    /// The revision of the configuration that this was built from; several generations may share one.
    pub revision: u64,
    /// What a flow compares with the value that it remembers; never 0. See [`crate::build`] for when it moves.
    pub epoch: u16,
    /// What `epoch` was when the policy last changed. See [`Generation::is_judged`].
    pub policy_epoch: u16,
    /// Ports of this node that the lcores drive.
    pub ports: Arc<[PortTable]>,
    /// Service map.
    pub services: Arc<Services>,
    /// Pools by [`PoolId`].
    pub pools: Arc<[Pool]>,
    /// Backends by slot. A slot without a backend is [`crate::BackendState::Gone`].
    pub backends: Arc<[Backend]>,
    /// Rule classifier.
    pub rules: Arc<Rules>,
    /// What flows of rules that say more than allow are treated by, by [`crate::TreatmentId`].
    pub treatments: Arc<[Treatment]>,
    /// Limits by [`crate::LimitId`].
    pub limits: Arc<[Limit]>,
    /// Address sets by [`crate::SetId`], for the guard.
    pub sets: Arc<[AddressSet]>,
    /// What stands before the flow table, by [`PortId`]; none where there is nothing to look at.
    pub guards: Arc<[Option<Arc<PortGuard>>]>,
    /// Routes mirrored from the kernel.
    pub routes: Arc<Routes>,
    /// Next hops by [`AdjacencyId`].
    pub adjacencies: Arc<[Adjacency]>,
    /// From (port, address) to the next hop.
    pub neighbours: Arc<Neighbours>,
    /// Which addresses are ours, and whose.
    pub local: Arc<LocalAddresses>,
    /// What all of this was built from, for those who explain it. It shares its lists with the parts above.
    pub config: Config,
}

/// How many moves of the epoch a flow's remembered one may be old before it counts as unknown.
pub const MAX_EPOCH_AGE: u16 = 1 << 14;

impl Generation {
    /// How many moves ago `epoch` was current. Wraps: see [`MAX_EPOCH_AGE`].
    #[inline]
    pub fn age_of(&self, epoch: u16) -> u16 {
        self.epoch.wrapping_sub(epoch)
    }

    /// Whether what was judged under `epoch` is judged by the policy of now, and only its next hops may be out of date.
    #[inline]
    pub fn is_judged(&self, epoch: u16) -> bool {
        epoch != 0 && self.age_of(epoch) <= self.age_of(self.policy_epoch)
    }

    /// Lets the configuration have the lists that the parts have, where it brought equal ones of its own.
    pub(crate) fn share_config(&mut self) {
        let config = &mut self.config;
        config.ports = Arc::clone(&self.ports);
        config.services = Arc::clone(self.services.source());
        config.rules = self.rules.source().clone();
        config.sets = Arc::clone(&self.sets);
        config.limits = Arc::clone(&self.limits);
        config.routes = Arc::clone(self.routes.source());
        config.local = Arc::clone(self.local.source());
    }

    /// Sets both epochs to what follows `old`.
    pub(crate) fn date_after(&mut self, old: &Self, is_judged_anew: bool, is_routed_anew: bool) {
        let after = |epoch: u16| epoch.checked_add(1).unwrap_or(1);
        self.epoch = if is_judged_anew || is_routed_anew {
            after(old.epoch)
        } else {
            old.epoch
        };
        self.policy_epoch = if is_judged_anew {
            self.epoch
        } else {
            old.policy_epoch
        };
        while self.age_of(self.policy_epoch) > MAX_EPOCH_AGE {
            self.policy_epoch = after(self.policy_epoch);
        }
    }

    /// The generation of an empty configuration: punts and drops, forwards nothing.
    #[must_use]
    pub fn empty() -> Self {
        crate::build(&Config::default(), None).expect("an empty configuration always builds")
    }

    /// The port, if the id is in bounds.
    #[inline]
    pub fn port(&self, id: PortId) -> Option<&PortTable> {
        self.ports.get(usize::from(id))
    }

    /// The guard of a port that has one.
    #[inline]
    pub fn guard(&self, id: PortId) -> Option<&PortGuard> {
        self.guards.get(usize::from(id))?.as_deref()
    }

    /// The pool, if the id is in bounds.
    #[inline]
    pub fn pool(&self, id: PoolId) -> Option<&Pool> {
        self.pools.get(usize::from(id))
    }

    /// The backend, if the id is in bounds.
    #[inline]
    pub fn backend(&self, id: BackendId) -> Option<&Backend> {
        self.backends.get(usize::from(id))
    }

    /// The next hop, if the id is in bounds.
    #[inline]
    pub fn adjacency(&self, id: AdjacencyId) -> Option<&Adjacency> {
        self.adjacencies.get(usize::from(id))
    }
}
