//! What was counted, by one writer, for anybody to read.
//!
//! Each lcore owns one [`Counters`] and is its only writer: a plain load, add and store, no locked instruction. Readers
//! (exporters, the console) see every counter some nanoseconds late, never torn.

use core::sync::atomic::{AtomicU64, Ordering};

use march_wire::DropReason;

/// A counter with one writer.
#[derive(Debug, Default)]
#[repr(transparent)]
pub struct Counter(AtomicU64);

impl Counter {
    /// Adds, from the one writing thread.
    #[inline]
    pub fn add(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_add(count),
            Ordering::Relaxed,
        );
    }

    /// Subtracts, from the one writing thread: for gauges.
    #[inline]
    pub fn subtract(&self, count: u64) {
        self.0.store(
            self.0.load(Ordering::Relaxed).wrapping_sub(count),
            Ordering::Relaxed,
        );
    }

    /// Sets, from the one writing thread: for gauges.
    #[inline]
    pub fn set(&self, value: u64) {
        self.0.store(value, Ordering::Relaxed);
    }

    /// The value some nanoseconds ago.
    #[inline]
    pub fn get(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// Frames that the box sends of its own accord, not because of a frame that it just got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Originated {
    /// Gratuitous ARP and unsolicited neighbour advertisements for our addresses.
    Gratuitous,
    /// The kernel's own traffic, through the TAP twin.
    Kernel,
    /// Copies that a rule asked for.
    Mirror,
}

impl Originated {
    /// Every kind, in the order of the discriminants.
    pub const ALL: [Self; 3] = [Self::Gratuitous, Self::Kernel, Self::Mirror];

    /// Metric label.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Gratuitous => "gratuitous",
            Self::Kernel => "kernel",
            Self::Mirror => "mirror",
        }
    }
}

/// One counter for each drop reason.
#[derive(Debug)]
pub struct DropCounters([Counter; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self(core::array::from_fn(|_| Counter::default()))
    }
}

impl DropCounters {
    /// The counter of a reason.
    #[inline]
    pub fn of(&self, reason: DropReason) -> &Counter {
        // The enum's discriminants are 0 to COUNT - 1.
        &self.0[reason as usize]
    }
}

/// One port. Both equations hold to the frame whenever the lcore is between two bursts:
/// `rx_frames = forwarded + answered + punted + held + sum(drops)` and
/// `tx_frames = forwarded_in + tx_answered + sum(originated)`.
#[derive(Debug, Default)]
#[repr(align(128))]
pub struct PortCounters {
    /// Frames received.
    pub rx_frames: Counter,
    /// Their bytes, Ethernet header included, FCS not.
    pub rx_bytes: Counter,
    /// Received here and sent, rewritten, out of some port.
    pub forwarded: Counter,
    /// Received here and turned into a reply.
    pub answered: Counter,
    /// Received here and given to the kernel.
    pub punted: Counter,
    /// Received here and waiting now (a gauge).
    pub held: Counter,
    /// Received here and dropped, by reason.
    pub drops: DropCounters,
    /// Frames sent.
    pub tx_frames: Counter,
    /// Their bytes.
    pub tx_bytes: Counter,
    /// Sent from here, received on some port.
    pub forwarded_in: Counter,
    /// Replies sent from here.
    pub tx_answered: Counter,
    /// Sent from here of our own accord, by [`Originated`].
    pub originated: [Counter; Originated::ALL.len()],
    /// Originated frames that the full transmit ring refused, copies aside; never in `tx_frames`.
    pub originated_lost: Counter,
    /// Copies that did not leave by this port: over their rate, without a free buffer, or refused by the full transmit ring.
    pub mirror_lost: Counter,
    /// Partial checksums completed on the way in.
    pub checksums_completed: Counter,
}

impl PortCounters {
    /// Counts one dropped frame.
    #[inline]
    pub fn drop(&self, reason: DropReason) {
        self.drops.of(reason).add(1);
    }

    /// Sum over all reasons.
    pub fn dropped(&self) -> u64 {
        DropReason::ALL
            .iter()
            .map(|reason| self.drops.of(*reason).get())
            .sum()
    }
}

/// Packets and bytes of one service or backend, by direction (0: from the client, 1: back), and its flows.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct TrafficCounters {
    /// Packets by direction.
    pub packets: [Counter; 2],
    /// Frame bytes by direction.
    pub bytes: [Counter; 2],
    /// Flows created.
    pub flows_created: Counter,
    /// Flows that exist now (a gauge).
    pub flows: Counter,
    /// Of these, TCP handshakes that are not done (a gauge; of services, not of backends).
    pub half_open: Counter,
}

impl TrafficCounters {
    /// Counts one packet.
    #[inline]
    pub fn count(&self, direction: usize, bytes: u64) {
        self.packets[direction & 1].add(1);
        self.bytes[direction & 1].add(bytes);
    }
}

/// Flow tables of one lcore.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct FlowCounters {
    /// Flows that exist now, IPv4 and IPv6 (gauges).
    pub live: [Counter; 2],
    /// Of these, in the table of handshakes that are not done (gauges).
    pub embryonic: [Counter; 2],
    /// Handshakes that fit there (set once).
    pub embryonic_capacity: [Counter; 2],
    /// 1 while that table is so full that handshakes get less time (gauges).
    pub flood_mode: [Counter; 2],
    /// Handshakes that had to make room for others.
    pub embryonic_evicted: Counter,
    /// Flows created.
    pub created: Counter,
    /// Flows that ended by timeout or close.
    pub expired: Counter,
    /// Flows that had to make room.
    pub evicted: Counter,
    /// Flows looked at again because the epoch moved.
    pub rechecked: Counter,
}

/// The table of sources of one lcore, which guards and limits count in.
#[derive(Debug, Default)]
#[repr(align(64))]
pub struct SourceCounters {
    /// Places (set once).
    pub capacity: Counter,
    /// Places in use, those of sources that have been silent since included (a gauge).
    pub tracked: Counter,
    /// Sources that were forgotten before they had their full allowance again.
    pub evicted: Counter,
}

/// How many of each thing can be counted. A generation that needs more is refused before it is built.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Ports.
    pub ports: usize,
    /// Services.
    pub services: usize,
    /// Backend slots.
    pub backends: usize,
    /// Rules.
    pub rules: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            ports: 64,
            services: 4_096,
            backends: 16_384,
            rules: 131_072,
        }
    }
}

/// Everything that one lcore counts. Allocated once.
#[derive(Debug)]
pub struct Counters {
    /// By `PortId`.
    pub ports: Box<[PortCounters]>,
    /// By `ServiceId`.
    pub services: Box<[TrafficCounters]>,
    /// By `BackendId`.
    pub backends: Box<[TrafficCounters]>,
    /// Packets that matched, by `RuleId`; only first packets of a flow and re-checks get there.
    pub rules: Box<[Counter]>,
    /// Flow tables.
    pub flows: FlowCounters,
    /// Table of sources.
    pub sources: SourceCounters,
}

impl Counters {
    /// All zero.
    #[must_use]
    pub fn new(limits: Limits) -> Self {
        Self {
            ports: zeroed(limits.ports),
            services: zeroed(limits.services),
            backends: zeroed(limits.backends),
            rules: zeroed(limits.rules),
            flows: FlowCounters::default(),
            sources: SourceCounters::default(),
        }
    }

    /// What this has room for.
    #[must_use]
    pub fn limits(&self) -> Limits {
        Limits {
            ports: self.ports.len(),
            services: self.services.len(),
            backends: self.backends.len(),
            rules: self.rules.len(),
        }
    }
}

fn zeroed<T: Default>(count: usize) -> Box<[T]> {
    (0..count).map(|_| T::default()).collect()
}
