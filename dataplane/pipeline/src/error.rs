//! ICMP errors: to the flow whose packet they quote, rewritten outside and inside.

use march_flow::Key;
use march_tables::AddressKind;
use march_wire::parse::{IpPacket, L4};
use march_wire::quote::{self, Quote, QuotedL4, Rewrite};
use march_wire::{Buffer, DropReason, Family, FiveTuple, Verdict};

use crate::context::{Context, Shared};
use crate::next_hop::next_hop;
use crate::rewrite::IpVersion;
use crate::side::Side;
use crate::slow::{Step, Transit, expired, port_numbers, raw_ports};

impl<F: IpVersion> Side<F> {
    /// An ICMP error. What it quotes is a packet that went the other way after it was rewritten here, so the quote's
    /// ends swapped are the key of the packets that come back: the error travels with those.
    pub fn icmp_error<B: Buffer>(
        &mut self,
        shared: &mut Shared,
        context: &Context<'_>,
        frame: &mut B,
        transit: &Transit<'_, F>,
    ) -> Step<Verdict> {
        let packet = transit.packet;
        let quote = quote::parse(frame.bytes(), packet).map_err(Verdict::Drop)?;
        let key = quoted_key::<F>(frame.bytes(), &quote)
            .ok_or(Verdict::Drop(DropReason::BadIcmp))?
            .swapped();
        let Some(handle) = self.flows.find(&key) else {
            return match transit.kind {
                AddressKind::Kernel | AddressKind::KernelNat => Ok(Verdict::Punt),
                AddressKind::Vip | AddressKind::Nat | AddressKind::NotLocal => {
                    Err(Verdict::Drop(DropReason::IcmpNoFlow))
                }
            };
        };
        if packet.ttl <= 1 {
            return expired(shared, context, frame, packet);
        }
        self.renew(shared, context, handle.index)?;
        let flow = *self.flows.flow(handle.index);
        // A redirect names a route between addresses that the other side of a translation does not know.
        if flow.is_translated() && is_redirect(packet) {
            return Err(Verdict::Drop(DropReason::UnsupportedProtocol));
        }
        let way = self.way(handle);
        let hop = next_hop::<F>(shared, context, &flow, way)?;
        let adjacency = context
            .generation
            .adjacency(hop)
            .ok_or(Verdict::Drop(DropReason::NoRoute))?;
        // No error answers an error.
        if packet.ip_len() > usize::from(adjacency.mtu) {
            return Err(Verdict::Drop(DropReason::TooBig));
        }

        let (came_from, _) = F::addresses(flow.key(handle.direction).addresses);
        let (leaves_from, goes_to) = F::addresses(flow.outgoing(handle.direction).addresses);
        let quoted = flow.key(handle.direction.opposite());
        let (src, dst) = F::addresses(quoted.addresses);
        let (src_port, dst_port) = port_numbers(quoted.ports);
        let rewrite = Rewrite {
            // The far end speaks under the name the other side knows; a router on the way keeps its own.
            src: if transit.src == came_from {
                leaves_from
            } else {
                transit.src
            },
            dst: goes_to,
            quoted: FiveTuple {
                src,
                dst,
                src_port,
                dst_port,
                protocol: quoted.protocol,
            },
        };
        let bytes = frame.bytes_mut();
        let done = quote::rewrite(bytes, packet, &quote, &rewrite).is_some()
            && F::decrement_ttl(bytes, packet.l3_offset);
        debug_assert!(done, "the parser saw all of both headers");
        if let Some(macs) = bytes.get_mut(..12) {
            macs.copy_from_slice(&adjacency.rewrite);
        }
        Ok(Verdict::Forward {
            port: adjacency.port,
        })
    }
}

/// ICMP type of a redirect.
const REDIRECT: u8 = 5;

/// An ICMP redirect; that of IPv6 is neighbour discovery and no error.
fn is_redirect(packet: &IpPacket) -> bool {
    packet.family == Family::V4 && matches!(packet.l4, L4::Icmp { kind: REDIRECT, .. })
}

/// The quoted packet's key, as it was sent.
fn quoted_key<F: IpVersion>(frame: &[u8], quote: &Quote) -> Option<Key<F::Pair>> {
    let (src, dst) = quote.addresses::<F::Address, _>(frame)?;
    let ports = match quote.l4 {
        QuotedL4::Ports { src_port, dst_port } => raw_ports(src_port, dst_port),
        QuotedL4::Icmp { id, .. } => raw_ports(id, id),
        QuotedL4::Other => 0,
    };
    Some(Key {
        addresses: F::pair(src, dst),
        ports,
        protocol: quote.protocol,
    })
}
