//! What one lcore polls: one receive and one transmit queue of a port.

use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::sync::Arc;

use crate::Mbuf;
use crate::port::Device;
use crate::sys;

/// A buffer without its owner.
pub type RawMbuf = NonNull<sys::rte_mbuf>;

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
    pub fn rx_burst(&mut self, into: &mut [Option<Mbuf>]) -> usize {
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

    /// As [`Queue::rx_burst`], for callers that keep frames as something else than [`Mbuf`]: returns the received buffers,
    /// which leak unless each is given to [`Mbuf::from_raw`] or back to the driver.
    #[inline]
    pub fn rx_burst_raw<'into>(
        &mut self,
        into: &'into mut [MaybeUninit<RawMbuf>],
    ) -> &'into [RawMbuf] {
        let wanted = u16::try_from(into.len()).unwrap_or(u16::MAX);
        let places = into.as_mut_ptr();
        // SAFETY: `wanted` writable places, each as large as a pointer; the port is configured and lives as long as `self`,
        // and nobody else uses this queue (`&mut`, one per index).
        let count = unsafe { sys::march_rx_burst(self.port, self.index, places.cast(), wanted) };
        let count = usize::from(count.min(wanted));
        // SAFETY: the driver wrote the first `count` places, never with null.
        unsafe { core::slice::from_raw_parts(places.cast(), count) }
    }

    /// As [`Queue::tx_burst`], for callers that keep frames as something else than [`Mbuf`].
    ///
    /// # Safety
    ///
    /// The caller must own every buffer of `from`, and must not use those that were taken (as many as returned, from the
    /// front) afterwards.
    #[inline]
    pub unsafe fn tx_burst_raw(&mut self, from: &mut [RawMbuf]) -> usize {
        let wanted = u16::try_from(from.len()).unwrap_or(u16::MAX);
        // SAFETY: `wanted` pointers to mbufs that the caller owns; the rest as in `rx_burst_raw`.
        let count =
            unsafe { sys::march_tx_burst(self.port, self.index, from.as_mut_ptr().cast(), wanted) };
        usize::from(count.min(wanted))
    }

    /// The port's counters; see [`crate::EthPort::stats`].
    pub fn stats(&self) -> crate::EthStats {
        self.device.stats()
    }
}
