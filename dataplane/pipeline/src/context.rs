//! What every stage needs to know of the burst that it works on.

use core::net::IpAddr;

use march_tables::{Generation, PortId, PortTable};

use crate::counters::Counters;
use crate::guard::{Admission, PuntShare, Sources};
use crate::limit::Answers;
use crate::mirror::Mirrors;
use crate::nat::Turns;
use crate::policer::Policers;

/// The lcore's clock, read once per burst.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Milliseconds since some start, wrapping.
    pub ms: u32,
}

/// A next hop that a frame waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ResolveRequest {
    /// The link that it is on.
    pub port: PortId,
    /// Its address.
    pub address: IpAddr,
}

/// One burst: the generation it sees whole, where it came in, and when.
#[derive(Clone, Copy)]
pub(crate) struct Context<'a> {
    pub generation: &'a Generation,
    pub ingress: PortId,
    pub port: &'a PortTable,
    pub now: Now,
}

/// What the slow path writes to besides flows and frames.
pub(crate) struct Shared {
    pub counters: std::sync::Arc<Counters>,
    /// Round-robin positions by pool.
    pub cursors: Box<[u32]>,
    /// Requests since the lcore last took them; bounded by its capacity, the rest is asked again by the next packet.
    pub resolve: Vec<ResolveRequest>,
    pub answers: Answers,
    pub mirrors: Mirrors,
    pub policers: Policers,
    /// Buckets of sources, for guards and rules.
    pub sources: Sources,
    pub admission: Admission,
    pub punts: PuntShare,
    /// Whose turn it is among a NAT pool's tuples, by the far end.
    pub turns: Turns,
}

impl Shared {
    /// Asks the agent to resolve a next hop, unless that was asked already or too much is being asked.
    pub fn request(&mut self, request: ResolveRequest) {
        if self.resolve.len() < self.resolve.capacity() && !self.resolve.contains(&request) {
            self.resolve.push(request);
        }
    }
}
