//! The far end of a veth pair: a packet socket that sends and receives whole frames.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

/// A raw socket bound to one interface.
pub struct RawSocket(OwnedFd);

impl RawSocket {
    pub fn open(interface: &str) -> Self {
        let protocol = u16::to_be(libc::ETH_P_ALL as u16);
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(protocol)) };
        assert!(fd >= 0, "packet socket: {}", io::Error::last_os_error());
        // SAFETY: the kernel just gave us this descriptor.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let mut address: libc::sockaddr_ll = libc::sockaddr_ll {
            sll_family: libc::AF_PACKET as u16,
            sll_protocol: protocol,
            sll_ifindex: super::namespace::index(interface) as i32,
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        let len = size_of_val(&address) as libc::socklen_t;
        // SAFETY: `address` is a `sockaddr_ll` of that length.
        let bound = unsafe { libc::bind(socket.0.as_raw_fd(), (&raw mut address).cast(), len) };
        assert_eq!(
            bound,
            0,
            "bind to {interface}: {}",
            io::Error::last_os_error()
        );
        let bytes: libc::c_int = 64 << 20;
        for option in [32, 33] {
            // SAFETY: an integer of that length. SO_SNDBUFFORCE and SO_RCVBUFFORCE.
            let set = unsafe {
                libc::setsockopt(
                    socket.0.as_raw_fd(),
                    libc::SOL_SOCKET,
                    option,
                    (&raw const bytes).cast(),
                    4,
                )
            };
            assert_eq!(set, 0);
        }
        // Our own frames come back to a packet socket as outgoing otherwise.
        let ignore: libc::c_int = 1;
        // SAFETY: an integer of that length. PACKET_IGNORE_OUTGOING = 23.
        let set = unsafe {
            libc::setsockopt(
                socket.0.as_raw_fd(),
                libc::SOL_PACKET,
                23,
                (&raw const ignore).cast(),
                4,
            )
        };
        assert_eq!(set, 0);
        socket
    }

    pub fn send(&self, frame: &[u8]) {
        // SAFETY: a readable buffer of that length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        assert_eq!(
            sent,
            frame.len() as isize,
            "send: {}",
            io::Error::last_os_error()
        );
    }

    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0; 65_536];
        // SAFETY: a writable buffer of that length.
        let got = unsafe {
            libc::recv(
                self.0.as_raw_fd(),
                frame.as_mut_ptr().cast(),
                frame.len(),
                0,
            )
        };
        if got < 0 {
            assert_eq!(io::Error::last_os_error().kind(), io::ErrorKind::WouldBlock);
            return None;
        }
        frame.truncate(got as usize);
        Some(frame)
    }
}
