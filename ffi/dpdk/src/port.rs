//! An Ethernet device: configured once, started, closed with its last handle.

use core::mem::MaybeUninit;
use std::ffi::CStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::eal::{Eal, EalInner};
use crate::error::check;
use crate::mempool::{Mempool, Pool};
use crate::{DpdkError, Queue, sys};

/// DPDK's number of a port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PortNumber(pub(crate) u16);

impl PortNumber {
    /// The bare number.
    pub fn get(self) -> u16 {
        self.0
    }

    /// NUMA node of the device, if it has one.
    pub fn numa_node(self) -> Option<u32> {
        // SAFETY: takes and returns a number; a number without a port has no node.
        u32::try_from(unsafe { sys::rte_eth_dev_socket_id(self.0) }).ok()
    }
}

/// Whether a port takes frames for other MAC addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Promiscuous {
    /// Its own, broadcast and what the driver lets through.
    Off,
    /// Everything.
    On,
}

/// How to configure a port.
#[derive(Clone, Copy, Debug)]
pub struct EthConfig {
    /// RX/TX queue pairs; more than one spreads IP, TCP and UDP by the device's hash.
    pub queues: u16,
    /// Descriptors per receive queue; the driver may round.
    pub rx_descriptors: u16,
    /// Descriptors per transmit queue; the driver may round.
    pub tx_descriptors: u16,
    /// L3 bytes of the largest frame; `None` for the driver's own.
    pub mtu: Option<u16>,
    /// Promiscuous mode.
    pub promiscuous: Promiscuous,
}

impl Default for EthConfig {
    fn default() -> Self {
        Self {
            queues: 1,
            rx_descriptors: 1024,
            tx_descriptors: 1024,
            mtu: None,
            promiscuous: Promiscuous::Off,
        }
    }
}

/// State of the link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Link {
    /// Whether frames can pass.
    pub is_up: bool,
    /// Mbit/s; 0 if the driver does not know.
    pub speed_mbps: u32,
    /// Full or half duplex.
    pub is_full_duplex: bool,
}

/// Counters of a port since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EthStats {
    /// Frames received.
    pub rx_packets: u64,
    /// Frames sent.
    pub tx_packets: u64,
    /// Bytes received.
    pub rx_bytes: u64,
    /// Bytes sent.
    pub tx_bytes: u64,
    /// Frames lost because no descriptor was free.
    pub rx_missed: u64,
    /// Malformed frames.
    pub rx_errors: u64,
    /// Frames lost because the pool was dry.
    pub rx_no_buffer: u64,
    /// Frames that could not be sent.
    pub tx_errors: u64,
}

/// Bytes around the L3 packet of a frame: Ethernet header and one VLAN tag.
const L2_OVERHEAD: u32 = 18;

/// A configured and started port. Closed when this and every [`Queue`] of it are gone.
#[derive(Debug)]
pub struct EthPort {
    device: Arc<Device>,
    driver: String,
    taken: Box<[AtomicBool]>,
}

/// The device itself.
#[derive(Debug)]
pub(crate) struct Device {
    port: u16,
    hardware: *mut sys::rte_device,
    eal: Arc<EalInner>,
    // Last: buffers in descriptors go back to the pool when the device is closed.
    _pool: Arc<Pool>,
}

// SAFETY: the pointer is a name for the device; it is dereferenced by DPDK alone, under the device lock.
unsafe impl Send for Device {}
// SAFETY: as above; reading counters is safe from any thread.
unsafe impl Sync for Device {}

impl EthPort {
    /// Configures and starts a port that receives into `pool`.
    ///
    /// # Errors
    ///
    /// The port is open already, the device lacks queues, the MTU does not fit a buffer, or the driver refuses. A device that got as far as being
    /// configured is removed again; [`Eal::attach`] brings it back.
    pub fn open(
        eal: &Eal,
        number: PortNumber,
        config: &EthConfig,
        pool: &Mempool,
    ) -> Result<Self, DpdkError> {
        let (eal, pool) = (eal.inner(), pool.inner());
        let port = number.0;
        let info = device_info(port)?;
        let driver = driver_name(&info);
        check_capacity(port, &driver, &info, config, &pool)?;
        if !eal.lock().insert(port) {
            return Err(DpdkError::PortTaken { port });
        }
        // From here on dropping the device closes it.
        let device = Arc::new(Device {
            port,
            hardware: info.device,
            eal,
            _pool: Arc::clone(&pool),
        });
        {
            let _devices = device.eal.lock();
            configure(port, &info, config)?;
            set_up_queues(port, config, &pool)?;
        }
        let taken = (0..config.queues).map(|_| AtomicBool::new(false)).collect();
        let opened = Self {
            device,
            driver,
            taken,
        };
        opened.start()?;
        opened.set_promiscuous(config.promiscuous)?;
        Ok(opened)
    }

    /// The queue pair of an index; `None` if there is none or it was taken before.
    pub fn take_queue(&self, index: u16) -> Option<Queue> {
        let taken = self.taken.get(usize::from(index))?;
        (!taken.swap(true, Ordering::AcqRel))
            .then(|| Queue::new(Arc::clone(&self.device), self.device.port, index))
    }

    /// DPDK's number of the port.
    pub fn number(&self) -> PortNumber {
        PortNumber(self.device.port)
    }

    /// Name of the driver (`net_af_packet`, `net_ixgbe`).
    pub fn driver(&self) -> &str {
        &self.driver
    }

    /// Name of the device: the PCI address, or the name of the virtual device.
    pub fn name(&self) -> String {
        let mut name = [0 as libc::c_char; sys::RTE_ETH_NAME_MAX_LEN as usize];
        // SAFETY: the buffer has the size that the function's documentation asks for.
        let code =
            unsafe { sys::rte_eth_dev_get_name_by_port(self.device.port, name.as_mut_ptr()) };
        if code != 0 {
            return String::new();
        }
        // SAFETY: the function filled it with a string that ends in NUL.
        unsafe { CStr::from_ptr(name.as_ptr()) }
            .to_string_lossy()
            .into_owned()
    }

    /// The MAC address.
    pub fn mac(&self) -> Result<[u8; 6], DpdkError> {
        let mut address = sys::rte_ether_addr { addr_bytes: [0; 6] };
        // SAFETY: a writable address that lives across the call.
        let code = unsafe { sys::rte_eth_macaddr_get(self.device.port, &raw mut address) };
        self.checked("rte_eth_macaddr_get", code)?;
        Ok(address.addr_bytes)
    }

    /// Changes the MAC address.
    pub fn set_mac(&self, mac: [u8; 6]) -> Result<(), DpdkError> {
        let mut address = sys::rte_ether_addr { addr_bytes: mac };
        let _devices = self.device.eal.lock();
        // SAFETY: a readable address that lives across the call.
        let code =
            unsafe { sys::rte_eth_dev_default_mac_addr_set(self.device.port, &raw mut address) };
        self.checked("rte_eth_dev_default_mac_addr_set", code)
    }

    /// L3 bytes of the largest frame.
    pub fn mtu(&self) -> Result<u16, DpdkError> {
        let mut mtu = 0;
        // SAFETY: a writable number that lives across the call.
        let code = unsafe { sys::rte_eth_dev_get_mtu(self.device.port, &raw mut mtu) };
        self.checked("rte_eth_dev_get_mtu", code)?;
        Ok(mtu)
    }

    /// Changes the MTU, where the driver can while the port runs.
    pub fn set_mtu(&self, mtu: u16) -> Result<(), DpdkError> {
        let _devices = self.device.eal.lock();
        // SAFETY: takes numbers.
        let code = unsafe { sys::rte_eth_dev_set_mtu(self.device.port, mtu) };
        self.checked("rte_eth_dev_set_mtu", code)
    }

    /// State of the link, as far as it is known without waiting.
    pub fn link(&self) -> Result<Link, DpdkError> {
        let mut link = MaybeUninit::<sys::rte_eth_link>::zeroed();
        // SAFETY: a writable structure that lives across the call.
        let code = unsafe { sys::rte_eth_link_get_nowait(self.device.port, link.as_mut_ptr()) };
        self.checked("rte_eth_link_get_nowait", code)?;
        // SAFETY: integers, zeroed and then filled.
        let link = unsafe { link.assume_init() };
        Ok(Link {
            is_up: u32::from(link.link_status()) == sys::RTE_ETH_LINK_UP,
            speed_mbps: if link.link_speed == u32::MAX {
                0
            } else {
                link.link_speed
            },
            is_full_duplex: u32::from(link.link_duplex()) == sys::RTE_ETH_LINK_FULL_DUPLEX,
        })
    }

    /// Counters. Any thread, any time.
    pub fn stats(&self) -> EthStats {
        self.device.stats()
    }

    /// Switches promiscuous mode. A driver that cannot and already is as asked is content.
    pub fn set_promiscuous(&self, mode: Promiscuous) -> Result<(), DpdkError> {
        let _devices = self.device.eal.lock();
        let port = self.device.port;
        let (call, code) = match mode {
            // SAFETY: takes a number.
            Promiscuous::On => ("rte_eth_promiscuous_enable", unsafe {
                sys::rte_eth_promiscuous_enable(port)
            }),
            // SAFETY: takes a number.
            Promiscuous::Off => ("rte_eth_promiscuous_disable", unsafe {
                sys::rte_eth_promiscuous_disable(port)
            }),
        };
        if code == -libc::ENOTSUP && mode == Promiscuous::Off {
            Ok(())
        } else {
            self.checked(call, code)
        }
    }

    /// Whether the port takes frames for other MAC addresses.
    pub fn promiscuous(&self) -> Promiscuous {
        // SAFETY: takes and returns a number.
        if unsafe { sys::rte_eth_promiscuous_get(self.device.port) } == 1 {
            Promiscuous::On
        } else {
            Promiscuous::Off
        }
    }

    /// Starts the port again after [`EthPort::stop`].
    pub fn start(&self) -> Result<(), DpdkError> {
        let _devices = self.device.eal.lock();
        // SAFETY: takes a number; the port is configured.
        let code = unsafe { sys::rte_eth_dev_start(self.device.port) };
        self.checked("rte_eth_dev_start", code)
    }

    /// Stops the port: bursts receive and send nothing.
    pub fn stop(&self) -> Result<(), DpdkError> {
        let _devices = self.device.eal.lock();
        // SAFETY: takes a number.
        let code = unsafe { sys::rte_eth_dev_stop(self.device.port) };
        self.checked("rte_eth_dev_stop", code)
    }

    fn checked(&self, call: &'static str, code: i32) -> Result<(), DpdkError> {
        check(
            call,
            || format!("port {} ({})", self.device.port, self.driver),
            code,
        )
    }
}

impl Device {
    pub(crate) fn stats(&self) -> EthStats {
        let mut stats = MaybeUninit::<sys::rte_eth_stats>::zeroed();
        // SAFETY: a writable structure that lives across the call. A failure leaves the zeroes.
        unsafe { sys::rte_eth_stats_get(self.port, stats.as_mut_ptr()) };
        // SAFETY: integers, zeroed and then filled.
        let stats = unsafe { stats.assume_init() };
        EthStats {
            rx_packets: stats.ipackets,
            tx_packets: stats.opackets,
            rx_bytes: stats.ibytes,
            tx_bytes: stats.obytes,
            rx_missed: stats.imissed,
            rx_errors: stats.ierrors,
            rx_no_buffer: stats.rx_nombuf,
            tx_errors: stats.oerrors,
        }
    }
}

impl Drop for Device {
    fn drop(&mut self) {
        let mut owned = self.eal.lock();
        owned.remove(&self.port);
        // SAFETY: takes a number; no queue of the port is left to poll it (each holds the device).
        unsafe { sys::rte_eth_dev_stop(self.port) };
        // SAFETY: as above; the number is not used after this.
        unsafe { sys::rte_eth_dev_close(self.port) };
        // Removed, so that the same device can be attached again; unless it has other ports, which must live on.
        let has_siblings = crate::eal::existing_ports()
            .any(|port| device_info(port).is_ok_and(|info| info.device == self.hardware));
        if !self.hardware.is_null() && !has_siblings {
            // SAFETY: the device that the port was made of; none of its ports is left.
            unsafe { sys::rte_dev_remove(self.hardware) };
        }
    }
}

fn device_info(port: u16) -> Result<sys::rte_eth_dev_info, DpdkError> {
    let mut info = MaybeUninit::<sys::rte_eth_dev_info>::zeroed();
    // SAFETY: a writable structure that lives across the call.
    let code = unsafe { sys::rte_eth_dev_info_get(port, info.as_mut_ptr()) };
    check("rte_eth_dev_info_get", || format!("port {port}"), code)?;
    // SAFETY: integers and pointers, zeroed and then filled.
    Ok(unsafe { info.assume_init() })
}

fn driver_name(info: &sys::rte_eth_dev_info) -> String {
    if info.driver_name.is_null() {
        return "unknown".to_owned();
    }
    // SAFETY: a static string of the driver that ends in NUL.
    unsafe { CStr::from_ptr(info.driver_name) }
        .to_string_lossy()
        .into_owned()
}

fn check_capacity(
    port: u16,
    driver: &str,
    info: &sys::rte_eth_dev_info,
    config: &EthConfig,
    pool: &Pool,
) -> Result<(), DpdkError> {
    let capacity = |what, offered: u64, wanted: u64| {
        let refused = || DpdkError::Capacity {
            port,
            driver: driver.to_owned(),
            what,
            offered,
            wanted,
        };
        if wanted <= offered && wanted > 0 {
            Ok(())
        } else {
            Err(refused())
        }
    };
    capacity(
        "receive queues",
        info.max_rx_queues.into(),
        config.queues.into(),
    )?;
    capacity(
        "transmit queues",
        info.max_tx_queues.into(),
        config.queues.into(),
    )?;
    let mtu = config.mtu.unwrap_or(1500);
    capacity(
        "bytes of frame per buffer",
        pool.frame_room().into(),
        u64::from(u32::from(mtu) + L2_OVERHEAD),
    )
}

fn configure(port: u16, info: &sys::rte_eth_dev_info, config: &EthConfig) -> Result<(), DpdkError> {
    // SAFETY: integers, enumerations with a zero value and null pointers.
    let mut wanted: sys::rte_eth_conf = unsafe { core::mem::zeroed() };
    if let Some(mtu) = config.mtu {
        wanted.rxmode.mtu = u32::from(mtu);
    }
    // Our frames come from one pool per port and have one owner, which is what this asks for.
    wanted.txmode.offloads = info.tx_offload_capa & sys::MARCH_TX_OFFLOAD_FAST_FREE;
    if config.queues > 1 {
        wanted.rxmode.mq_mode = sys::RTE_ETH_MQ_RX_RSS;
        wanted.rx_adv_conf.rss_conf.rss_hf =
            info.flow_type_rss_offloads & sys::MARCH_RSS_IP_TCP_UDP;
    }
    // SAFETY: a readable structure that lives across the call; the port exists and is not started.
    let code = unsafe {
        sys::rte_eth_dev_configure(port, config.queues, config.queues, &raw const wanted)
    };
    check("rte_eth_dev_configure", || format!("port {port}"), code)
}

fn set_up_queues(port: u16, config: &EthConfig, pool: &Pool) -> Result<(), DpdkError> {
    let (mut rx, mut tx) = (config.rx_descriptors, config.tx_descriptors);
    // SAFETY: writable numbers that live across the call.
    let code = unsafe { sys::rte_eth_dev_adjust_nb_rx_tx_desc(port, &raw mut rx, &raw mut tx) };
    check(
        "rte_eth_dev_adjust_nb_rx_tx_desc",
        || format!("port {port}"),
        code,
    )?;
    // SAFETY: takes and returns a number. -1 means any.
    let node = unsafe { sys::rte_eth_dev_socket_id(port) }.cast_unsigned();
    for queue in 0..config.queues {
        let subject = || format!("port {port} queue {queue}");
        // SAFETY: a null configuration asks for the driver's own; the pool is kept by the device that is being made.
        let code = unsafe {
            sys::rte_eth_rx_queue_setup(port, queue, rx, node, core::ptr::null(), pool.raw())
        };
        check("rte_eth_rx_queue_setup", subject, code)?;
        // SAFETY: as above.
        let code = unsafe { sys::rte_eth_tx_queue_setup(port, queue, tx, node, core::ptr::null()) };
        check("rte_eth_tx_queue_setup", subject, code)?;
    }
    Ok(())
}
