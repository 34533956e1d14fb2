//! Packet I/O: `rx_burst` and `tx_burst` over DPDK, `AF_XDP` and memory, behind one frame type.
//!
//! It moves frames and counts what the device lost; it parses nothing and decides nothing.
//!
//! Entry points: [`dpdk::DpdkPort::group`], [`xsk::XskPort::group`] and [`mem::MemPort::group`] make the ports of one lcore as
//! a [`PortGroup`]; the lcore's thread takes it apart and polls.
//!
//! Who owns a frame: exactly one place at a time: a port's ring, a burst in the lcore, or a queue. [`Frame`] has no
//! `Drop`: whoever holds one must transmit it or give it back with [`Port::free`]; the lcore's conservation check
//! finds what was lost. All ports of one lcore share one pool, so that a frame received on one port leaves on another as
//! it is, without a copy; a frame that reaches a port of another pool is a bug and asserted.
//!
//! After construction nothing here allocates, locks or logs. System calls: `AF_XDP` kicks, and only when the kernel asks.
//! Everything read from a ring that the kernel or a driver writes is bounds-checked in release builds too.
//!
//! Features: `dpdk` and `xsk`, both on by default; without them the crate is pure Rust with the memory ports alone.

#[cfg_attr(
    not(feature = "xsk"),
    allow(dead_code, reason = "what only devices need")
)]
mod chunks;
#[cfg(feature = "dpdk")]
pub mod dpdk;
mod error;
#[cfg_attr(
    not(any(feature = "dpdk", feature = "xsk")),
    allow(dead_code, reason = "what only devices need")
)]
mod frame;
mod group;
pub mod mem;
#[cfg(feature = "xsk")]
pub mod xsk;

use std::sync::atomic::{AtomicU32, Ordering};

pub use error::PortError;
pub use frame::{Frame, FrameSource};
pub use group::PortGroup;

/// Frames moved at once, at most.
pub const BURST: usize = 64;

/// Shortest frame that a device is given, an Ethernet header; shorter ones are freed and counted in `tx_errors`.
#[cfg(any(feature = "dpdk", feature = "xsk"))]
const MIN_FRAME: usize = 14;

/// One RX/TX queue pair of one interface, owned by one lcore.
pub trait Port {
    /// Receives up to `BURST - burst.len()` frames onto the end of `burst` and returns how many. `burst` needs a capacity
    /// of [`BURST`]; it never grows.
    fn rx_burst(&mut self, burst: &mut Vec<Frame>) -> usize;

    /// Sends frames from the front of `frames`, taking what the ring accepts and leaving the rest in order.
    /// Returns how many were taken. A frame of another port's memory that shares the pool is sent as it is.
    ///
    /// Frames may wait for [`Port::poll`] to be handed to the device, so that one loop of an lcore costs one kick.
    fn tx_burst(&mut self, frames: &mut Vec<Frame>) -> usize;

    /// An empty frame with full headroom, for traffic originated here; `None` when the pool is dry.
    fn allocate(&mut self) -> Option<Frame>;

    /// Gives a frame back to the pool that it came from.
    fn free(&mut self, frame: Frame);

    /// Anything the port must do once per loop when idle or after a burst: kicks, completions, refills.
    fn poll(&mut self);

    /// What the device itself counted, monotonic since start. May be a system call: for tests and the end of a run; the
    /// agent reads through a [`CountersProbe`].
    fn device_counters(&self) -> DeviceCounters;

    /// A reader of [`Port::device_counters`] that another thread may keep and use while the lcore polls.
    fn counters_probe(&self) -> CountersProbe;

    /// Makes the calling thread known to the driver, once, before its first burst.
    fn enter_thread()
    where
        Self: Sized,
    {
    }
}

/// Counters that only the device or the kernel knows: frames that never reached `rx_burst` or never left after `tx_burst`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Frames lost before a burst could take them (ring full, no descriptor).
    pub rx_missed: u64,
    /// Frames that the device refused as malformed, or that do not fit into one buffer.
    pub rx_errors: u64,
    /// Frames accepted by `tx_burst` that the device could not send.
    pub tx_errors: u64,
}

/// Reads one port's [`DeviceCounters`] from any thread.
pub struct CountersProbe(Box<dyn Fn() -> DeviceCounters + Send + Sync>);

impl CountersProbe {
    /// A probe that asks `read`.
    pub fn new(read: impl Fn() -> DeviceCounters + Send + Sync + 'static) -> Self {
        Self(Box::new(read))
    }

    /// The counters now.
    pub fn read(&self) -> DeviceCounters {
        (self.0)()
    }
}

impl core::fmt::Debug for CountersProbe {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_tuple("CountersProbe")
            .finish_non_exhaustive()
    }
}

/// A number for a new pool, so that a frame of a foreign pool is recognised. Never repeats in a process.
pub(crate) fn next_pool_id() -> u32 {
    static NEXT: AtomicU32 = AtomicU32::new(1);
    NEXT.fetch_add(1, Ordering::Relaxed)
}
