//! ARP and neighbour discovery: who has our addresses.

use core::net::{IpAddr, Ipv6Addr};

use march_wire::ethernet::Link;
use march_wire::{DropReason, Verdict, arp, nd};

use crate::answer::ethernet;
use crate::checksum;
use crate::decide::{Step, Walk};
use crate::decision::AddressOwner;
use crate::facts::{Facts, ICMPV6};

const ALL_NODES: Ipv6Addr = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);

impl Walk<'_> {
    /// Requests for our addresses are answered, the rest is the kernel's.
    pub(crate) fn arp(&mut self, link: &Link) -> Step<Verdict> {
        let message = arp::parse(self.told.frame.as_slice(), link).map_err(Verdict::Drop)?;
        if !self.answers_for(message.target.into()) || message.operation != arp::Operation::Request
        {
            return Ok(Verdict::Punt);
        }
        let own = self.port.mac;
        let mut reply = vec![0, 1, 8, 0, 6, 4, 0, 2];
        reply.extend(own);
        reply.extend(message.target.octets());
        reply.extend(message.sender_mac);
        reply.extend(message.sender.octets());
        let frame = &mut self.told.frame;
        frame[..12].copy_from_slice(&[message.sender_mac, own].concat());
        frame[link.l3_offset..link.l3_offset + 28].copy_from_slice(&reply);
        Ok(Verdict::Answer {
            port: self.arrival.ingress,
        })
    }

    /// Neighbour discovery about one of our addresses; `None` for anything else.
    pub(crate) fn solicitation(&mut self, facts: &Facts) -> Option<Step<Verdict>> {
        if !facts.is_neighbour() {
            return None;
        }
        let packet = &facts.packet;
        let target = nd::target(self.told.frame.as_slice(), packet)?;
        if !self.answers_for(target.into()) {
            return None;
        }
        Some(match nd::parse(&self.told.frame, packet) {
            Err(reason) => Err(Verdict::Drop(reason)),
            // Somebody else claims our address: the kernel's log is the place to see it.
            Ok(nd::Neighbour::Advertisement(_)) => Ok(Verdict::Punt),
            Ok(nd::Neighbour::Solicitation(asked)) => self
                .advertise(facts, &asked)
                .ok_or(Verdict::Drop(DropReason::BadArp)),
        })
    }

    fn answers_for(&self, address: IpAddr) -> bool {
        matches!(
            self.policy.owner(address),
            AddressOwner::Service | AddressOwner::Nat
        )
    }

    /// Our advertisement: to whom asked, or to all nodes if that was a probe for a duplicate.
    fn advertise(&mut self, facts: &Facts, asked: &nd::Solicitation) -> Option<Verdict> {
        const SOLICITED: u8 = 0x40;
        const OVERRIDE: u8 = 0x20;
        let own = self.port.mac;
        let (receiver, mac, flags) = if asked.sender.is_unspecified() {
            (ALL_NODES, [0x33, 0x33, 0, 0, 0, 1], OVERRIDE)
        } else {
            let came_from = *self.told.frame.get(6..)?.first_chunk::<6>()?;
            (
                asked.sender,
                asked.sender_mac.unwrap_or(came_from),
                SOLICITED | OVERRIDE,
            )
        };
        let mut message = vec![136, 0, 0, 0, flags, 0, 0, 0];
        message.extend(asked.target.octets());
        message.extend([2, 1]);
        message.extend(own);
        let pseudo =
            checksum::pseudo_header(asked.target.into(), receiver.into(), ICMPV6, message.len());
        let field = checksum::field_for(&[&pseudo[..], &message[..]].concat());
        message[2..4].copy_from_slice(&field.to_be_bytes());

        let mut frame = ethernet(&self.told.frame, facts, mac, own)?;
        frame.extend([0x60, 0, 0, 0, 0, 32, ICMPV6, 255]);
        frame.extend(asked.target.octets());
        frame.extend(receiver.octets());
        frame.extend(message);
        self.told.frame = frame;
        Some(Verdict::Answer {
            port: self.arrival.ingress,
        })
    }
}
