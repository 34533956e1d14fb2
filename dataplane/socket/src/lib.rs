//! The socket tier: services carried by the kernel's own TCP and UDP, relayed with tokio.
//!
//! **What it is.** The lowest rung of the tier ladder. It needs no hugepages, no eBPF and no driver: one listener per
//! (VIP, port), a connection or session towards a backend for each client, bytes relayed both ways. The same compiled
//! [`Generation`](march_tables::Generation) that the lcores run decides here too: the same rules, the same service
//! lookup, the same balancing over the same hash.
//!
//! **What it is not.** It parses no packets, terminates no TLS, speaks no PROXY protocol and keeps no client address:
//! backends see this host. It does not put addresses on interfaces; whoever runs it places the VIPs (on `lo`).
//!
//! **Entry point.** [`SocketTier::new`], then [`SocketTier::publish`] for every generation.
//!
//! **Invariants.**
//! - Connections, UDP sessions and listeners are bounded by [`Limits`]; what does not fit is refused and counted.
//! - A client that was accepted by the kernel ends in exactly one of: relayed, or one drop reason.
//! - A listener that is in both the old and the new generation is never closed and reopened.
//! - Bytes reach a backend only after its connection stands; until then another backend may be tried.
//! - An idle connection owns no buffer.
//!
//! Rules are looked at when a connection is accepted and at the first datagram of a session; what runs already is not
//! judged again. Nothing here may run on an lcore.
#![forbid(unsafe_code)]

mod admit;
mod config;
mod counters;
mod descriptors;
mod listen;
mod relay;
mod running;
mod tcp;
mod tier;
mod udp;

pub use config::Limits;
pub use counters::{BackendReading, ServiceReading, TierReading};
pub use listen::{ListenerKey, Transport};
pub use tier::{ListenerFailure, PublishReport, SocketTier};
