//! veth pairs in a network namespace of the calling thread, with a packet socket at the far end of each.
//!
//! The namespace has no name and ends with the thread: there is nothing to clean up and nothing to collide with.

#![allow(
    unsafe_code,
    reason = "packet sockets have no safe interface that tells a VLAN tag from none"
)]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::process::Command;

use rustix::thread::{UnshareFlags, unshare_unsafe};

/// Moves the calling thread into a new network namespace without addresses or neighbours of its own.
pub fn enter_namespace() -> Result<(), String> {
    // SAFETY: only the network namespace of this thread changes; no descriptor or memory is shared differently.
    unsafe { unshare_unsafe(UnshareFlags::NEWNET) }
        .map_err(|error| format!("a network namespace of our own: {error} (are you root?)"))?;
    // Nothing may speak on the links but the vectors.
    for kind in ["all", "default"] {
        let path = format!("/proc/sys/net/ipv6/conf/{kind}/disable_ipv6");
        std::fs::write(&path, "1").map_err(|error| format!("{path}: {error}"))?;
    }
    Ok(())
}

/// Makes a veth pair in this thread's namespace, both ends up, `near` with the given MAC address.
pub fn veth(near: &str, mac: &str, far: &str) -> Result<(), String> {
    run(&format!(
        "ip link add {near} address {mac} type veth peer name {far}"
    ))?;
    // Frames must arrive as they were sent: nothing merged, nothing left to hardware.
    run(&format!(
        "ethtool -K {far} gro off gso off tso off tx off rx off"
    ))?;
    run(&format!("ip link set {far} up"))?;
    run(&format!("ip link set {near} up"))
}

fn run(line: &str) -> Result<(), String> {
    let mut words = line.split_whitespace();
    let program = words.next().unwrap_or_default();
    let output = Command::new(program)
        .args(words)
        .output()
        .map_err(|error| format!("{line}: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    Err(format!(
        "{line}: {}",
        String::from_utf8_lossy(&output.stderr).trim()
    ))
}

/// Sends and receives whole frames on one interface.
#[derive(Debug)]
pub struct PacketSocket(OwnedFd);

/// `linux/if_packet.h`.
const PACKET_IGNORE_OUTGOING: i32 = 23;
const BUFFER: usize = 65_536;
/// `AF_PACKET` and `ETH_P_ALL` as an address wants them.
const FAMILY: u16 = 17;
const PROTOCOL: u16 = 0x0003_u16.to_be();
const _: () =
    assert!(FAMILY as i32 == libc::AF_PACKET && PROTOCOL.swap_bytes() as i32 == libc::ETH_P_ALL);
/// Length of a packet socket's address.
const ADDRESS_LEN: u32 = 20;
const _: () = assert!(ADDRESS_LEN as usize == size_of::<libc::sockaddr_ll>());

impl PacketSocket {
    /// Bound to `interface` of this thread's namespace.
    pub fn open(interface: &str) -> Result<Self, String> {
        let failed = |what: &str| format!("{what} on {interface}: {}", io::Error::last_os_error());
        let kind = libc::SOCK_RAW | libc::SOCK_NONBLOCK | libc::SOCK_CLOEXEC;
        // SAFETY: no pointer is passed.
        let fd = unsafe { libc::socket(libc::AF_PACKET, kind, i32::from(PROTOCOL)) };
        if fd < 0 {
            return Err(failed("packet socket"));
        }
        // SAFETY: the kernel just gave us this descriptor, nobody else has it.
        let socket = Self(unsafe { OwnedFd::from_raw_fd(fd) });
        let name = std::ffi::CString::new(interface).map_err(|error| error.to_string())?;
        // SAFETY: a terminated string.
        let index = unsafe { libc::if_nametoindex(name.as_ptr()) };
        let address = libc::sockaddr_ll {
            sll_family: FAMILY,
            sll_protocol: PROTOCOL,
            sll_ifindex: index.cast_signed(),
            sll_hatype: 0,
            sll_pkttype: 0,
            sll_halen: 0,
            sll_addr: [0; 8],
        };
        // SAFETY: `address` is a `sockaddr_ll` of the length given.
        let bound = unsafe { libc::bind(fd, (&raw const address).cast(), ADDRESS_LEN) };
        if bound != 0 {
            return Err(failed("bind"));
        }
        for option in [libc::PACKET_AUXDATA, PACKET_IGNORE_OUTGOING] {
            let on: i32 = 1;
            // SAFETY: an integer of the length given.
            let set = unsafe {
                libc::setsockopt(fd, libc::SOL_PACKET, option, (&raw const on).cast(), 4)
            };
            if set != 0 {
                return Err(failed("packet socket option"));
            }
        }
        Ok(socket)
    }

    /// Sends one frame.
    pub fn send(&self, frame: &[u8]) -> Result<(), String> {
        // SAFETY: a readable buffer of that length.
        let sent = unsafe { libc::send(self.0.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0) };
        if usize::try_from(sent) == Ok(frame.len()) {
            return Ok(());
        }
        Err(format!(
            "{} bytes could not be sent: {}",
            frame.len(),
            io::Error::last_os_error()
        ))
    }

    /// The oldest frame that arrived. The kernel takes the VLAN tag off and says so beside the frame; it is put back.
    pub fn receive(&self) -> Option<Vec<u8>> {
        let mut frame = vec![0_u8; BUFFER];
        let mut part = libc::iovec {
            iov_base: frame.as_mut_ptr().cast(),
            iov_len: frame.len(),
        };
        let mut control = [0_u64; 16];
        // SAFETY: an all-zero message header is an empty one.
        let mut message: libc::msghdr = unsafe { std::mem::zeroed() };
        message.msg_iov = &raw mut part;
        message.msg_iovlen = 1;
        message.msg_control = control.as_mut_ptr().cast();
        message.msg_controllen = size_of_val(&control);
        // SAFETY: the header points to buffers of the lengths that it says, alive during the call.
        let len = unsafe { libc::recvmsg(self.0.as_raw_fd(), &raw mut message, 0) };
        frame.truncate(usize::try_from(len).ok()?);
        if let Some(tag) = vlan_tag(&message)
            && frame.len() >= 12
        {
            frame.splice(12..12, tag);
        }
        Some(frame)
    }
}

/// The tag that the kernel took off, as it was on the wire.
fn vlan_tag(message: &libc::msghdr) -> Option<[u8; 4]> {
    // SAFETY: the header was filled by `recvmsg`, its control buffer is alive.
    let first = unsafe { libc::CMSG_FIRSTHDR(message) };
    // SAFETY: null, or the start of a control message in that buffer.
    let header = unsafe { first.as_ref() }?;
    if header.cmsg_level != libc::SOL_PACKET || header.cmsg_type != libc::PACKET_AUXDATA {
        return None;
    }
    // SAFETY: a control message of this type holds a `tpacket_auxdata`.
    let data = unsafe { libc::CMSG_DATA(header) };
    let mut auxiliary = std::mem::MaybeUninit::<libc::tpacket_auxdata>::uninit();
    let len = size_of::<libc::tpacket_auxdata>();
    // SAFETY: both are of that length and do not overlap.
    unsafe { std::ptr::copy_nonoverlapping(data, auxiliary.as_mut_ptr().cast(), len) };
    // SAFETY: all of its bytes were just written, and it holds integers only.
    let auxiliary = unsafe { auxiliary.assume_init() };
    if auxiliary.tp_status & libc::TP_STATUS_VLAN_VALID == 0 {
        return None;
    }
    let [a, b] = if auxiliary.tp_status & libc::TP_STATUS_VLAN_TPID_VALID == 0 {
        [0x81, 0]
    } else {
        auxiliary.tp_vlan_tpid.to_be_bytes()
    };
    let [c, d] = auxiliary.tp_vlan_tci.to_be_bytes();
    Some([a, b, c, d])
}
