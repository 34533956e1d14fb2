//! Burst in, verdicts out: what happens to a packet.
//!
//! What it is: parse, flow lookup, rewrite; on a miss rules, service, backend, translation; marks, copies and limits that rules
//! ask for; answers made here (echo, ARP, neighbour discovery, time exceeded, RST, refusals). What it is not: I/O. It never
//! allocates, blocks or makes a system call, and it neither sends nor frees a frame: it says what to do with each.
//!
//! Entry point: [`Pipeline::process`]. One lcore owns one pipeline; nothing in it is shared but the [`Counters`], which
//! others may read.
//!
//! The hot path goes over the whole burst in stages, so that memory latency overlaps: parse, hash and prefetch the flow
//! bucket; look up and prefetch the flow; verify and rewrite. A frame that any stage cannot finish goes to the slow path,
//! which starts over with the general parser. The two mean the same; the fast one only recognises less. Packets of flows
//! whose rule asks for more than to let them through are staged like all others and sent by a path of their own behind it.
//!
//! Invariants:
//! - every frame gets exactly one verdict;
//! - a frame that is not forwarded or answered is not changed, except that a partial checksum may be completed;
//! - a held frame left no trace: it is processed again as if it had just come.
#![forbid(unsafe_code)]

mod ahead;
mod burst;
mod context;
mod counters;
mod error;
mod explain;
mod first;
mod guard;
mod hold;
mod judge;
mod limit;
mod mirror;
mod nat;
mod next_hop;
mod pipeline;
mod policer;
mod recheck;
mod rewrite;
mod side;
mod slow;
mod treat;

pub use context::{Now, ResolveRequest};
pub use counters::{
    Counter, Counters, DropCounters, FlowCounters, Limits, Originated, PortCounters,
    SourceCounters, TrafficCounters,
};
pub use explain::{Explanation, Names, Station, describe, explain};
pub use hold::{Held, HoldQueue};
pub use mirror::{MirrorSink, NoMirror};
pub use pipeline::{Pipeline, Settings};

/// Frames that [`Pipeline::process`] takes at once, at most.
pub const BURST: usize = 64;
