//! What the box answers of its own: echo replies, ICMP errors, RSTs. All at a bounded rate.

use core::net::IpAddr;

use march_wire::parse::{Fragment, L4};
use march_wire::{DropReason, Verdict};

use crate::checksum;
use crate::decide::{Step, Walk};
use crate::facts::{ACK, FIN, Facts, ICMP, ICMPV6, RST, SYN, TCP, is_group, is_possible_source};
use crate::limit::{Bucket, Taken};

/// TTL and hop limit of what is made here.
const OWN_TTL: u8 = 64;

/// Rates of answers, per second and at once.
const ERRORS: u64 = 1_000;
const ECHOES: u64 = 10_000;
const RESETS: u64 = 10_000;

/// The buckets of answers.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Answers {
    errors: Bucket,
    echoes: Bucket,
    resets: Bucket,
}

/// Why a packet cannot go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Problem {
    TimeExceeded,
    TooBig(u16),
    Prohibited,
}

impl Problem {
    /// Type, code, and the four bytes behind the checksum (RFC 792, RFC 1191, RFC 4443).
    fn message(self, is_ipv4: bool) -> (u8, u8, u32) {
        match (self, is_ipv4) {
            (Self::TimeExceeded, true) => (11, 0, 0),
            (Self::TimeExceeded, false) => (3, 0, 0),
            (Self::TooBig(mtu), true) => (3, 4, u32::from(mtu)),
            (Self::TooBig(mtu), false) => (2, 0, u32::from(mtu)),
            (Self::Prohibited, true) => (3, 13, 0),
            (Self::Prohibited, false) => (1, 1, 0),
        }
    }
}

/// A link header like that of the packet answered, tag included, with other addresses.
pub(crate) fn ethernet(frame: &[u8], facts: &Facts, to: [u8; 6], from: [u8; 6]) -> Option<Vec<u8>> {
    Some([&to, &from, frame.get(12..facts.packet.l3_offset)?].concat())
}

/// An IP header without options: "don't fragment", identification 0.
fn ip_header(src: IpAddr, dst: IpAddr, protocol: u8, payload: usize) -> Vec<u8> {
    let len = |bytes: usize| u16::try_from(bytes).unwrap_or(u16::MAX).to_be_bytes();
    match (src, dst) {
        (IpAddr::V4(src), IpAddr::V4(dst)) => {
            let [high, low] = len(payload + 20);
            let mut header = vec![0x45, 0, high, low, 0, 0, 0x40, 0, OWN_TTL, protocol, 0, 0];
            header.extend(src.octets());
            header.extend(dst.octets());
            let field = checksum::field_for(&header);
            header[10..12].copy_from_slice(&field.to_be_bytes());
            header
        }
        (IpAddr::V6(src), IpAddr::V6(dst)) => {
            let [high, low] = len(payload);
            let mut header = vec![0x60, 0, 0, 0, high, low, protocol, OWN_TTL];
            header.extend(src.octets());
            header.extend(dst.octets());
            header
        }
        _ => Vec::new(),
    }
}

impl Walk<'_> {
    fn answered(&self) -> Verdict {
        Verdict::Answer {
            port: self.arrival.ingress,
        }
    }

    /// The MAC address that the frame came from.
    fn came_from(&self) -> [u8; 6] {
        self.told
            .frame
            .get(6..)
            .and_then(|rest| rest.first_chunk())
            .copied()
            .unwrap_or_default()
    }

    /// Echo to an address of ours.
    pub(crate) fn echo(&mut self, facts: &Facts) -> Step<Verdict> {
        let now_ms = self.arrival.now_ms;
        if let Taken::Lacked(_) = self.state.answers.echoes.take(ECHOES, ECHOES, now_ms, 1) {
            return Err(Verdict::Drop(DropReason::IcmpRateLimited));
        }
        let reply = if facts.is_ipv4() { 0 } else { 129 };
        let macs = [self.came_from(), self.port.mac].concat();
        let swapped = facts.tuple.swapped();
        let packet = &facts.packet;
        let before = crate::rewrite::l4_sum(&self.told.frame, packet, facts.tuple);
        let frame = &mut self.told.frame;
        frame[..12].copy_from_slice(&macs);
        crate::rewrite::put_addresses(frame, packet.l3_offset, swapped);
        let ttl_at = packet.l3_offset + if facts.is_ipv4() { 8 } else { 7 };
        frame[ttl_at] = OWN_TTL;
        crate::rewrite::fix_ip_header(frame, packet);
        // A request with a wrong checksum becomes a reply with a wrong one.
        let request = frame[packet.l4_offset];
        frame[packet.l4_offset] = reply;
        crate::rewrite::keep_sum(frame, packet, swapped, before);
        debug_assert_ne!(request, reply);
        Ok(self.answered())
    }

    /// RST for TCP, `reason` for all else and beyond the rate. A RST is never answered.
    pub(crate) fn reset(&mut self, facts: &Facts, reason: DropReason) -> Verdict {
        let dropped = Verdict::Drop(reason);
        let L4::Tcp {
            flags, header_len, ..
        } = facts.packet.l4
        else {
            return dropped;
        };
        if flags & RST != 0 || facts.is_fragment() {
            return dropped;
        }
        let now_ms = self.arrival.now_ms;
        if let Taken::Lacked(_) = self.state.answers.resets.take(RESETS, RESETS, now_ms, 1) {
            return dropped;
        }
        match self.reset_frame(facts, flags, header_len) {
            Some(frame) => {
                self.told.frame = frame;
                self.answered()
            }
            None => dropped,
        }
    }

    /// RFC 9293, section 3.10.7.1.
    fn reset_frame(&self, facts: &Facts, flags: u8, header_len: usize) -> Option<Vec<u8>> {
        let frame = &self.told.frame;
        let packet = &facts.packet;
        let number = |at: usize| {
            Some(u32::from_be_bytes(
                *frame.get(packet.l4_offset + at..)?.first_chunk()?,
            ))
        };
        let payload = packet.end - packet.l4_offset - header_len;
        let length = u32::try_from(payload).ok()?
            + u32::from(flags & SYN != 0)
            + u32::from(flags & FIN != 0);
        let (sequence, acknowledgement, answer) = if flags & ACK != 0 {
            (number(8)?, 0, RST)
        } else {
            (0, number(4)?.wrapping_add(length), RST | ACK)
        };
        let back = facts.tuple.swapped();
        let mut segment = Vec::new();
        segment.extend(back.src_port.to_be_bytes());
        segment.extend(back.dst_port.to_be_bytes());
        segment.extend(sequence.to_be_bytes());
        segment.extend(acknowledgement.to_be_bytes());
        segment.extend([0x50, answer, 0, 0, 0, 0, 0, 0]);
        let pseudo = checksum::pseudo_header(back.src, back.dst, TCP, segment.len());
        let field = checksum::field_for(&[&pseudo[..], &segment[..]].concat());
        segment[16..18].copy_from_slice(&field.to_be_bytes());
        let mut answer = ethernet(frame, facts, self.came_from(), self.port.mac)?;
        answer.extend(ip_header(back.src, back.dst, TCP, segment.len()));
        answer.extend(segment);
        Some(answer)
    }

    /// A rule refuses the packet and says so: RST for TCP, "administratively prohibited" for all else.
    pub(crate) fn reject(&mut self, facts: &Facts) -> Verdict {
        if facts.tcp_flags.is_some() {
            self.reset(facts, DropReason::RuleDrop)
        } else {
            self.answer_error(facts, Problem::Prohibited, DropReason::RuleDrop)
        }
    }

    /// The ICMP error about a packet, from the port's own address; `reason` where none may be sent and beyond the rate.
    pub(crate) fn answer_error(
        &mut self,
        facts: &Facts,
        problem: Problem,
        reason: DropReason,
    ) -> Verdict {
        let own: Option<IpAddr> = if facts.is_ipv4() {
            self.port.address4.map(IpAddr::V4)
        } else {
            self.port.address6.map(IpAddr::V6)
        };
        let dropped = Verdict::Drop(reason);
        let Some(own) = own.filter(|_| self.may_be_told(facts)) else {
            return dropped;
        };
        let now_ms = self.arrival.now_ms;
        if let Taken::Lacked(_) = self.state.answers.errors.take(ERRORS, ERRORS, now_ms, 1) {
            return dropped;
        }
        match self.error_frame(facts, problem, own) {
            Some(frame) => {
                self.told.frame = frame;
                self.answered()
            }
            None => dropped,
        }
    }

    /// Never about an error or a redirect, a later fragment, what went to a group, or what no single host sent (RFC 1812, section
    /// 4.3.2.7; RFC 4443, section 2.4 e).
    fn may_be_told(&self, facts: &Facts) -> bool {
        let is_redirect = !facts.is_ipv4() && matches!(facts.icmp, Some((137, _)));
        facts.packet.fragment != Fragment::Later
            && !facts.is_icmp_error()
            && !is_redirect
            && is_possible_source(facts.tuple.src)
            && !is_group(facts.tuple.dst)
            && self.told.frame.first().is_some_and(|first| first & 1 == 0)
    }

    fn error_frame(&self, facts: &Facts, problem: Problem, own: IpAddr) -> Option<Vec<u8>> {
        // The whole error stays within 576 and 1280 bytes.
        let (most, protocol) = if facts.is_ipv4() {
            (576 - 28, ICMP)
        } else {
            (1280 - 48, ICMPV6)
        };
        let frame = &self.told.frame;
        let packet = &facts.packet;
        let quoted = frame.get(packet.l3_offset..packet.end)?;
        let quoted = quoted.get(..most).unwrap_or(quoted);
        let (kind, code, rest) = problem.message(facts.is_ipv4());
        let mut message = vec![kind, code, 0, 0];
        message.extend(rest.to_be_bytes());
        message.extend(quoted);
        let to = facts.tuple.src;
        let pseudo = if facts.is_ipv4() {
            Vec::new()
        } else {
            checksum::pseudo_header(own, to, ICMPV6, message.len())
        };
        let field = checksum::field_for(&[&pseudo[..], &message[..]].concat());
        message[2..4].copy_from_slice(&field.to_be_bytes());
        let mut answer = ethernet(frame, facts, self.came_from(), self.port.mac)?;
        answer.extend(ip_header(own, to, protocol, message.len()));
        answer.extend(message);
        Some(answer)
    }
}
