//! Ports over DPDK poll-mode drivers, hardware or virtual.
//!
//! All ports of an lcore share one pool of mbufs, so that a frame received on one is transmitted by another as it is. A
//! frame spread over several mbufs is copied into its first one if it fits, else it is dropped and counted as a receive
//! error; a frame that reaches the pipeline is always one buffer.
//!
//! Mbufs are 37 cache lines apart with the default room (an odd number, so that headers spread over all cache sets), with
//! 128 bytes of headroom.
//!
//! ```no_run
//! use march_dpdk::{Eal, EalConfig};
//! use march_port::dpdk::{DpdkConfig, DpdkPort};
//! # fn main() -> Result<(), march_port::PortError> {
//! let eal = Eal::init(&EalConfig::default())?; // once per process
//! let numbers = [eal.attach("net_af_packet0,iface=eth1")?, eal.attach("net_af_packet1,iface=eth2")?];
//! let group = DpdkPort::group(&eal, &numbers, &DpdkConfig { name: "lcore0".into(), ..DpdkConfig::default() })?;
//! let devices: Vec<_> = group.ports().iter().map(DpdkPort::device).collect(); // MAC, link, statistics: for the agent
//! std::thread::spawn(move || {
//!     let mut ports = group.into_ports(); // registers the thread with DPDK
//!     // the lcore's loop
//! #   ports.clear();
//! });
//! # drop(devices);
//! # Ok(())
//! # }
//! ```

use core::cell::OnceCell;
use core::mem::MaybeUninit;
use core::ptr::NonNull;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use march_dpdk::{
    Eal, EthConfig, EthPort, HEADROOM, Mbuf, Mempool, MempoolConfig, PortNumber, Promiscuous,
    Queue, RawMbuf, ThreadRegistration, Window,
};

use crate::frame::FrameParts;
use crate::{
    BURST, CountersProbe, DeviceCounters, Frame, FrameSource, MIN_FRAME, Port, PortError, PortGroup,
};

/// Sizes and behaviour of the DPDK ports of one lcore.
#[derive(Clone, Debug)]
pub struct DpdkConfig {
    /// Name of the pool, unique in the process.
    pub name: String,
    /// Buffers of the common pool per port; more than the descriptors of a port plus a few bursts.
    pub buffers_per_port: u32,
    /// Bytes of the largest frame that fits into one buffer, headroom not counted.
    pub frame_room: u16,
    /// Descriptors of the receive queue.
    pub rx_descriptors: u16,
    /// Descriptors of the transmit queue.
    pub tx_descriptors: u16,
    /// L3 bytes of the largest frame; `None` for the driver's own.
    pub mtu: Option<u16>,
    /// NUMA node of the buffers; `None`: that of the first port.
    pub numa_node: Option<u32>,
    /// Whether to take frames for other MAC addresses.
    pub promiscuous: Promiscuous,
}

impl Default for DpdkConfig {
    fn default() -> Self {
        Self {
            name: "marchproxy".to_owned(),
            buffers_per_port: 4096,
            frame_room: 2048,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            numa_node: None,
            promiscuous: Promiscuous::Off,
        }
    }
}

/// Buffers that a polling thread keeps at hand.
const CACHE: u32 = 256;

thread_local! {
    /// This thread's registration with DPDK; ends with the thread.
    static REGISTRATION: OnceCell<Option<ThreadRegistration>> = const { OnceCell::new() };
}

/// One queue of one DPDK port. Made in groups that share a pool: [`DpdkPort::group`].
#[derive(Debug)]
pub struct DpdkPort {
    queue: Queue,
    device: Arc<EthPort>,
    refused: Arc<Refused>,
    pool_id: u32,
    // Last: keeps the pool until the queue is gone.
    pool: Arc<Mempool>,
}

/// What this side refused of what the driver delivered or was given.
#[derive(Debug, Default)]
struct Refused {
    /// Frames of several buffers that do not fit into one, and buffers that cannot be.
    rx: AtomicU64,
    /// Frames too short to be sent.
    tx: AtomicU64,
}

impl DpdkPort {
    /// Opens the ports of one lcore over a common pool and starts them.
    ///
    /// # Errors
    ///
    /// What DPDK refuses: [`march_dpdk::DpdkError`].
    pub fn group(
        eal: &Eal,
        numbers: &[PortNumber],
        config: &DpdkConfig,
    ) -> Result<PortGroup<Self>, PortError> {
        let Some(data_room) = config.frame_room.checked_add(HEADROOM) else {
            let value = u64::from(config.frame_room);
            return Err(PortError::Config {
                field: "frame_room",
                value,
                reason: "no room for the headroom",
            });
        };
        let ports = u32::try_from(numbers.len()).unwrap_or(u32::MAX);
        let pool = Arc::new(Mempool::create(
            eal,
            &MempoolConfig {
                name: config.name.clone(),
                buffers: config.buffers_per_port.saturating_mul(ports),
                data_room,
                cache: CACHE,
                numa_node: config
                    .numa_node
                    .or_else(|| numbers.first().and_then(|number| number.numa_node())),
            },
        )?);
        let pool_id = crate::next_pool_id();
        let ethernet = EthConfig {
            queues: 1,
            rx_descriptors: config.rx_descriptors,
            tx_descriptors: config.tx_descriptors,
            mtu: config.mtu,
            promiscuous: config.promiscuous,
        };
        let open = |&number: &PortNumber| -> Result<Self, PortError> {
            let device = Arc::new(EthPort::open(eal, number, &ethernet, &pool)?);
            let queue = device
                .take_queue(0)
                .expect("a port that was just opened has a first queue");
            Ok(Self {
                queue,
                device,
                refused: Arc::default(),
                pool_id,
                pool: Arc::clone(&pool),
            })
        };
        Ok(PortGroup::from_ports(
            numbers.iter().map(open).collect::<Result<_, _>>()?,
        ))
    }

    /// The device: MAC address, link, statistics. For the agent; the lcore has no use for it.
    pub fn device(&self) -> Arc<EthPort> {
        Arc::clone(&self.device)
    }

    /// Buffers of the common pool that are neither in the pool nor cached: in descriptors and frames.
    pub fn buffers_out(&self) -> u32 {
        self.pool.buffers() - self.pool.available()
    }

    /// The first buffer has room for all of a frame, or the frame goes.
    #[cold]
    #[inline(never)]
    fn receive_in_pieces(&self, mut mbuf: Mbuf) -> Option<Frame> {
        if mbuf.segments() > 1
            && mbuf.linearize()
            && let Some(window) = mbuf.window()
        {
            return Some(self.frame(mbuf, window));
        }
        self.refused.rx.fetch_add(1, Ordering::Relaxed);
        None
    }

    #[inline]
    fn frame(&self, mbuf: Mbuf, window: Window) -> Frame {
        let parts = FrameParts {
            data: window.data,
            len: u32::from(window.len),
            headroom: window.headroom,
            tailroom: window.tailroom,
            token: mbuf.into_raw().as_ptr().expose_provenance() as u64,
            pool: self.pool_id,
            source: FrameSource::Mbuf,
        };
        // SAFETY: the window of a sound buffer that the frame now owns alone; a pool with buffers out is never freed.
        unsafe { Frame::from_parts(parts) }
    }

    /// The buffer of a frame, as the frame left it: its window may differ from the frame's.
    #[inline]
    fn raw(&self, frame: &Frame) -> RawMbuf {
        assert_eq!(frame.pool(), self.pool_id, "frame of another pool");
        #[expect(
            clippy::cast_possible_truncation,
            reason = "made from a pointer of this machine"
        )]
        let raw = core::ptr::with_exposed_provenance_mut(frame.token() as usize);
        // SAFETY: `frame` of this pool took the token from a pointer that is not null.
        unsafe { NonNull::new_unchecked(raw) }
    }

    /// The buffer of a frame with the frame's window written into it, for the driver.
    #[inline]
    fn transmit(&self, frame: &Frame) -> RawMbuf {
        let raw = self.raw(frame);
        // SAFETY: the frame owns the buffer; ownership goes back to the frame two lines below.
        let mut mbuf = unsafe { Mbuf::from_raw(raw) };
        let len = u16::try_from(frame.len_bytes()).unwrap_or(u16::MAX);
        let fits = mbuf.set_window(frame.headroom_bytes(), len);
        let raw = mbuf.into_raw();
        assert!(fits, "a frame is inside its buffer");
        raw
    }

    fn counters(device: &EthPort, refused: &Refused) -> DeviceCounters {
        let stats = device.stats();
        DeviceCounters {
            rx_missed: stats.rx_missed + stats.rx_no_buffer,
            rx_errors: stats.rx_errors + refused.rx.load(Ordering::Relaxed),
            tx_errors: stats.tx_errors + refused.tx.load(Ordering::Relaxed),
        }
    }
}

impl Port for DpdkPort {
    #[inline]
    fn rx_burst(&mut self, burst: &mut Vec<Frame>) -> usize {
        let wanted = BURST.saturating_sub(burst.len());
        let before = burst.len();
        let mut places = [const { MaybeUninit::uninit() }; BURST];
        for &raw in self.queue.rx_burst_raw(&mut places[..wanted]) {
            // SAFETY: the driver gave the buffer away, each once.
            let mbuf = unsafe { Mbuf::from_raw(raw) };
            // Pushed as it is made: a frame that is first put together elsewhere is copied with loads wider than the stores
            // before them, and waiting for those doubled the cost of a burst.
            if let Some(window) = mbuf.window() {
                burst.push(self.frame(mbuf, window));
            } else if let Some(frame) = self.receive_in_pieces(mbuf) {
                burst.push(frame);
            }
        }
        burst.len() - before
    }

    #[inline]
    fn tx_burst(&mut self, frames: &mut Vec<Frame>) -> usize {
        let mut taken = 0;
        while !frames.is_empty() {
            let mut places = [const { MaybeUninit::<RawMbuf>::uninit() }; BURST];
            let mut count = 0;
            for (place, frame) in places.iter_mut().zip(&*frames) {
                if frame.len() < MIN_FRAME {
                    break;
                }
                place.write(self.transmit(frame));
                count += 1;
            }
            // SAFETY: the first `count` places were written above.
            let ready =
                unsafe { core::slice::from_raw_parts_mut(places.as_mut_ptr().cast(), count) };
            // SAFETY: the frames own these buffers; those that are taken lose their frames in the next line.
            let sent = unsafe { self.queue.tx_burst_raw(ready) };
            frames.drain(..sent);
            taken += sent;
            if sent < count {
                break;
            }
            if frames.first().is_some_and(|frame| frame.len() < MIN_FRAME) {
                self.free(frames.remove(0));
                self.refused.tx.fetch_add(1, Ordering::Relaxed);
                taken += 1;
            }
        }
        taken
    }

    fn allocate(&mut self) -> Option<Frame> {
        let mbuf = self.pool.allocate()?;
        let window = mbuf.window()?;
        Some(self.frame(mbuf, window))
    }

    fn free(&mut self, frame: Frame) {
        // SAFETY: the frame owned the buffer and ends here.
        drop(unsafe { Mbuf::from_raw(self.raw(&frame)) });
    }

    fn poll(&mut self) {}

    fn device_counters(&self) -> DeviceCounters {
        Self::counters(&self.device, &self.refused)
    }

    fn counters_probe(&self) -> CountersProbe {
        let (device, refused) = (Arc::downgrade(&self.device), Arc::clone(&self.refused));
        CountersProbe::new(move || {
            device
                .upgrade()
                .map_or_else(DeviceCounters::default, |device| {
                    Self::counters(&device, &refused)
                })
        })
    }

    fn enter_thread() {
        // Without a registration bursts still work, only slower; there is nobody here to tell.
        REGISTRATION.with(|registration| {
            registration
                .get_or_init(|| march_dpdk::register_thread().ok())
                .is_some()
        });
    }
}
