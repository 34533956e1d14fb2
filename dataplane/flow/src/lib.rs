//! One lcore's flow table: the remembered decision for every five-tuple, both directions in one object.
//!
//! Not shared: each lcore owns its tables, one for IPv4 and one for IPv6. Not a cache of packets, only of decisions.
//! Entry point: [`Flows`], which are two of [`FlowTable`]: a large one and a small one for
//! handshakes that are not done. A lookup is staged so that memory latency overlaps over a burst:
//! [`FlowTable::prefetch`] by hash, [`FlowTable::probe`] (which prefetches the flow), then [`FlowTable::verify`].
//!
//! Layout: a bucket is one cache line of eight 16-bit tags and eight 32-bit slots; a slot names a flow and a direction.
//! An IPv4 flow is one cache line, an IPv6 flow two; how it was opened ([`Opening`]) lies beside it and is read only when it is
//! judged or routed again. The outgoing tuple of one direction is the incoming tuple of the
//! other with its ends swapped, so nothing is stored twice.
//!
//! Invariants:
//! - nothing is allocated after [`FlowTable::new`];
//! - a key is always compared in full; a tag match alone decides nothing;
//! - both directions are inserted and removed together: no flow is ever left with one half;
//! - the table never fails closed: when it is full, [`FlowTable::evict`] makes room.

mod address;
mod bucket;
mod flow;
mod flows;
mod memory;
mod opening;
mod order;
mod rate;
mod sources;
mod table;
pub mod tcp;

pub use address::{AddressPair, HashSeed, Ipv4Pair, Ipv6Pair, Key};
pub use flow::{Direction, Flow, FlowState, NONE};
pub use flows::Flows;
pub use opening::Opening;
pub use rate::{Rate, TokenBucket};
pub use sources::{SourceKey, SourceTable};
pub use table::{Candidate, FlowHandle, FlowTable, InsertError};
