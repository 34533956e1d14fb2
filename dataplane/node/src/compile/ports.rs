//! Ports of this node, as documents and kernel describe them together.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use march_tables::{NatPool, PartialChecksums, PortTable};

use crate::kernel::KernelState;

/// A port that lcores drive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FastPort {
    /// Name of the document.
    pub name: String,
    /// The interface in the document.
    pub interface: String,
    /// Index of the interface that carries the port's addresses, routes and neighbours in the kernel: its own in
    /// `af_xdp`, the twin's in `dpdk`.
    pub carrier: u32,
    /// MAC address of the device.
    pub mac: [u8; 6],
    /// Largest L3 packet in bytes.
    pub mtu: u16,
    /// Addresses that the document gives for source NAT; none: the port's own.
    pub nat_addresses: Vec<IpAddr>,
    /// First and last source port for NAT.
    pub nat_ports: (u16, u16),
    /// Whether the other end may leave checksums unfinished.
    pub peer_offload: PeerOffload,
}

/// What the other end of a port may leave to its hardware.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerOffload {
    /// A virtual link: checksums may be partial.
    Possible,
    /// A wire.
    Impossible,
}

pub(super) fn tables(ports: &[FastPort], kernel: &KernelState) -> Vec<PortTable> {
    ports.iter().map(|port| table(port, kernel)).collect()
}

fn table(port: &FastPort, kernel: &KernelState) -> PortTable {
    let own: Vec<IpAddr> = kernel
        .addresses_of(port.carrier)
        .map(|local| local.address)
        .collect();
    let (first_port, last_port) = port.nat_ports;
    let own4 = own.iter().copied().filter_map(as_v4);
    let own6 = own.iter().copied().filter_map(as_v6);
    let global6: Vec<Ipv6Addr> = own6
        .clone()
        .filter(|address| !address.is_unicast_link_local())
        .collect();
    PortTable {
        name: port.name.as_str().into(),
        mac: port.mac,
        mtu: port.mtu,
        nat4: NatPool {
            addresses: nat(port, as_v4, own4.clone().collect()),
            first_port,
            last_port,
        },
        nat6: NatPool {
            addresses: nat(port, as_v6, global6.clone()),
            first_port,
            last_port,
        },
        address4: own4.clone().next(),
        address6: global6.first().copied().or_else(|| own6.clone().next()),
        partial_checksums: match port.peer_offload {
            PeerOffload::Possible => PartialChecksums::Possible,
            PeerOffload::Impossible => PartialChecksums::Never,
        },
        ..PortTable::default()
    }
}

/// The document's addresses of one family or, if it has none of it, the port's own.
fn nat<A: Clone>(port: &FastPort, family: fn(IpAddr) -> Option<A>, own: Vec<A>) -> Box<[A]> {
    let given: Vec<A> = port
        .nat_addresses
        .iter()
        .copied()
        .filter_map(family)
        .collect();
    if given.is_empty() {
        own.into()
    } else {
        given.into()
    }
}

fn as_v4(address: IpAddr) -> Option<Ipv4Addr> {
    match address {
        IpAddr::V4(v4) => Some(v4),
        IpAddr::V6(_) => None,
    }
}

fn as_v6(address: IpAddr) -> Option<Ipv6Addr> {
    match address {
        IpAddr::V6(v6) => Some(v6),
        IpAddr::V4(_) => None,
    }
}
