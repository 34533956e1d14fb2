//! One TAP interface: made here, gone when the value is dropped or the process dies.
//!
//! The only `unsafe` of this crate is the two `ioctl`s of `/dev/net/tun`, which no safe wrapper offers.
#![expect(unsafe_code, reason = "TUNSETIFF has no safe wrapper")]

use std::fs::{File, OpenOptions};
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd};
use std::os::unix::fs::OpenOptionsExt;

/// Longest interface name without its terminating zero.
pub const MAX_NAME: usize = 15;

/// The kernel's `ifreq` as `TUNSETIFF` reads it.
#[repr(C)]
struct InterfaceRequest {
    name: [u8; 16],
    flags: libc::c_short,
    _rest: [u8; 22],
}

const _: () = assert!(
    size_of::<InterfaceRequest>() == 40 && std::mem::offset_of!(InterfaceRequest, flags) == 16
);

/// An open TAP interface: frames written are received by the kernel, frames read are what the kernel sends.
#[derive(Debug)]
pub struct Tap {
    file: File,
    name: String,
}

impl Tap {
    /// Makes a TAP interface called `name` in this network namespace. It is down and has a random MAC address.
    pub fn create(name: &str) -> io::Result<Self> {
        if name.len() > MAX_NAME || name.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                format!("{name:?} is no interface name"),
            ));
        }
        let file = OpenOptions::new()
            .read(true)
            .write(true)
            .custom_flags(libc::O_NONBLOCK | libc::O_CLOEXEC)
            .open("/dev/net/tun")?;
        let flags = libc::c_short::try_from(libc::IFF_TAP | libc::IFF_NO_PI)
            .expect("both flags fit 16 bits");
        let mut request = InterfaceRequest {
            name: [0; 16],
            flags,
            _rest: [0; 22],
        };
        request.name[..name.len()].copy_from_slice(name.as_bytes());
        // SAFETY: the descriptor is open, and the kernel reads and writes the 40 bytes of `request`, which outlives the call.
        let result = unsafe { libc::ioctl(file.as_raw_fd(), libc::TUNSETIFF, &raw mut request) };
        if result < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(Self {
            file,
            name: name.to_owned(),
        })
    }

    /// Interface name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Reads one frame; `WouldBlock` when there is none.
    pub fn receive(&self, buffer: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.file, buffer)?)
    }

    /// Hands one frame to the kernel; `WouldBlock` when its queue is full.
    pub fn send(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.file, frame)?)
    }
}

impl AsFd for Tap {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl AsRawFd for Tap {
    fn as_raw_fd(&self) -> std::os::fd::RawFd {
        self.file.as_raw_fd()
    }
}

/// The twin's name for an interface: `mp-` and as much of the name as fits, its end rather than its start because names
/// differ there (`enp129s0f0`, `enp129s0f1`).
#[must_use]
pub fn twin_name(interface: &str) -> String {
    let room = MAX_NAME - 3;
    let start = interface.len().saturating_sub(room);
    format!("mp-{}", interface.get(start..).unwrap_or(interface))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_fit_and_stay_apart() {
        assert_eq!(twin_name("eth1"), "mp-eth1");
        let (a, b) = (twin_name("enp129s0f0np0x1"), twin_name("enp129s0f1np1x2"));
        assert!(a.len() <= MAX_NAME && b.len() <= MAX_NAME && a != b);
    }
}
