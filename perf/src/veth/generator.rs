//! The traffic: an XDP program of a few dozen instructions that the kernel runs over live frames
//! (`BPF_PROG_TEST_RUN` with `BPF_F_TEST_XDP_LIVE_FRAMES`) and that redirects each into the cable.
//!
//! It rebuilds the headers of every frame, because the pages come round again as the last receiver left them. The source
//! port is random among a power of two of flows. UDP without a checksum, so that nothing has to be summed here.

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use super::lab::{MAC_G0, MAC_R0};

/// Headers that are rebuilt, whole 64-bit words: Ethernet, IPv4, UDP and six bytes more.
const HEADER: usize = 48;
const SOURCE_PORT: i16 = 34;

/// `struct bpf_insn`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Instruction {
    code: u8,
    /// Destination in the low four bits, source in the high ones.
    registers: u8,
    offset: i16,
    immediate: i32,
}

const fn op(code: u8, destination: u8, source: u8, offset: i16, immediate: i32) -> Instruction {
    Instruction {
        code,
        registers: destination | source << 4,
        offset,
        immediate,
    }
}

/// `bpf_get_prandom_u32` and `bpf_redirect`.
const PRANDOM: i32 = 7;
const REDIRECT: i32 = 23;

/// Instructions that write `header`, a random source port among `flows`, and redirect to interface number `index`.
fn program(header: &[u8; HEADER], flows: u32, index: u32) -> Vec<Instruction> {
    let mut code = vec![
        op(0x61, 7, 1, 0, 0),                         // r7 = data
        op(0x61, 3, 1, 4, 0),                         // r3 = data_end
        op(0xbf, 4, 7, 0, 0),                         // r4 = r7
        op(0x07, 4, 0, 0, HEADER as i32),             // r4 += HEADER
        op(0x2d, 4, 3, 0, 0),                         // if r4 > r3: end (offset below)
        op(0x85, 0, 0, 0, PRANDOM),                   // r0 = random
        op(0x57, 0, 0, 0, (flows - 1).cast_signed()), // r0 &= flows - 1
        op(0x07, 0, 0, 0, 1024),                      // r0 += 1024
        op(0xdc, 0, 0, 0, 16),                        // r0 = big endian 16
    ];
    for (offset, word) in (0_i16..).step_by(8).zip(header.chunks_exact(8)) {
        let low = i32::from_le_bytes([word[0], word[1], word[2], word[3]]);
        let high = i32::from_le_bytes([word[4], word[5], word[6], word[7]]);
        code.push(op(0x18, 2, 0, 0, low)); // r2 = word, two slots
        code.push(op(0x00, 0, 0, 0, high));
        code.push(op(0x7b, 7, 2, offset, 0)); // *(u64 *)(r7 + offset) = r2
    }
    code.extend([
        op(0x6b, 7, 0, SOURCE_PORT, 0),         // *(u16 *)(r7 + 34) = r0
        op(0xb7, 1, 0, 0, index.cast_signed()), // r1 = interface
        op(0xb7, 2, 0, 0, 0),                   // r2 = flags
        op(0x85, 0, 0, 0, REDIRECT),            // r0 = redirect
        op(0x95, 0, 0, 0, 0),                   // return r0
    ]);
    let end = i16::try_from(code.len() - 5).unwrap_or(0);
    code[4].offset = end;
    code.extend([op(0xb7, 0, 0, 0, 1), op(0x95, 0, 0, 0, 0)]); // return XDP_DROP
    code
}

/// The loaded program and what it is run on.
pub struct Generator {
    program: OwnedFd,
    frame: Vec<u8>,
}

const SYSTEM_CALL: libc::c_long = libc::SYS_bpf;
const PROG_LOAD: i32 = 5;
const PROG_TEST_RUN: i32 = 10;
const TYPE_XDP: u32 = 6;
const LIVE_FRAMES: u32 = 1 << 1;
/// Frames of one run: the most part of a second. At the start and the end of each run the kernel waits for a grace period,
/// some twenty milliseconds without a frame; short runs would offer bursts with long pauses between them.
const REPEAT: u32 = 1 << 20;
/// Frames that are redirected together.
const BATCH: u32 = 64;

/// The part of `union bpf_attr` that loading needs.
#[derive(Default)]
#[repr(C)]
struct Load {
    kind: u32,
    count: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// The part of `union bpf_attr` that a test run needs.
#[derive(Default)]
#[repr(C)]
struct TestRun {
    program: u32,
    result: u32,
    size_in: u32,
    size_out: u32,
    data_in: u64,
    data_out: u64,
    repeat: u32,
    duration_ns: u32,
    context_in_len: u32,
    context_out_len: u32,
    context_in: u64,
    context_out: u64,
    flags: u32,
    cpu: u32,
    batch: u32,
    padding: u32,
}

/// # Safety
/// `attributes` is the structure that `command` expects, and everything it points to lives during the call.
unsafe fn bpf<T>(command: i32, attributes: &mut T) -> io::Result<i32> {
    // SAFETY: the caller's promise.
    let result = unsafe {
        libc::syscall(
            SYSTEM_CALL,
            command,
            std::ptr::from_mut(attributes),
            size_of::<T>(),
        )
    };
    if result < 0 {
        return Err(io::Error::last_os_error());
    }
    i32::try_from(result).map_err(io::Error::other)
}

impl Generator {
    /// Frames of `len` bytes from `flows` source ports (a power of two) to the service, out of the interface `g0` of
    /// this thread's namespace.
    pub fn new(flows: u32, len: usize) -> io::Result<Self> {
        // SAFETY: a terminated string.
        let index = unsafe { libc::if_nametoindex(c"g0".as_ptr()) };
        if index == 0 {
            return Err(io::Error::last_os_error());
        }
        let frame = frame(len);
        let header = frame
            .first_chunk::<HEADER>()
            .ok_or(io::ErrorKind::InvalidInput)?;
        let code = program(header, flows, index);
        let mut attributes = Load {
            kind: TYPE_XDP,
            count: u32::try_from(code.len()).unwrap_or(u32::MAX),
            instructions: code.as_ptr().expose_provenance() as u64,
            license: c"Apache-2.0".as_ptr().expose_provenance() as u64,
            ..Load::default()
        };
        // SAFETY: the structure is the first part of what PROG_LOAD reads; code and licence live until after the call.
        let descriptor = unsafe { bpf(PROG_LOAD, &mut attributes) }?;
        // SAFETY: the kernel just gave us this descriptor, nobody else has it.
        let program = unsafe { OwnedFd::from_raw_fd(descriptor) };
        Ok(Self { program, frame })
    }

    /// Sends some frames and says how many.
    pub fn send(&self) -> io::Result<u32> {
        let mut attributes = TestRun {
            program: self.program.as_raw_fd().cast_unsigned(),
            size_in: u32::try_from(self.frame.len()).unwrap_or(u32::MAX),
            data_in: self.frame.as_ptr().expose_provenance() as u64,
            repeat: REPEAT,
            flags: LIVE_FRAMES,
            batch: BATCH,
            ..TestRun::default()
        };
        // SAFETY: the structure is what PROG_TEST_RUN reads and writes; the frame lives until after the call.
        unsafe { bpf(PROG_TEST_RUN, &mut attributes) }?;
        Ok(REPEAT)
    }
}

/// UDP from 10.9.0.1 to 192.0.2.10, port 80.
fn frame(len: usize) -> Vec<u8> {
    let mut frame = vec![0; len];
    frame[..6].copy_from_slice(&MAC_R0);
    frame[6..12].copy_from_slice(&MAC_G0);
    frame[12..14].copy_from_slice(&[8, 0]);
    let total = u16::try_from(len - 14).unwrap_or(u16::MAX);
    frame[14] = 0x45;
    frame[16..18].copy_from_slice(&total.to_be_bytes());
    frame[22..24].copy_from_slice(&[64, 17]);
    frame[26..34].copy_from_slice(&[10, 9, 0, 1, 192, 0, 2, 10]);
    let sum = !u16::try_from(crate::traffic::sum(&frame[14..34], 0)).unwrap_or(0);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame[34..38].copy_from_slice(&[4, 0, 0, 80]);
    frame[38..40].copy_from_slice(&(total - 20).to_be_bytes());
    frame
}
