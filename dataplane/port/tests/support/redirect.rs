//! The smallest XDP program that feeds `AF_XDP` sockets: `return bpf_redirect_map(&xsks, ctx->rx_queue_index, XDP_PASS)`.
//!
//! The product's own program decides what goes to a socket; here everything does.

use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

const BPF_MAP_CREATE: libc::c_long = 0;
const BPF_MAP_UPDATE_ELEM: libc::c_long = 2;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_LINK_CREATE: libc::c_long = 28;
const BPF_MAP_TYPE_XSKMAP: u32 = 17;
const BPF_PROG_TYPE_XDP: u32 = 6;
const BPF_XDP: u32 = 37;
const XDP_FLAGS_DRV_MODE: u32 = 1 << 2;
const QUEUES: u32 = 16;

/// The program on one interface and its map; detached when dropped.
pub struct Redirect {
    map: OwnedFd,
    _program: OwnedFd,
    _link: OwnedFd,
}

/// One instruction: opcode, destination and source register, offset, immediate.
fn instruction(opcode: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> [u8; 8] {
    let mut bytes = [opcode, source << 4 | destination, 0, 0, 0, 0, 0, 0];
    bytes[2..4].copy_from_slice(&offset.to_ne_bytes());
    bytes[4..8].copy_from_slice(&immediate.to_ne_bytes());
    bytes
}

/// The `bpf` system call over an attribute of 64-bit words.
fn bpf(command: libc::c_long, attribute: &[u64]) -> io::Result<i32> {
    let mut whole = [0u64; 18];
    whole[..attribute.len()].copy_from_slice(attribute);
    // SAFETY: the attribute and what it points to live across the call.
    let result =
        unsafe { libc::syscall(libc::SYS_bpf, command, whole.as_ptr(), size_of_val(&whole)) };
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result as i32)
    }
}

fn owned(result: io::Result<i32>, what: &str) -> OwnedFd {
    let fd = result.unwrap_or_else(|error| panic!("{what}: {error}"));
    // SAFETY: the kernel just gave us this descriptor.
    unsafe { OwnedFd::from_raw_fd(fd) }
}

fn pair(low: u32, high: u32) -> u64 {
    u64::from(low) | u64::from(high) << 32
}

impl Redirect {
    /// Loads the program and attaches it natively to an interface.
    pub fn attach(interface: &str) -> Self {
        let map = owned(
            bpf(
                BPF_MAP_CREATE,
                &[pair(BPF_MAP_TYPE_XSKMAP, 4), pair(4, QUEUES)],
            ),
            "XSKMAP",
        );
        let program: Vec<u8> = [
            instruction(0x61, 2, 1, 16, 0),
            instruction(0x18, 1, 1, 0, map.as_raw_fd()),
            instruction(0, 0, 0, 0, 0),
            instruction(0xb7, 3, 0, 0, 2),
            instruction(0x85, 0, 0, 0, 51),
            instruction(0x95, 0, 0, 0, 0),
        ]
        .concat();
        let licence = c"GPL";
        let load = [
            pair(BPF_PROG_TYPE_XDP, (program.len() / 8) as u32),
            program.as_ptr().addr() as u64,
            licence.as_ptr().addr() as u64,
        ];
        let program = owned(bpf(BPF_PROG_LOAD, &load), "XDP program");
        let index = super::namespace::index(interface);
        let attach = [
            pair(program.as_raw_fd() as u32, index),
            pair(BPF_XDP, XDP_FLAGS_DRV_MODE),
        ];
        let link = owned(bpf(BPF_LINK_CREATE, &attach), "attach");
        Self {
            map,
            _program: program,
            _link: link,
        }
    }

    /// Sends what arrives on `queue` into `socket`.
    pub fn set(&self, queue: u32, socket: BorrowedFd<'_>) {
        let value = socket.as_raw_fd() as u32;
        let update = [
            u64::from(self.map.as_raw_fd() as u32),
            (&raw const queue).addr() as u64,
            (&raw const value).addr() as u64,
            0,
        ];
        bpf(BPF_MAP_UPDATE_ELEM, &update)
            .unwrap_or_else(|error| panic!("XSKMAP entry {queue}: {error}"));
    }
}
