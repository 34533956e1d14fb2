//! One `AF_XDP` socket: its system calls.

use core::mem::MaybeUninit;
use std::ffi::CString;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use crate::PortError;

/// Frames that one transmit kick may copy out in copy mode; the kernel's default of 32 would need two kicks per burst.
const TX_BUDGET: u32 = 256;
/// `XDP_MAX_TX_SKB_BUDGET`, since Linux 6.17.
const XDP_MAX_TX_SKB_BUDGET: libc::c_int = 9;
/// `SO_SNDBUFFORCE` of `asm-generic/socket.h`; the libc crate has these three for other systems only.
const SO_SNDBUFFORCE: libc::c_int = 32;
/// `SO_PREFER_BUSY_POLL`, likewise.
const SO_PREFER_BUSY_POLL: libc::c_int = 69;
/// `SO_BUSY_POLL_BUDGET`, likewise.
const SO_BUSY_POLL_BUDGET: libc::c_int = 70;
/// Bytes of socket buffer for frames on their way in copy mode; the default of about 200 KB stops at some 270 frames.
const SEND_BUFFER: libc::c_int = 16 << 20;

/// `AF_XDP` as an address holds it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "44, given as an `int` for `socket`"
)]
const ADDRESS_FAMILY: u16 = libc::AF_XDP as u16;

/// Length of a structure as the socket calls want it.
#[expect(
    clippy::cast_possible_truncation,
    reason = "structures of a few dozen bytes"
)]
const fn option_len<T>() -> libc::socklen_t {
    size_of::<T>() as libc::socklen_t
}

/// An open socket and what to call it in an error.
#[derive(Debug)]
pub(super) struct Socket {
    fd: OwnedFd,
    interface: String,
    queue: u32,
    ifindex: u32,
}

impl Socket {
    /// Opens a socket for one queue of an interface of the calling thread's network namespace.
    pub(super) fn open(interface: &str, queue: u32) -> Result<Self, PortError> {
        let ifindex = interface_index(interface).map_err(|source| PortError::NoInterface {
            interface: interface.to_owned(),
            source,
        })?;
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::socket(libc::AF_XDP, libc::SOCK_RAW | libc::SOCK_CLOEXEC, 0) };
        if fd < 0 {
            let source = io::Error::last_os_error();
            return Err(PortError::Socket {
                interface: interface.to_owned(),
                queue,
                step: "socket",
                source,
            });
        }
        // SAFETY: the kernel just gave us this descriptor, and nobody else has it.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        Ok(Self {
            fd,
            interface: interface.to_owned(),
            queue,
            ifindex,
        })
    }

    pub(super) fn interface(&self) -> &str {
        &self.interface
    }

    pub(super) fn queue(&self) -> u32 {
        self.queue
    }

    /// An error of this socket.
    pub(super) fn failed(&self, step: &'static str, source: io::Error) -> PortError {
        PortError::Socket {
            interface: self.interface.clone(),
            queue: self.queue,
            step,
            source,
        }
    }

    /// Registers the frame memory with the socket.
    pub(super) fn register(&self, registration: &libc::xdp_umem_reg) -> Result<(), PortError> {
        self.set(libc::SOL_XDP, libc::XDP_UMEM_REG, registration)
            .map_err(|source| self.failed("register frame memory", source))
    }

    /// Sets the size of one of the four rings.
    pub(super) fn size_ring(&self, option: libc::c_int, size: u32) -> Result<(), PortError> {
        self.set(libc::SOL_XDP, option, &size)
            .map_err(|source| self.failed("size of a ring", source))
    }

    /// Where the parts of the rings are in their mappings.
    pub(super) fn ring_offsets(&self) -> Result<libc::xdp_mmap_offsets, PortError> {
        get_option(self.fd.as_fd(), libc::XDP_MMAP_OFFSETS)
            .map_err(|source| self.failed("layout of the rings", source))
    }

    /// Binds to the interface's queue; from here on the kernel fills the receive ring with what is redirected to it.
    pub(super) fn bind(&self, flags: u16) -> io::Result<()> {
        let address = libc::sockaddr_xdp {
            sxdp_family: ADDRESS_FAMILY,
            sxdp_flags: flags,
            sxdp_ifindex: self.ifindex,
            sxdp_queue_id: self.queue,
            sxdp_shared_umem_fd: 0,
        };
        let len = option_len::<libc::sockaddr_xdp>();
        // SAFETY: `address` is a `sockaddr_xdp` of length `len` that lives across the call.
        let bound = unsafe { libc::bind(self.fd.as_raw_fd(), (&raw const address).cast(), len) };
        if bound == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }

    /// Options that only make it faster; an older kernel or missing rights cost speed, not function.
    pub(super) fn tune(&self) {
        let _older_kernel = self.set(libc::SOL_XDP, XDP_MAX_TX_SKB_BUDGET, &TX_BUDGET);
        let _no_admin = self.set(libc::SOL_SOCKET, SO_SNDBUFFORCE, &SEND_BUFFER);
    }

    /// Lets the socket's own system calls drive the device's queue instead of interrupts, `budget` frames at a time.
    pub(super) fn busy_poll(&self, budget: u16, idle_us: u32) -> Result<(), PortError> {
        let set = |option, value: libc::c_int| self.set(libc::SOL_SOCKET, option, &value);
        set(SO_PREFER_BUSY_POLL, 1)
            .and_then(|()| {
                set(
                    libc::SO_BUSY_POLL,
                    libc::c_int::try_from(idle_us).unwrap_or(libc::c_int::MAX),
                )
            })
            .and_then(|()| set(SO_BUSY_POLL_BUDGET, libc::c_int::from(budget)))
            .map_err(|source| self.failed("busy polling", source))
    }

    /// Asks the kernel to look at the transmit ring. Transient refusals are answered by the next call.
    #[inline]
    pub(super) fn kick_tx(&self) -> Kick {
        // SAFETY: a null buffer of length zero; the call only wakes the kernel's side of the ring.
        let sent = unsafe {
            libc::sendto(
                self.fd.as_raw_fd(),
                core::ptr::null(),
                0,
                libc::MSG_DONTWAIT,
                core::ptr::null(),
                0,
            )
        };
        if sent >= 0 {
            Kick::Done
        } else {
            Kick::TryAgain
        }
    }

    /// Asks the kernel to look at the fill ring.
    #[inline]
    pub(super) fn kick_rx(&self) {
        // SAFETY: a null buffer of length zero; the call only wakes the kernel's side of the ring.
        unsafe {
            libc::recvfrom(
                self.fd.as_raw_fd(),
                core::ptr::null_mut(),
                0,
                libc::MSG_DONTWAIT,
                core::ptr::null_mut(),
                core::ptr::null_mut(),
            )
        };
    }

    /// The kernel's counters of this socket.
    pub(super) fn statistics(&self) -> io::Result<libc::xdp_statistics> {
        get_option(self.fd.as_fd(), libc::XDP_STATISTICS)
    }

    /// Whether the kernel gave zero-copy.
    pub(super) fn is_zero_copy(&self) -> io::Result<bool> {
        let options: libc::xdp_options = get_option(self.fd.as_fd(), libc::XDP_OPTIONS)?;
        Ok(options.flags & libc::XDP_OPTIONS_ZEROCOPY != 0)
    }

    fn set<T>(&self, level: libc::c_int, option: libc::c_int, value: &T) -> io::Result<()> {
        let len = option_len::<T>();
        // SAFETY: `value` is `len` readable bytes that live across the call.
        let set = unsafe {
            libc::setsockopt(
                self.fd.as_raw_fd(),
                level,
                option,
                core::ptr::from_ref(value).cast(),
                len,
            )
        };
        if set == 0 {
            Ok(())
        } else {
            Err(io::Error::last_os_error())
        }
    }
}

/// How a transmit kick ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kick {
    /// The kernel went through the ring.
    Done,
    /// It stopped before the end: out of budget, out of completion slots, or the device is down.
    TryAgain,
}

impl AsFd for Socket {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// Reads an `SOL_XDP` option. `T` is a plain structure of integers; an older kernel may fill only its beginning.
fn get_option<T>(socket: BorrowedFd<'_>, option: libc::c_int) -> io::Result<T> {
    let mut value = MaybeUninit::<T>::zeroed();
    let mut len = option_len::<T>();
    // SAFETY: `value` is `len` writable bytes that live across the call.
    let got = unsafe {
        libc::getsockopt(
            socket.as_raw_fd(),
            libc::SOL_XDP,
            option,
            value.as_mut_ptr().cast(),
            &raw mut len,
        )
    };
    if got != 0 {
        return Err(io::Error::last_os_error());
    }
    // SAFETY: all of it was zeroed and then overwritten with integers, and every `T` used here is made of integers.
    Ok(unsafe { value.assume_init() })
}

fn interface_index(name: &str) -> io::Result<u32> {
    let name = CString::new(name).map_err(io::Error::other)?;
    // SAFETY: a string that ends in NUL and lives across the call.
    match unsafe { libc::if_nametoindex(name.as_ptr()) } {
        0 => Err(io::Error::last_os_error()),
        index => Ok(index),
    }
}
