//! ICMP errors: to the flow whose packet they quote, rewritten outside and inside.

use march_wire::parse::L4;
use march_wire::quote::{self, Quote, QuotedL4};
use march_wire::{DropReason, Verdict};

use crate::answer::Problem;
use crate::checksum;
use crate::decide::{Step, Walk};
use crate::decision::{AddressOwner, Translated};
use crate::facts::{Facts, ICMP, ICMPV6, TCP, Tuple, UDP};
use crate::flows::{Direction, Flow};
use crate::rewrite::{fix_ip_header, keep_sum, l4_sum, lower_ttl, put_addresses};

impl Walk<'_> {
    /// What an error quotes went the other way after it was rewritten here: its ends swapped are the key of the packets that come
    /// back, and the error travels with those.
    pub(crate) fn icmp_error(&mut self, facts: &Facts, owner: AddressOwner) -> Step<Verdict> {
        let quote =
            quote::parse(self.told.frame.as_slice(), &facts.packet).map_err(Verdict::Drop)?;
        let quoted =
            quoted_tuple(&self.told.frame, &quote).ok_or(Verdict::Drop(DropReason::BadIcmp))?;
        let Some((id, direction)) = self.state.find(quoted.swapped()) else {
            return match owner {
                AddressOwner::Kernel | AddressOwner::KernelAndNat => Ok(Verdict::Punt),
                _ => Err(Verdict::Drop(DropReason::IcmpNoFlow)),
            };
        };
        if facts.packet.ttl <= 1 {
            return Err(self.answer_error(facts, Problem::TimeExceeded, DropReason::TtlExpired));
        }
        self.recheck(id)?;
        let flow = *self.state.flow(id);
        self.told.way = Some(flow.way);
        // A redirect names a route between addresses that the other side of a translation does not know.
        let is_redirect = facts.is_ipv4() && matches!(facts.packet.l4, L4::Icmp { kind: 5, .. });
        if is_redirect && flow.outgoing(Direction::Forward) != flow.forward {
            return Err(Verdict::Drop(DropReason::UnsupportedProtocol));
        }
        let hop = self.hop_of(&flow, direction)?;
        let mtu = self.policy.port(hop.port).map_or(0, |port| port.mtu);
        // No error answers an error.
        if facts.packet.ip_len() > usize::from(mtu) {
            return Err(Verdict::Drop(DropReason::TooBig));
        }
        self.rewrite_error(facts, &quote, &flow, direction);
        self.put_macs(&hop);
        Ok(Verdict::Forward { port: hop.port })
    }

    fn rewrite_error(&mut self, facts: &Facts, quote: &Quote, flow: &Flow, direction: Direction) {
        let (incoming, outgoing) = (flow.incoming(direction), flow.outgoing(direction));
        let before = facts.tuple;
        let after = Tuple {
            // The far end speaks under the name that the other side knows; a router on the way keeps its own.
            src: if before.src == incoming.src {
                outgoing.src
            } else {
                before.src
            },
            dst: outgoing.dst,
            ..before
        };
        self.told.translated = Some(Translated {
            before,
            after,
            source_nat: march_tables::SourceNat::Keep,
        });
        let packet = &facts.packet;
        let frame = &mut self.told.frame;
        let sum = l4_sum(frame, packet, before);
        rewrite_quote(
            frame,
            quote,
            flow.outgoing(direction.opposite()),
            flow.incoming(direction.opposite()),
        );
        put_addresses(frame, packet.l3_offset, after);
        lower_ttl(frame, packet);
        fix_ip_header(frame, packet);
        keep_sum(frame, packet, after, sum);
    }
}

impl Direction {
    fn opposite(self) -> Self {
        match self {
            Self::Forward => Self::Reverse,
            Self::Reverse => Self::Forward,
        }
    }
}

/// The quoted packet's ends, as it was sent; the identifier twice for ICMP.
fn quoted_tuple(frame: &[u8], quote: &Quote) -> Option<Tuple> {
    let (src_port, dst_port) = match quote.l4 {
        QuotedL4::Ports { src_port, dst_port } => (src_port, dst_port),
        QuotedL4::Icmp { id, .. } => (id, id),
        QuotedL4::Other => (0, 0),
    };
    let with = |src, dst| Tuple {
        src,
        dst,
        src_port,
        dst_port,
        protocol: quote.protocol,
    };
    let v4 = quote.addresses::<core::net::Ipv4Addr, _>(frame);
    let v6 = quote.addresses::<core::net::Ipv6Addr, _>(frame);
    v4.map(|(src, dst)| with(src.into(), dst.into()))
        .or_else(|| v6.map(|(src, dst)| with(src.into(), dst.into())))
}

/// Turns the quoted packet, which left as `before`, back into what came in, with both its checksums, as far as they are there.
fn rewrite_quote(frame: &mut [u8], quote: &Quote, before: Tuple, after: Tuple) {
    let header = quote.l3_offset..quote.l4_offset;
    let header_sum = checksum::sum(&frame[header.clone()]);
    let l4_sum = quoted_l4(frame, quote, before);
    put_addresses(frame, quote.l3_offset, after);
    if before.src.is_ipv4() {
        let field = quote.l3_offset + 10;
        frame[field..field + 2].fill(0);
        let kept = checksum::field_keeping(header_sum, &frame[header]);
        frame[field..field + 2].copy_from_slice(&kept.to_be_bytes());
    }
    let at = quote.l4_offset;
    match quote.l4 {
        QuotedL4::Ports { .. } => {
            frame[at..at + 2].copy_from_slice(&after.src_port.to_be_bytes());
            frame[at + 2..at + 4].copy_from_slice(&after.dst_port.to_be_bytes());
        }
        // The identifier of an echo.
        QuotedL4::Icmp { .. } => {
            frame[at + 4..at + 6].copy_from_slice(&after.src_port.to_be_bytes());
        }
        QuotedL4::Other => {}
    }
    let within = match (quote.protocol, quote.l4) {
        (TCP, QuotedL4::Ports { .. }) => 16,
        (UDP, QuotedL4::Ports { .. }) => 6,
        (ICMP | ICMPV6, QuotedL4::Icmp { .. }) => 2,
        _ => return,
    };
    let field = at + within;
    let is_udp = quote.protocol == UDP;
    if field + 2 > quote.end || (is_udp && frame[field..field + 2] == [0, 0]) {
        return;
    }
    frame[field..field + 2].fill(0);
    let kept = match checksum::field_keeping(l4_sum, &quoted_l4_bytes(frame, quote, after)) {
        0 if is_udp => 0xffff,
        kept => kept,
    };
    frame[field..field + 2].copy_from_slice(&kept.to_be_bytes());
}

/// What of the quoted segment is there, and its pseudo-header. The segment's length is the same before and after: any will do.
fn quoted_l4_bytes(frame: &[u8], quote: &Quote, tuple: Tuple) -> Vec<u8> {
    let segment = &frame[quote.l4_offset..quote.end];
    let pseudo = match quote.protocol {
        ICMP => Vec::new(),
        protocol => checksum::pseudo_header(tuple.src, tuple.dst, protocol, segment.len()),
    };
    [&pseudo, segment].concat()
}

fn quoted_l4(frame: &[u8], quote: &Quote, tuple: Tuple) -> u16 {
    checksum::sum(&quoted_l4_bytes(frame, quote, tuple))
}
