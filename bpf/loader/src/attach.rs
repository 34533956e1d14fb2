//! Interfaces: their numbers, and which XDP program they already have (asked over netlink, `rtnetlink(7)`).

use std::io;

use aya::programs::ProgramError;
use rustix::net::{AddressFamily, RecvFlags, SendFlags, SocketFlags, SocketType};

use crate::error::{LoaderError, chain};

/// Where a program runs in the receive path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// In the driver, before the kernel has made a packet buffer.
    Native,
    /// In the stack, on packet buffers: works everywhere, slower.
    Generic,
}

impl Mode {
    /// The word for it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Mode::Native => "native",
            Mode::Generic => "generic",
        }
    }
}

/// Where the program is attached.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Attached {
    /// Name of the interface.
    pub interface: String,
    /// Its number.
    pub index: u32,
    /// How the program is attached.
    pub mode: Mode,
    /// Why native mode was passed over.
    pub native_refusal: Option<String>,
}

/// The causes of a refusal in words.
pub(crate) fn cause(error: &ProgramError) -> String {
    chain(error)
}

/// The number of an interface in this thread's network namespace.
pub(crate) fn index_of(interface: &str) -> Result<u32, LoaderError> {
    let failed = |source: rustix::io::Errno| LoaderError::Interface {
        interface: interface.to_owned(),
        source: source.into(),
    };
    let socket =
        rustix::net::socket(AddressFamily::INET, SocketType::DGRAM, None).map_err(failed)?;
    rustix::net::netdevice::name_to_index(&socket, interface).map_err(failed)
}

/// An error that names the program which is on the interface already, if one is.
pub(crate) fn refuse_foreign(interface: &str, index: u32) -> Result<(), LoaderError> {
    let id = program_on(index).map_err(|source| LoaderError::Interface {
        interface: interface.to_owned(),
        source,
    })?;
    let Some(id) = id else { return Ok(()) };
    let name = aya::programs::loaded_programs()
        .filter_map(Result::ok)
        .find(|info| info.id() == id)
        .and_then(|info| info.name_as_str().map(str::to_owned))
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "unnamed".to_owned());
    Err(LoaderError::Foreign {
        interface: interface.to_owned(),
        name,
        id,
    })
}

const RTM_NEWLINK: u16 = 16;
const RTM_GETLINK: u16 = 18;
const NLMSG_ERROR: u16 = 2;
const NLM_F_REQUEST: u16 = 1;
const IFLA_XDP: u16 = 43;
const IFLA_XDP_PROG_ID: u16 = 4;
/// `struct nlmsghdr` and `struct ifinfomsg`.
const HEADERS: usize = 16 + 16;

/// The number of the XDP program on an interface, in whichever mode.
fn program_on(index: u32) -> io::Result<Option<u32>> {
    let socket = rustix::net::socket_with(
        AddressFamily::NETLINK,
        SocketType::RAW,
        SocketFlags::CLOEXEC,
        // NETLINK_ROUTE is protocol 0.
        None,
    )?;
    let mut request = [0u8; HEADERS];
    request[0..4].copy_from_slice(&32u32.to_ne_bytes());
    request[4..6].copy_from_slice(&RTM_GETLINK.to_ne_bytes());
    request[6..8].copy_from_slice(&NLM_F_REQUEST.to_ne_bytes());
    request[20..24].copy_from_slice(&index.to_ne_bytes());
    rustix::net::send(&socket, &request, SendFlags::empty())?;
    // One link with all of its attributes, statistics of many queues included.
    let mut answer = vec![0u8; 64 * 1024];
    let (len, _) = rustix::net::recv(&socket, answer.as_mut_slice(), RecvFlags::empty())?;
    read_program(&answer[..len])
}

/// The program number in the answer to a link request.
fn read_program(answer: &[u8]) -> io::Result<Option<u32>> {
    let malformed = || io::Error::new(io::ErrorKind::InvalidData, "malformed netlink answer");
    let kind = read_u16(answer, 4).ok_or_else(malformed)?;
    if kind == NLMSG_ERROR {
        let code = answer
            .get(16..20)
            .and_then(|code| code.try_into().ok())
            .map(i32::from_ne_bytes);
        return Err(code.map_or_else(malformed, |code| io::Error::from_raw_os_error(-code)));
    }
    if kind != RTM_NEWLINK {
        return Err(malformed());
    }
    let attributes = answer.get(HEADERS..).ok_or_else(malformed)?;
    let Some(xdp) = attribute(attributes, IFLA_XDP) else {
        return Ok(None);
    };
    let id = attribute(xdp, IFLA_XDP_PROG_ID)
        .and_then(|id| id.try_into().ok())
        .map(u32::from_ne_bytes);
    Ok(id.filter(|id| *id != 0))
}

/// The payload of the first attribute of one type.
fn attribute(mut attributes: &[u8], wanted: u16) -> Option<&[u8]> {
    /// The two flag bits beside the type.
    const TYPE_MASK: u16 = 0x3fff;
    loop {
        let len = usize::from(read_u16(attributes, 0)?);
        let kind = read_u16(attributes, 2)? & TYPE_MASK;
        let payload = attributes.get(4..len)?;
        if kind == wanted {
            return Some(payload);
        }
        attributes = attributes.get(len.next_multiple_of(4)..)?;
    }
}

fn read_u16(bytes: &[u8], at: usize) -> Option<u16> {
    bytes
        .get(at..at + 2)
        .and_then(|pair| pair.try_into().ok())
        .map(u16::from_ne_bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn attributes_are_found_and_never_run_past_the_end() {
        let mut bytes = vec![5, 0, 1, 0, 9, 0, 0, 0];
        bytes.extend_from_slice(&[8, 0, 43, 0x80, 1, 2, 3, 4]);
        assert_eq!(attribute(&bytes, 1), Some(&[9u8][..]));
        assert_eq!(attribute(&bytes, IFLA_XDP), Some(&[1u8, 2, 3, 4][..]));
        assert_eq!(attribute(&bytes, 7), None);
        for len in 0..bytes.len() {
            assert_eq!(attribute(&bytes[..len], IFLA_XDP), None, "{len} bytes");
        }
        // A length below the header's own.
        assert_eq!(attribute(&[0, 0, 1, 0], 2), None);
    }

    #[test]
    fn the_loopback_interface_has_no_program() {
        let index = index_of("lo").unwrap();
        assert_eq!(program_on(index).unwrap(), None);
        assert!(matches!(
            index_of("no-such-port"),
            Err(LoaderError::Interface { .. })
        ));
        assert!(program_on(u32::MAX >> 1).is_err());
    }
}
