//! Ports in memory: tests, simulation and benchmarks without a device.
//!
//! A [`MemPort`] behaves like a device with bounded rings over one arena that its group shares. What it receives is put
//! there by [`MemPort::inject`] (or a [`MemPeer`] on another thread), what it sent is taken by [`MemPort::collect`].
//!
//! ```
//! use march_port::mem::{MemConfig, MemPort};
//! use march_port::{Port, BURST};
//! use march_wire::Buffer;
//!
//! let mut ports = MemPort::group(2, MemConfig::default()).into_ports();
//! let mut burst = Vec::with_capacity(BURST);
//! ports[0].inject(b"a frame from outside").unwrap();
//! assert_eq!(ports[0].rx_burst(&mut burst), 1);
//! assert_eq!(ports[1].tx_burst(&mut burst), 1);
//! ports[1].poll();
//! let sent = ports[1].collect().unwrap();
//! assert_eq!(sent.bytes(), b"a frame from outside");
//! ports[1].free(sent);
//! assert_eq!(ports[0].census().frames, 0);
//! ```

mod arena;
mod faults;
mod peer;

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use march_wire::Buffer;

pub use crate::chunks::Census;
use crate::chunks::{Chunks, STRIDE, Shared};
use crate::{BURST, CountersProbe, DeviceCounters, Frame, FrameSource, Port, PortGroup};
use arena::Arena;
use faults::Dice;
pub use faults::Faults;
pub use peer::MemPeer;

/// Sizes and behaviour of a group of memory ports.
#[derive(Clone, Copy, Debug)]
pub struct MemConfig {
    /// Buffers in the arena, shared by the ports of the group.
    pub buffers: u32,
    /// Bytes in front of a received or allocated frame.
    pub headroom: u16,
    /// Frames that wait to be received, per port.
    pub rx_ring: usize,
    /// Frames that were sent and not collected, per port.
    pub tx_ring: usize,
    /// What happens to sent frames.
    pub sink: Sink,
    /// Faults of every port of the group; the port's index is mixed into the seed.
    pub faults: Faults,
}

impl Default for MemConfig {
    fn default() -> Self {
        Self {
            buffers: 4096,
            headroom: 256,
            rx_ring: 1024,
            tx_ring: 1024,
            sink: Sink::Keep,
            faults: Faults::default(),
        }
    }
}

/// What a memory port does with frames that were sent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Sink {
    /// Keeps them for [`MemPort::collect`] or the peer.
    Keep,
    /// Counts them and frees them at the next [`Port::poll`].
    Discard,
}

/// Why a frame could not be injected.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InjectError {
    /// The receive ring holds as many frames as [`MemConfig::rx_ring`] allows.
    #[error("the receive ring is full")]
    RingFull,
    /// Every buffer of the arena is in use.
    #[error("no free buffer")]
    PoolDry,
    /// More bytes than a buffer holds behind its headroom.
    #[error("{len} bytes do not fit behind the headroom")]
    TooLong {
        /// Length of the refused frame in bytes.
        len: usize,
    },
}

/// A port in memory. Made in groups that share an arena: [`MemPort::group`].
#[derive(Debug)]
pub struct MemPort {
    rx: VecDeque<Frame>,
    tx: VecDeque<Frame>,
    rx_ring: usize,
    tx_ring: usize,
    sink: Sink,
    faults: Faults,
    dice: Dice,
    peer: Option<MemPeer>,
    missed: Arc<AtomicU64>,
    sent: u64,
    // Last, so that the frames above are still backed while they are dropped.
    pool: Shared<Chunks<Arena>>,
}

impl MemPort {
    /// `count` ports over one arena.
    pub fn group(count: usize, config: MemConfig) -> PortGroup<Self> {
        let arena = Arena::new(config.buffers as usize * STRIDE as usize);
        let pool = Shared::new(Chunks::new(
            arena,
            FrameSource::Memory,
            config.buffers,
            STRIDE,
            config.headroom,
        ));
        let port = |index: usize| Self {
            rx: VecDeque::with_capacity(config.rx_ring),
            tx: VecDeque::with_capacity(config.tx_ring),
            rx_ring: config.rx_ring,
            tx_ring: config.tx_ring,
            sink: config.sink,
            faults: config.faults,
            dice: Dice::new(config.faults.seed ^ (index as u64).rotate_left(32)),
            peer: None,
            missed: Arc::default(),
            sent: 0,
            pool: pool.share(),
        };
        let ports = (0..count).map(port).collect();
        // SAFETY: `pool` is shared by these ports alone; the handle of this function is dropped with it, before the group
        // can leave this thread.
        unsafe { PortGroup::of_pool(ports) }
    }

    /// `count` ports over one arena, each with a cable of `slots` frames in each direction whose other end may be on
    /// another thread.
    pub fn group_with_peers(
        count: usize,
        config: MemConfig,
        slots: usize,
    ) -> (PortGroup<Self>, Vec<MemPeer>) {
        let mut ports = Self::group(count, config).into_ports();
        let peers: Vec<MemPeer> = (0..count).map(|_| MemPeer::new(slots)).collect();
        for (port, peer) in ports.iter_mut().zip(&peers) {
            port.peer = Some(peer.clone());
        }
        // SAFETY: the same ports as `group` made, all of them, and still on one thread.
        (unsafe { PortGroup::of_pool(ports) }, peers)
    }

    /// Puts a copy of `bytes` at the end of the receive ring.
    pub fn inject(&mut self, bytes: &[u8]) -> Result<(), InjectError> {
        if self.rx.len() >= self.rx_ring {
            self.miss();
            return Err(InjectError::RingFull);
        }
        let Some(mut frame) = self.pool.with(Chunks::allocate) else {
            self.miss();
            return Err(InjectError::PoolDry);
        };
        if !frame.resize(bytes.len()) {
            self.free(frame);
            return Err(InjectError::TooLong { len: bytes.len() });
        }
        frame.bytes_mut().copy_from_slice(bytes);
        self.rx.push_back(frame);
        Ok(())
    }

    /// Puts a frame of this group at the end of the receive ring without copying it. Gives it back if the ring is full.
    pub fn inject_frame(&mut self, frame: Frame) -> Result<(), Frame> {
        if self.rx.len() >= self.rx_ring {
            self.miss();
            return Err(frame);
        }
        self.rx.push_back(frame);
        Ok(())
    }

    /// The oldest frame that was sent and not collected; it belongs to the caller, who frees it.
    pub fn collect(&mut self) -> Option<Frame> {
        self.tx.pop_front()
    }

    /// The bytes of the oldest frame that was sent and not collected; the frame is freed.
    pub fn collect_bytes(&mut self) -> Option<Vec<u8>> {
        let frame = self.tx.pop_front()?;
        let bytes = frame.bytes().to_vec();
        self.free(frame);
        Some(bytes)
    }

    /// Frames that `tx_burst` took since the start.
    pub fn sent(&self) -> u64 {
        self.sent
    }

    /// Where the buffers of the group are. Frames in the rings of memory ports count as frames.
    pub fn census(&self) -> Census {
        self.pool.with(|pool| pool.census())
    }

    fn miss(&self) {
        self.missed.fetch_add(1, Ordering::Relaxed);
    }

    /// Moves what the peer sent into the receive ring.
    fn receive_from_peer(&mut self) {
        let Some(peer) = self.peer.clone() else {
            return;
        };
        while self.rx.len() < self.rx_ring && self.pool.with(|pool| pool.free_count()) > 0 {
            // A frame that does not fit behind the headroom is lost and counted, as on a device.
            match peer.next_for_port(|bytes| self.inject(bytes)) {
                None => break,
                Some(Ok(())) => {}
                Some(Err(_)) => self.miss(),
            }
        }
    }

    /// Moves what was sent to the peer, as far as its end has room.
    fn deliver_to_peer(&mut self) {
        let Some(peer) = self.peer.clone() else {
            return;
        };
        while let Some(frame) = self.tx.pop_front() {
            if !peer.deliver(frame.bytes()) {
                self.tx.push_front(frame);
                break;
            }
            self.free(frame);
        }
    }
}

impl Port for MemPort {
    fn rx_burst(&mut self, burst: &mut Vec<Frame>) -> usize {
        self.receive_from_peer();
        let before = burst.len();
        while burst.len() < BURST {
            let Some(frame) = self.rx.pop_front() else {
                break;
            };
            if self.dice.roll(self.faults.rx_loss) {
                self.miss();
                self.free(frame);
                continue;
            }
            burst.push(frame);
            if burst.len() - before > 1 && self.dice.roll(self.faults.rx_reorder) {
                let last = burst.len() - 1;
                burst.swap(last, last - 1);
            }
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, frames: &mut Vec<Frame>) -> usize {
        let mut room = (self.tx_ring - self.tx.len()).min(frames.len());
        if self.dice.roll(self.faults.tx_full) {
            room = usize::try_from(self.dice.below(room as u64 + 1)).unwrap_or(0);
        }
        for frame in frames.drain(..room) {
            self.pool.with(|pool| pool.index(&frame));
            self.tx.push_back(frame);
        }
        self.sent += room as u64;
        room
    }

    fn allocate(&mut self) -> Option<Frame> {
        if self.dice.roll(self.faults.pool_dry) {
            return None;
        }
        self.pool.with(Chunks::allocate)
    }

    fn free(&mut self, frame: Frame) {
        self.pool.with(|pool| pool.give_back(&frame));
    }

    fn poll(&mut self) {
        match self.sink {
            Sink::Keep => self.deliver_to_peer(),
            Sink::Discard => {
                while let Some(frame) = self.tx.pop_front() {
                    self.free(frame);
                }
            }
        }
    }

    fn device_counters(&self) -> DeviceCounters {
        DeviceCounters {
            rx_missed: self.missed.load(Ordering::Relaxed),
            ..DeviceCounters::default()
        }
    }

    fn counters_probe(&self) -> CountersProbe {
        let missed = Arc::clone(&self.missed);
        CountersProbe::new(move || DeviceCounters {
            rx_missed: missed.load(Ordering::Relaxed),
            ..DeviceCounters::default()
        })
    }
}

impl Drop for MemPort {
    fn drop(&mut self) {
        while let Some(frame) = self.rx.pop_front().or_else(|| self.tx.pop_front()) {
            self.pool.with(|pool| pool.give_back(&frame));
        }
    }
}

#[cfg(test)]
mod tests;
