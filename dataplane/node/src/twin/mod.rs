//! The TAP twin of a port: how the kernel keeps its side of an interface whose frames are in userspace.
//!
//! In `dpdk` the twin carries the port's MAC address, addresses and routes, so that ping, ARP, ssh and routing daemons go
//! on. In `af_xdp` the interface stays with the kernel and the twin only injects what a lcore decided to punt.

mod tap;

pub use tap::{Tap, twin_name};
