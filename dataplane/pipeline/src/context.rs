//! What every stage needs to know of the burst that it works on.

use core::net::IpAddr;

use march_tables::{Generation, PortId, PortTable};

use crate::counters::Counters;
use crate::guard::{Admission, PuntShare, Sources};
use crate::limit::Answers;
use crate::mirror::Mirrors;
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
    /// Varies the search for a NAT port, so that two flows do not probe in step.
    pub nat_salt: u64,
}

impl Shared {
    /// Where the next search for a NAT port begins.
    pub fn next_salt(&mut self) -> u64 {
        self.nat_salt = self
            .nat_salt
            .wrapping_mul(0x5851_f42d_4c95_7f2d)
            .wrapping_add(0x1405_7b7e_f767_814f);
        self.nat_salt >> 16
    }

    /// Asks the agent to resolve a next hop, unless that was asked already or too much is being asked.
    pub fn request(&mut self, request: ResolveRequest) {
        if self.resolve.len() < self.resolve.capacity() && !self.resolve.contains(&request) {
            self.resolve.push(request);
        }
    }
}
