//! DPDK for MarchProxy: raw bindings ([`sys`]) and owning types over them.
//!
//! Not a general binding: it holds what a poll-mode forwarder needs. It parses no packets, decides nothing and starts no
//! lcores: the EAL runs on one parked thread of its own, and the threads that poll are ours ([`register_thread`]).
//!
//! Entry points: [`Eal::init`] once per process, [`Eal::attach`] for a device, [`Mempool::create`] for buffers,
//! [`EthPort::open`] for a configured port, [`EthPort::take_queue`] for what one lcore polls.
//!
//! Invariants: owning handles are never `Clone`. A [`Queue`] is the only one of its index. A port is stopped and closed
//! when its last handle is gone, before its pool; a pool with buffers still out is kept for good rather than freed under
//! them. An [`Mbuf`] that the application holds is in nobody else's hands.
//!
//! Hot path: [`Queue::rx_burst`] and [`Queue::tx_burst`] are one foreign call per burst. What is done per packet
//! ([`Mbuf::data`], [`Mbuf::set_window`]) is plain field access in Rust; nothing allocates.
//!
//! ```no_run
//! use march_dpdk::{Eal, EalConfig, EthConfig, EthPort, Mempool, MempoolConfig};
//! # fn main() -> Result<(), march_dpdk::DpdkError> {
//! let eal = Eal::init(&EalConfig { file_prefix: "node1".into(), ..EalConfig::default() })?;
//! let number = eal.attach("net_af_packet0,iface=eth1")?; // or "0000:03:00.0"
//! let pool = Mempool::create(&eal, &MempoolConfig { name: "lcore0".into(), ..MempoolConfig::default() })?;
//! let port = EthPort::open(&eal, number, &EthConfig::default(), &pool)?;
//! let queue = port.take_queue(0).expect("not taken yet");
//! # drop(queue);
//! # Ok(())
//! # }
//! ```

mod eal;
mod error;
mod mbuf;
mod mempool;
mod port;
mod queue;
pub mod sys;
mod thread;

pub use eal::{Devices, Eal, EalConfig, Memory, version};
pub use error::DpdkError;
pub use mbuf::{HEADROOM, Mbuf, Window};
pub use mempool::{Mempool, MempoolConfig};
pub use port::{EthConfig, EthPort, EthStats, Link, PortNumber, Promiscuous};
pub use queue::{Queue, RawMbuf};
pub use thread::{ThreadRegistration, register_thread};
