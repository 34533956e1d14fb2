//! The frames that both sides of the pipeline benchmark work on: 60 bytes (64 on the wire), IPv4, TCP and UDP in equal
//! parts, half of them replies, in 4 096 buffers taken in turn.

use crate::memory::Arena;

/// Buffers in turn.
pub const BUFFERS: usize = 4096;
/// One cache line: all of a 60-byte frame.
pub type Line = [u8; 64];
/// Cache lines from one buffer to the next: 2 112 bytes. A power of two would put all frames into two sets of the L1 cache.
const STRIDE_LINES: usize = 33;
/// Cache lines in front of the frame: 128 bytes of headroom.
const HEADROOM_LINES: usize = 2;
/// Frame length in memory.
pub const FRAME_LEN: usize = 60;

/// MAC address of the port that frames come in on, whichever direction.
pub const OUR_MAC: [u8; 6] = [2, 0, 0, 0, 0, 1];
const PEER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 9];

/// The buffers. A frame is named by the number of its line.
pub struct Buffers {
    lines: Arena<Line>,
}

impl Buffers {
    /// Allocates them.
    pub fn new() -> std::io::Result<Self> {
        Ok(Self {
            lines: Arena::new(BUFFERS * STRIDE_LINES)?,
        })
    }

    /// The line of the frame in buffer `index`.
    #[inline]
    pub const fn line_of(index: usize) -> usize {
        index * STRIDE_LINES + HEADROOM_LINES
    }

    /// The frame at `line`.
    #[inline]
    pub fn frame(&self, line: usize) -> &Line {
        self.lines.at(line)
    }

    /// The frame at `line`.
    #[inline]
    pub fn frame_mut(&mut self, line: usize) -> &mut Line {
        self.lines.at_mut(line)
    }
}

/// One packet's five-tuple, in host order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// 6 or 17.
    pub protocol: u8,
}

/// One's complement sum, folded.
pub fn sum(bytes: &[u8], start: u32) -> u32 {
    let mut sum = start;
    for pair in bytes.chunks(2) {
        sum += u32::from(u16::from_be_bytes([
            pair[0],
            pair.get(1).copied().unwrap_or(0),
        ]));
    }
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum
}

const TCP: u8 = 6;
const UDP: u8 = 17;

/// Writes a whole, valid frame. TCP carries `flags`.
pub fn write(line: &mut Line, tuple: &Tuple, flags: u8) {
    let frame = &mut line[..FRAME_LEN];
    frame.fill(0);
    frame[0..6].copy_from_slice(&OUR_MAC);
    frame[6..12].copy_from_slice(&PEER_MAC);
    frame[12..14].copy_from_slice(&[8, 0]);
    frame[14] = 0x45;
    frame[17] = 46;
    frame[22] = 64;
    frame[23] = tuple.protocol;
    frame[26..30].copy_from_slice(&tuple.source.to_be_bytes());
    frame[30..34].copy_from_slice(&tuple.destination.to_be_bytes());
    let header = !low16(sum(&frame[14..34], 0));
    frame[24..26].copy_from_slice(&header.to_be_bytes());
    frame[34..36].copy_from_slice(&tuple.source_port.to_be_bytes());
    frame[36..38].copy_from_slice(&tuple.destination_port.to_be_bytes());
    frame[54..60].copy_from_slice(b"march!");
    let at = if tuple.protocol == TCP {
        frame[46] = 0x50;
        frame[47] = flags;
        frame[48..50].copy_from_slice(&[0xff, 0xff]);
        50
    } else {
        frame[39] = 26;
        40
    };
    // In UDP zero says that there is none (RFC 768).
    let transport = match (!low16(transport_sum(frame)), tuple.protocol) {
        (0, UDP) => 0xffff,
        (transport, _) => transport,
    };
    frame[at..at + 2].copy_from_slice(&transport.to_be_bytes());
}

fn low16(value: u32) -> u16 {
    (value & 0xffff) as u16
}

fn transport_sum(frame: &[u8]) -> u32 {
    sum(
        &frame[34..60],
        sum(&frame[26..34], u32::from(frame[23]) + 26),
    )
}

/// Whether a forwarded frame is right: both checksums recomputed from scratch, TTL counted down.
pub fn is_sound(frame: &[u8]) -> bool {
    sum(&frame[14..34], 0) == 0xffff && transport_sum(frame) == 0xffff && frame[22] == 63
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_frame_goes_without_a_checksum() {
        for source_port in 0..=u16::MAX {
            let mut line = [0; 64];
            let tuple = Tuple {
                source: 0xc633_6407,
                destination: 0xc000_020a,
                source_port,
                destination_port: 80,
                protocol: 17,
            };
            write(&mut line, &tuple, 0);
            assert_ne!(line[40..42], [0, 0], "port {source_port}");
            assert_eq!(transport_sum(&line[..FRAME_LEN]), 0xffff);
        }
    }

    #[test]
    fn written_frames_are_valid() {
        for protocol in [6, 17] {
            let mut line = [0; 64];
            let tuple = Tuple {
                source: 0xc633_6407,
                destination: 0xc000_020a,
                source_port: 1234,
                destination_port: 80,
                protocol,
            };
            write(&mut line, &tuple, 0x10);
            let frame = &line[..FRAME_LEN];
            assert_eq!(sum(&frame[14..34], 0), 0xffff);
            assert_eq!(transport_sum(frame), 0xffff);
            assert!(!is_sound(frame), "the TTL is still 64");
        }
    }
}
