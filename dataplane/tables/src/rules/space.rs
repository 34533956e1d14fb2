//! Rules and packets as points and boxes of numbers.
//!
//! A packet is a point of `W` words: the words of the source address, those of the destination address, source port,
//! destination port, protocol, ingress port. For IPv4 `W` is 6, for IPv6 12. A rule is one or several boxes: an interval for
//! each word, prefixes and port ranges being intervals of theirs. For the comparison of one packet with one box both are also
//! kept as `L` lines of sixteen 16-bit lanes: the packet as `x | !x`, the box as `lowest | !highest`, and the packet is in
//! the box exactly if no lane of the box is above the packet's.

use march_wire::tuple::Address;

use crate::{RuleId, Subject};

/// Words of an IPv4 packet.
pub(super) const WORDS4: usize = 6;
/// Lines of an IPv4 box.
pub(super) const LINES4: usize = 1;
/// Words of an IPv6 packet.
pub(super) const WORDS6: usize = 12;
/// Lines of an IPv6 box.
pub(super) const LINES6: usize = 3;

/// Words after the addresses.
pub(super) const TAIL: usize = 4;

/// Sixteen lanes: part of a box, of a packet, or four numbers of 64 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(align(32))]
pub(super) struct Line(pub [u16; 16]);

impl Line {
    pub const ZERO: Self = Self([0; 16]);

    /// One of the four numbers.
    #[inline(always)]
    pub fn number(&self, at: usize) -> u64 {
        let at = (at & 3) * 4;
        u64::from(self.0[at])
            | u64::from(self.0[at + 1]) << 16
            | u64::from(self.0[at + 2]) << 32
            | u64::from(self.0[at + 3]) << 48
    }

    #[expect(
        clippy::cast_possible_truncation,
        reason = "the four lanes of a number"
    )]
    pub fn set_number(&mut self, at: usize, number: u64) {
        for lane in 0..4 {
            self.0[(at & 3) * 4 + lane] = (number >> (16 * lane)) as u16;
        }
    }

    /// Whether no lane of `other` is above this one's.
    #[inline(always)]
    pub fn is_not_below(&self, other: &Self) -> bool {
        let mut above = 0;
        for lane in 0..16 {
            above |= other.0[lane].saturating_sub(self.0[lane]);
        }
        above == 0
    }
}

/// Bits of each word that can be set.
pub(super) const fn width<const W: usize>(word: usize) -> u32 {
    const PROTOCOL_BITS: u32 = 9;
    if word < W - TAIL {
        32
    } else if word == W - 2 {
        PROTOCOL_BITS
    } else {
        16
    }
}

/// All bits of a word.
pub(super) const fn full<const W: usize>(word: usize) -> u32 {
    u32::MAX >> (32 - width::<W>(word))
}

/// What the protocol word says: protocols with ports next to each other, and apart from them what has no ports because it is
/// a later fragment.
pub(super) mod protocol {
    pub const TCP_LATER: u32 = 0;
    pub const TCP: u32 = 1;
    pub const UDP: u32 = 2;
    pub const UDP_LATER: u32 = 3;
    /// Any other protocol: this plus its number.
    pub const OTHER: u32 = 4;
    pub const HIGHEST: u32 = OTHER + 255;
}

/// A packet.
#[derive(Clone, Copy)]
pub(super) struct Point<const W: usize, const L: usize> {
    pub words: [u32; W],
    lines: [Line; L],
}

/// The port words of an ICMP packet without a header, which no message is equal to.
pub(super) const NO_MESSAGE: u32 = 0xffff;

impl<const W: usize, const L: usize> Point<W, L> {
    pub const ORIGIN: Self = Self {
        words: [0; W],
        lines: [Line::ZERO; L],
    };

    #[inline(always)]
    pub fn of<A: Address>(subject: &Subject<A>) -> Self {
        use march_wire::parse::Fragment;
        let tuple = &subject.tuple;
        let mut words = [0; W];
        let side = (W - TAIL) / 2;
        split(tuple.src.to_number(), &mut words[..side]);
        split(tuple.dst.to_number(), &mut words[side..2 * side]);
        let is_later = subject.fragment == Fragment::Later;
        let (source_port, port, code) = match tuple.protocol {
            march_wire::ip::TCP | march_wire::ip::UDP => {
                let code = match (tuple.protocol, is_later) {
                    (march_wire::ip::TCP, false) => protocol::TCP,
                    (march_wire::ip::TCP, true) => protocol::TCP_LATER,
                    (_, false) => protocol::UDP,
                    (_, true) => protocol::UDP_LATER,
                };
                (u32::from(tuple.src_port), u32::from(tuple.dst_port), code)
            }
            number => {
                let (kind, code) = subject
                    .icmp
                    .map_or((NO_MESSAGE, NO_MESSAGE), |(kind, code)| {
                        (kind.into(), code.into())
                    });
                (kind, code, protocol::OTHER + u32::from(number))
            }
        };
        words[W - 4] = source_port;
        words[W - 3] = port;
        words[W - 2] = code;
        words[W - 1] = u32::from(subject.ingress);
        Self {
            words,
            lines: lines(&words, &words),
        }
    }

    #[inline(always)]
    pub fn is_in(&self, lines: &[Line]) -> bool {
        let mut all = true;
        for (mine, other) in self.lines.iter().zip(lines) {
            all &= mine.is_not_below(other);
        }
        all
    }
}

#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the words of a number")]
fn split(number: u128, words: &mut [u32]) {
    let count = words.len();
    for (at, word) in words.iter_mut().enumerate() {
        *word = (number >> (32 * (count - 1 - at))) as u32;
    }
}

/// The lanes of a box, or of a packet if lowest and highest are the same. Each word has a high and a low lane, those after
/// the addresses only the low one. Unused lanes of a packet must be highest and those of a box lowest: both are 0 here, which
/// holds as well.
#[inline(always)]
#[expect(clippy::cast_possible_truncation, reason = "the two lanes of a word")]
pub(super) fn lines<const W: usize, const L: usize>(
    lowest: &[u32; W],
    highest: &[u32; W],
) -> [Line; L] {
    let mut lines = [Line::ZERO; L];
    let mut put = |lane: usize, low: u16, high: u16| {
        let line = &mut lines[lane / 8].0;
        line[lane % 8] = low;
        line[lane % 8 + 8] = !high;
    };
    let mut lane = 0;
    for word in 0..W - TAIL {
        put(
            lane,
            (lowest[word] >> 16) as u16,
            (highest[word] >> 16) as u16,
        );
        put(lane + 1, lowest[word] as u16, highest[word] as u16);
        lane += 2;
    }
    for word in W - TAIL..W {
        put(lane, lowest[word] as u16, highest[word] as u16);
        lane += 1;
    }
    lines
}

/// A box of one rule: what it matches, or what holds all that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Piece<const W: usize> {
    pub lowest: [u32; W],
    pub highest: [u32; W],
    /// What a match is worth: see [`super::verdict`].
    pub verdict: u64,
}

impl<const W: usize> Piece<W> {
    /// The rule.
    pub fn rule(&self) -> RuleId {
        super::verdict::rule(self.verdict)
    }

    /// Whether what is in the box certainly matches.
    pub fn is_exact(&self) -> bool {
        !super::verdict::is_conditional(self.verdict)
    }

    /// Whether the box has every point of the region.
    pub fn covers(&self, region: &Region<W>) -> bool {
        self.covers_but(region, W)
    }

    /// The same but for one word.
    pub fn covers_but(&self, region: &Region<W>, but: usize) -> bool {
        let mut all = true;
        for word in (0..W).filter(|word| *word != but) {
            let first = region.value[word];
            let last = first | (full::<W>(word) & !region.known[word]);
            all &= (self.lowest[word] <= first) & (last <= self.highest[word]);
        }
        all
    }
}

/// All points that have certain bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Region<const W: usize> {
    /// Which bits are known.
    pub known: [u32; W],
    /// What they are; the others are 0.
    pub value: [u32; W],
}

impl<const W: usize> Region<W> {
    /// All points.
    pub const ALL: Self = Self {
        known: [0; W],
        value: [0; W],
    };
}
