//! Packet I/O: `rx_burst` and `tx_burst` over DPDK, `AF_XDP` and memory, behind one frame type.
//!
//! A frame is owned by exactly one place at a time: a port's ring, a burst in the lcore, or a queue. `Frame` has no
//! `Drop`: whoever holds one must transmit it or give it back with [`Port::free`]; the lcore's conservation check
//! finds what was lost.

mod frame;

pub use frame::{Frame, FrameSource};

/// Frames moved at once, at most.
pub const BURST: usize = 64;

/// One RX/TX queue pair of one interface, owned by one lcore.
pub trait Port {
    /// Receives up to `BURST - burst.len()` frames onto the end of `burst` and returns how many.
    fn rx_burst(&mut self, burst: &mut Vec<Frame>) -> usize;
    /// Sends frames from the front of `frames`, taking what the ring accepts and leaving the rest in order.
    /// Returns how many were taken. A frame of another port's memory that shares the pool is sent as it is.
    fn tx_burst(&mut self, frames: &mut Vec<Frame>) -> usize;
    /// An empty frame with full headroom, for traffic originated here; `None` when the pool is dry.
    fn allocate(&mut self) -> Option<Frame>;
    /// Gives a frame back to the pool that it came from.
    fn free(&mut self, frame: Frame);
    /// Anything the port must do once per loop when idle or after a burst: kicks, completions, refills.
    fn poll(&mut self);
    /// What the device itself counted, monotonic since start.
    fn device_counters(&self) -> DeviceCounters;
}

/// Counters that only the device or the kernel knows: frames that never reached `rx_burst` or never left after `tx_burst`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DeviceCounters {
    /// Frames lost before a burst could take them (ring full, no descriptor).
    pub rx_missed: u64,
    /// Frames that the device refused as malformed.
    pub rx_errors: u64,
    /// Frames accepted by `tx_burst` that the device could not send.
    pub tx_errors: u64,
}
