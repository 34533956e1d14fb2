//! What one lcore polls: one receive and one transmit queue of a port.

use std::sync::Arc;

use crate::Mbuf;
use crate::mbuf::Mbuf as Packet;
use crate::port::Device;
use crate::sys;

/// One RX/TX queue pair. The only one of its index, so that no two threads poll it.
#[derive(Debug)]
pub struct Queue {
    device: Arc<Device>,
    port: u16,
    index: u16,
}

impl Queue {
    pub(crate) fn new(device: Arc<Device>, port: u16, index: u16) -> Self {
        Self {
            device,
            port,
            index,
        }
    }

    /// Index of the queue.
    pub fn index(&self) -> u16 {
        self.index
    }

    /// Number of the port.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Receives up to `into.len()` frames into its front and returns how many. All places must be empty.
    #[inline]
    pub fn rx_burst(&mut self, into: &mut [Option<Packet>]) -> usize {
        debug_assert!(into.iter().all(Option::is_none), "a frame would leak");
        let wanted = u16::try_from(into.len()).unwrap_or(u16::MAX);
        // SAFETY: `wanted` writable places, each as large as a pointer and `None` for null (asserted beside `Mbuf`); the
        // port is configured and lives as long as `self`, and nobody else uses this queue (`&mut`, one per index).
        let count =
            unsafe { sys::march_rx_burst(self.port, self.index, into.as_mut_ptr().cast(), wanted) };
        usize::from(count.min(wanted))
    }

    /// Sends frames from the front of `from`, which must all be there, and returns how many the driver took; their places
    /// are empty afterwards.
    #[inline]
    pub fn tx_burst(&mut self, from: &mut [Option<Mbuf>]) -> usize {
        assert!(
            from.iter().all(Option::is_some),
            "a hole among the frames to send"
        );
        let wanted = u16::try_from(from.len()).unwrap_or(u16::MAX);
        // SAFETY: `wanted` pointers to mbufs that we own (just checked); the rest as in `rx_burst`.
        let count =
            unsafe { sys::march_tx_burst(self.port, self.index, from.as_mut_ptr().cast(), wanted) };
        let count = usize::from(count.min(wanted));
        for sent in &mut from[..count] {
            // The driver owns it now.
            core::mem::forget(sent.take());
        }
        count
    }

    /// The port's counters; see [`crate::EthPort::stats`].
    pub fn stats(&self) -> crate::EthStats {
        self.device.stats()
    }
}
