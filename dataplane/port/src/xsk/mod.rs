//! Ports over `AF_XDP` sockets.
//!
//! Not here: the XDP program that redirects frames into the sockets. Whoever loads it puts [`XskPort::socket`] into its
//! `XSKMAP`; until then a port receives nothing and can already send. Nothing here loads or attaches a program.
//!
//! All ports of an lcore share one piece of frame memory, registered with each port's socket, so that a frame received
//! on one port is transmitted by another without a copy and each port can still have its own copy mode. Chunks are in
//! one of three places: the pool's free list, a device (fill, receive, transmit, completion ring), or a [`Frame`].
//!
//! ```no_run
//! use march_port::xsk::{XskConfig, XskPort, XskTarget};
//! # fn main() -> Result<(), march_port::PortError> {
//! let target = |name: &str| XskTarget { interface: name.to_owned(), queue: 0 };
//! let group = XskPort::group(&[target("eth0"), target("eth1")], &XskConfig::default())?;
//! for port in group.ports() {
//!     let fd = port.socket(); // into the XSKMAP, at index port.queue()
//!     println!("{} runs {:?}: {:?}", port.interface(), port.mode(), port.copy_reason());
//! #   let _ = fd;
//! }
//! let probes: Vec<_> = group.ports().iter().map(march_port::Port::counters_probe).collect();
//! std::thread::spawn(move || {
//!     let mut ports = group.into_ports();
//!     // the lcore's loop
//! #   ports.clear();
//! });
//! # drop(probes);
//! # Ok(())
//! # }
//! ```

mod area;
mod config;
mod layout;
mod open;
mod ring;
mod socket;

use std::os::fd::{AsFd, BorrowedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

pub use crate::chunks::Census;
use crate::chunks::{Chunks, Shared};
use crate::{BURST, CountersProbe, DeviceCounters, Frame, MIN_FRAME, Port, PortError, PortGroup};
use area::Area;
pub use area::Pages;
pub use config::{BusyPoll, CopyMode, XskConfig, XskTarget};
pub use layout::Layout;
use ring::{Consumer, Producer};
use socket::{Kick, Socket};

/// Ring slots moved at once.
const BATCH: u32 = 64;
const _: () = assert!(BATCH as usize == BURST);
/// Kicks of one [`Port::poll`], at most: enough for four bursts on kernels that copy out 32 frames per kick.
const KICKS: usize = 8;
/// Chunks that refilling leaves for frames of our own making.
const RESERVE: usize = 2 * BURST;

/// How frames get between the device and the frame memory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum XskMode {
    /// The kernel copies them.
    Copy,
    /// The device reads and writes the frame memory itself.
    ZeroCopy,
}

/// One queue of one interface through an `AF_XDP` socket. Made in groups that share frame memory: [`XskPort::group`].
#[derive(Debug)]
pub struct XskPort {
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
    pool: Shared<Chunks<Area>>,
    layout: Layout,
    /// Inside a frame of several buffers, which is dropped whole.
    in_chain: bool,
    lost: Arc<Lost>,
    socket: Arc<Socket>,
    mode: XskMode,
    copy_reason: Option<Box<str>>,
    pages: Pages,
}

/// What this side had to refuse.
#[derive(Debug, Default)]
struct Lost {
    /// Frames of several buffers, and descriptors that name no chunk of the device's.
    rx: AtomicU64,
    /// Frames too short to be sent.
    tx: AtomicU64,
}

impl XskPort {
    /// Opens the ports of one lcore over common frame memory. The interfaces must be up and in the network namespace of
    /// the calling thread; the memory is counted against the caller's locked-memory limit unless it has `CAP_IPC_LOCK`.
    ///
    /// # Errors
    ///
    /// No such interface or queue, the queue is taken, a mode that was insisted on is refused, no memory.
    pub fn group(targets: &[XskTarget], config: &XskConfig) -> Result<PortGroup<Self>, PortError> {
        open::group(targets, config)
    }

    /// The socket, for the `XSKMAP` entry of [`XskPort::queue`].
    pub fn socket(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }

    /// Interface name as given.
    pub fn interface(&self) -> &str {
        self.socket.interface()
    }

    /// Queue index.
    pub fn queue(&self) -> u32 {
        self.socket.queue()
    }

    /// The copy mode that the kernel gave.
    pub fn mode(&self) -> XskMode {
        self.mode
    }

    /// Why this port copies, where zero-copy was asked for and refused.
    pub fn copy_reason(&self) -> Option<&str> {
        self.copy_reason.as_deref()
    }

    /// How chunks lie in the frame memory.
    pub fn layout(&self) -> Layout {
        self.layout
    }

    /// What the frame memory is made of.
    pub fn pages(&self) -> Pages {
        self.pages
    }

    /// Bytes of the largest frame that fits into one chunk. Longer ones are dropped by the kernel and counted as receive
    /// errors, so an interface's MTU plus 18 must not exceed it.
    pub fn largest_frame(&self) -> u32 {
        self.layout.stride() - self.pool.with(|pool| u32::from(pool.headroom()))
    }

    /// Where the chunks of the common pool are.
    pub fn census(&self) -> Census {
        self.pool.with(|pool| pool.census())
    }

    /// Posts free chunks for receiving.
    fn refill(&mut self) {
        loop {
            let spare = self
                .pool
                .with(|pool| pool.free_count())
                .saturating_sub(RESERVE);
            let wanted = u32::try_from(spare).map_or(BATCH, |spare| spare.min(BATCH));
            let count = self.fill.acquire(wanted);
            // Whole batches only, unless the ring is all but empty: an index published per frame would cost a cache miss
            // on both sides for each.
            if count == 0 || count < BATCH && count < wanted {
                return;
            }
            let (fill, layout) = (&mut self.fill, self.layout);
            let posted = self.pool.with(|pool| {
                (0..count)
                    .map_while(|slot| {
                        pool.take_for_device()
                            .map(|index| fill.set(slot, layout.address(index, 0)))
                    })
                    .count()
            });
            self.fill.release(u32::try_from(posted).unwrap_or(0));
            if count < BATCH {
                return;
            }
        }
    }

    /// Takes sent chunks back into the pool.
    fn reap(&mut self) {
        loop {
            let count = self.completion.acquire(BATCH);
            if count == 0 {
                return;
            }
            let (completion, layout, lost) = (&self.completion, self.layout, &self.lost);
            self.pool.with(|pool| {
                for slot in 0..count {
                    let (index, _) = layout.split(completion.get(slot));
                    if !pool.free_from_device(index) {
                        lost.tx.fetch_add(1, Ordering::Relaxed);
                    }
                }
            });
            self.completion.release(count);
        }
    }

    /// Whether a receive descriptor is a frame by itself. Not if it is part of a longer one, whose chunks are freed, or not
    /// to be believed.
    #[inline]
    fn is_frame(
        pool: &mut Chunks<Area>,
        (index, offset): (u32, u32),
        descriptor: libc::xdp_desc,
        in_chain: &mut bool,
    ) -> bool {
        let is_accepted = pool.accept_from_device(index, offset, descriptor.len);
        let continues = descriptor.options & libc::XDP_PKT_CONTD != 0;
        if continues || *in_chain {
            *in_chain = continues;
            if is_accepted {
                pool.reject(index);
            }
            return false;
        }
        is_accepted
    }

    fn counters(socket: &Socket, lost: &Lost) -> DeviceCounters {
        let kernel = socket.statistics().unwrap_or(libc::xdp_statistics {
            rx_dropped: 0,
            rx_invalid_descs: 0,
            tx_invalid_descs: 0,
            rx_ring_full: 0,
            rx_fill_ring_empty_descs: 0,
            tx_ring_empty_descs: 0,
        });
        DeviceCounters {
            rx_missed: kernel.rx_ring_full + kernel.rx_fill_ring_empty_descs,
            // In copy mode the kernel counts a frame without a chunk as dropped as well; the rest did not fit into one.
            rx_errors: kernel
                .rx_dropped
                .saturating_sub(kernel.rx_fill_ring_empty_descs)
                + kernel.rx_invalid_descs
                + lost.rx.load(Ordering::Relaxed),
            tx_errors: kernel.tx_invalid_descs + lost.tx.load(Ordering::Relaxed),
        }
    }
}

impl Port for XskPort {
    fn rx_burst(&mut self, burst: &mut Vec<Frame>) -> usize {
        let wanted = u32::try_from(BURST.saturating_sub(burst.len())).unwrap_or(0);
        let count = self.rx.acquire(wanted);
        if count == 0 {
            return 0;
        }
        let before = burst.len();
        let (rx, layout, in_chain) = (&self.rx, self.layout, &mut self.in_chain);
        let refused = self.pool.with(|pool| {
            let mut refused = 0;
            for slot in 0..count {
                let descriptor = rx.get(slot);
                let (index, offset) = layout.split(descriptor.addr);
                if Self::is_frame(pool, (index, offset), descriptor, in_chain) {
                    burst.push(pool.frame(index, offset, descriptor.len));
                } else {
                    refused += 1;
                }
            }
            refused
        });
        self.rx.release(count);
        if refused > 0 {
            self.lost.rx.fetch_add(refused, Ordering::Relaxed);
        }
        burst.len() - before
    }

    fn tx_burst(&mut self, frames: &mut Vec<Frame>) -> usize {
        let wanted = u32::try_from(frames.len()).unwrap_or(u32::MAX);
        let mut room = self.tx.acquire(wanted);
        if room < wanted {
            self.flush();
            room = self.tx.acquire(wanted);
        }
        let (tx, layout, lost) = (&mut self.tx, self.layout, &self.lost);
        let mut slot = 0;
        self.pool.with(|pool| {
            for frame in frames.drain(..room as usize) {
                if frame.len() < MIN_FRAME {
                    pool.give_back(&frame);
                    lost.tx.fetch_add(1, Ordering::Relaxed);
                    continue;
                }
                let offset = Chunks::<Area>::offset(&frame);
                let index = pool.frame_to_device(&frame);
                tx.set(
                    slot,
                    libc::xdp_desc {
                        addr: layout.address(index, offset),
                        len: frame.len_bytes(),
                        options: 0,
                    },
                );
                slot += 1;
            }
        });
        self.tx.release(slot);
        room as usize
    }

    fn allocate(&mut self) -> Option<Frame> {
        self.pool.with(Chunks::allocate)
    }

    fn free(&mut self, frame: Frame) {
        self.pool.with(|pool| pool.give_back(&frame));
    }

    fn poll(&mut self) {
        self.flush();
        self.refill();
        if self.fill.needs_wakeup() {
            self.socket.kick_rx();
        }
    }

    fn device_counters(&self) -> DeviceCounters {
        Self::counters(&self.socket, &self.lost)
    }

    fn counters_probe(&self) -> CountersProbe {
        // Weak, so that a probe that is still held does not keep the queue bound after the port is gone.
        let (socket, lost) = (Arc::downgrade(&self.socket), Arc::clone(&self.lost));
        CountersProbe::new(move || {
            socket
                .upgrade()
                .map_or_else(DeviceCounters::default, |socket| {
                    Self::counters(&socket, &lost)
                })
        })
    }
}

impl XskPort {
    /// Hands what was sent to the kernel, if it asks to be told, and takes back what it is done with.
    fn flush(&mut self) {
        for _ in 0..KICKS {
            if !self.tx.is_pending()
                || !self.tx.needs_wakeup()
                || self.socket.kick_tx() == Kick::Done
            {
                break;
            }
            // Out of completion slots is one reason to stop; make room before the next try.
            self.reap();
        }
        self.reap();
    }
}
