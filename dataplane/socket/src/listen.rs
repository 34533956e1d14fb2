//! Opening the listening sockets.

use core::net::{IpAddr, SocketAddr};
use std::io;

use socket2::{Domain, Protocol, Socket, Type};

/// Connections that may wait in the kernel to be accepted; the kernel caps it at `net.core.somaxconn`.
pub(crate) const BACKLOG: i32 = 4_096;

/// The two protocols that the tier carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Transport {
    /// TCP, protocol number 6.
    Tcp,
    /// UDP, protocol number 17.
    Udp,
}

impl Transport {
    /// The transport with this IP protocol number.
    pub const fn from_protocol(protocol: u8) -> Option<Self> {
        match protocol {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    /// The IP protocol number.
    pub const fn protocol(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
        }
    }
}

/// What tells one listener from another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ListenerKey {
    /// TCP or UDP.
    pub transport: Transport,
    /// The VIP and port.
    pub address: SocketAddr,
}

impl core::fmt::Display for ListenerKey {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        let transport = match self.transport {
            Transport::Tcp => "tcp",
            Transport::Udp => "udp",
        };
        write!(formatter, "{transport} {}", self.address)
    }
}

/// A bound, non-blocking socket for `key`; a TCP one already listens.
///
/// The address need not be on an interface yet (`IP_FREEBIND`, `ip(7)`): the VIP may come after the listener. A TCP
/// port whose former owner left connections in `TIME_WAIT` can be bound (`SO_REUSEADDR`, `socket(7)`); for UDP the
/// same option would let another process take the port over, so it stays off.
fn open(key: ListenerKey) -> io::Result<Socket> {
    let domain = Domain::for_address(key.address);
    let socket = match key.transport {
        Transport::Tcp => Socket::new(domain, Type::STREAM.nonblocking(), Some(Protocol::TCP))?,
        Transport::Udp => Socket::new(domain, Type::DGRAM.nonblocking(), Some(Protocol::UDP))?,
    };
    match key.address.ip() {
        IpAddr::V4(_) => socket.set_freebind_v4(true)?,
        IpAddr::V6(_) => {
            socket.set_only_v6(true)?;
            socket.set_freebind_v6(true)?;
        }
    }
    if key.transport == Transport::Tcp {
        socket.set_reuse_address(true)?;
    }
    socket.bind(&key.address.into())?;
    if key.transport == Transport::Tcp {
        socket.listen(BACKLOG)?;
    }
    Ok(socket)
}

/// Opens a TCP listener. Must be called within a tokio runtime.
pub(crate) fn open_tcp(key: ListenerKey) -> io::Result<tokio::net::TcpListener> {
    tokio::net::TcpListener::from_std(open(key)?.into())
}

/// Opens a UDP socket bound to the VIP. Must be called within a tokio runtime.
pub(crate) fn open_udp(key: ListenerKey) -> io::Result<tokio::net::UdpSocket> {
    tokio::net::UdpSocket::from_std(open(key)?.into())
}

/// A UDP socket that only talks to `backend`.
pub(crate) fn connect_udp(backend: SocketAddr) -> io::Result<tokio::net::UdpSocket> {
    let socket = Socket::new(
        Domain::for_address(backend),
        Type::DGRAM.nonblocking(),
        Some(Protocol::UDP),
    )?;
    socket.connect(&backend.into())?;
    tokio::net::UdpSocket::from_std(socket.into())
}
