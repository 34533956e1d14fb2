//! One packet's way through the policy, from the first look at it to the verdict.

use core::net::IpAddr;

use march_tables::{PortId, PortTable};
use march_wire::{DropReason, Packet, Verdict};

use crate::checksum;
use crate::decision::{AddressOwner, Counter, Decision, Moved, Parsed};
use crate::facts::{Facts, TCP, UDP, is_group};
use crate::flows::State;
use crate::policy::Policy;
use crate::rule::Towards;

/// A verdict reached early: the `Err` side of the steps.
pub(crate) type Step<T> = Result<T, Verdict>;

/// A frame that came in.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// When, milliseconds of a clock that wraps.
    pub now_ms: u32,
    /// Where.
    pub ingress: PortId,
    /// The frame, Ethernet header first, no FCS.
    pub frame: &'a [u8],
}

/// What the data plane may choose freely, as it did choose. A choice that is not allowed is not taken: the decision then differs
/// from what the data plane did, and that is how it shows. `None`: the first that is allowed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Chance {
    /// Source address and port of a translated flow, out of the egress port's pool.
    pub source: Option<(IpAddr, u16)>,
    /// Address and port of the backend whose turn it is, where a pool takes turns.
    pub backend: Option<(IpAddr, u16)>,
}

/// A packet on its way, and what was found out so far.
pub(crate) struct Walk<'a> {
    pub policy: &'a Policy,
    pub state: &'a mut State,
    pub arrival: Arrival<'a>,
    pub chance: Chance,
    pub port: &'a PortTable,
    pub told: Decision,
}

impl Policy {
    /// Decides about one frame, and remembers what it has to.
    pub fn decide(&self, state: &mut State, arrival: Arrival<'_>, chance: Chance) -> Decision {
        let mut told = Decision::new(arrival.frame);
        let Some(port) = self.port(arrival.ingress) else {
            told.verdict = Verdict::Drop(DropReason::NoService);
            return told;
        };
        let mut walk = Walk {
            policy: self,
            state,
            arrival,
            chance,
            port,
            told,
        };
        walk.told.verdict = walk.run().unwrap_or_else(|verdict| verdict);
        walk.told
    }
}

impl Walk<'_> {
    fn run(&mut self) -> Step<Verdict> {
        let mut parsed = march_wire::parse(self.told.frame.as_slice());
        if let Ok(Packet::Ip(packet)) = &parsed
            && self.port.partial_checksums == march_tables::PartialChecksums::Possible
            && self.complete_checksum(packet).is_some()
        {
            self.move_counter(Counter::ChecksumsCompleted(self.arrival.ingress), 1);
            parsed = march_wire::parse(self.told.frame.as_slice());
        }
        match parsed {
            Err(reason) => {
                self.told.parsed = Parsed::Refused(reason);
                Err(Verdict::Drop(reason))
            }
            Ok(Packet::Arp(link)) => {
                self.told.parsed = Parsed::Arp;
                self.arp(&link)
            }
            Ok(Packet::Other(link)) => {
                self.told.parsed = Parsed::Link(link.ethertype);
                self.reach().map(|_| Verdict::Punt)
            }
            Ok(Packet::Ip(packet)) => {
                let facts =
                    Facts::of(&packet, &self.told.frame).ok_or(Verdict::Drop(DropReason::Runt))?;
                self.told.parsed = Parsed::Ip {
                    tuple: facts.tuple,
                    is_fragment: facts.is_fragment(),
                };
                match self.ip(&facts).unwrap_or_else(|verdict| verdict) {
                    Verdict::Punt => Ok(self.punt(&facts)),
                    verdict => Ok(verdict),
                }
            }
        }
    }

    fn ip(&mut self, facts: &Facts) -> Step<Verdict> {
        let reach = self.reach()?;
        if reach == Reach::Unicast {
            self.guard(facts)?;
        }
        let owner = self.policy.owner(facts.tuple.dst);
        self.told.owner = Some(owner);
        if reach == Reach::Group || is_group(facts.tuple.dst) {
            return self.solicitation(facts).unwrap_or(Ok(Verdict::Punt));
        }
        if owner == AddressOwner::Kernel {
            return Ok(Verdict::Punt);
        }
        if let Some(answer) = self.solicitation(facts) {
            return answer;
        }
        if facts.is_fragment() {
            return self.fragment(facts, owner);
        }
        if facts.is_icmp_error() {
            self.refuse_martian(facts)?;
            return self.icmp_error(facts, owner);
        }
        if facts.is_echo_request() && matches!(owner, AddressOwner::Service | AddressOwner::Nat) {
            self.refuse_martian(facts)?;
            return self.echo(facts);
        }
        if let Some((id, direction)) = self.state.find(facts.key)
            && let Some(verdict) = self.known(facts, id, direction)?
        {
            return Ok(verdict);
        }
        self.first(facts, owner)
    }

    /// Fragments are not put together here. Rules are asked all the same: what they drop, punt or reject goes that way, what they
    /// let through is dropped as a fragment.
    fn fragment(&mut self, facts: &Facts, owner: AddressOwner) -> Step<Verdict> {
        let towards = match owner {
            AddressOwner::Kernel | AddressOwner::KernelAndNat => return Ok(Verdict::Punt),
            AddressOwner::Nat => return Err(Verdict::Drop(DropReason::Fragment)),
            AddressOwner::Service => Towards::Service,
            AddressOwner::Nobody => Towards::Transit,
        };
        self.refuse_martian(facts)?;
        if towards == Towards::Transit {
            Self::refuse_martian_transit(facts)?;
        }
        self.judge_packet(facts, towards)?;
        Err(Verdict::Drop(DropReason::Fragment))
    }

    /// How a frame got here: to the port's own MAC address, or to a group.
    fn reach(&self) -> Step<Reach> {
        match self.told.frame.first_chunk::<6>() {
            Some(mac) if *mac == self.port.mac => Ok(Reach::Unicast),
            Some(mac) if mac[0] & 1 == 1 => Ok(Reach::Group),
            _ => Err(Verdict::Drop(DropReason::WrongMac)),
        }
    }

    /// Finishes a TCP or UDP checksum that holds just the sum of the pseudo-header.
    fn complete_checksum(&mut self, packet: &march_wire::IpPacket) -> Option<()> {
        let facts = Facts::of(packet, &self.told.frame)?;
        let (field, end) = match (
            facts.tuple.protocol,
            facts.has_ports() && !facts.is_fragment(),
        ) {
            (TCP, true) => (packet.l4_offset + 16, packet.end),
            (UDP, true) => {
                let length = self
                    .told
                    .frame
                    .get(packet.l4_offset + 4..)?
                    .first_chunk::<2>()?;
                (
                    packet.l4_offset + 6,
                    packet.l4_offset + usize::from(u16::from_be_bytes(*length)),
                )
            }
            _ => return None,
        };
        let Facts { tuple, .. } = facts;
        let pseudo =
            checksum::pseudo_header(tuple.src, tuple.dst, tuple.protocol, end - packet.l4_offset);
        let found = u16::from_be_bytes(*self.told.frame.get(field..)?.first_chunk::<2>()?);
        if found != checksum::sum(&pseudo) {
            return None;
        }
        self.told.frame.get_mut(field..field + 2)?.fill(0);
        let covered = [&pseudo, self.told.frame.get(packet.l4_offset..end)?].concat();
        let complete = match checksum::field_for(&covered) {
            0 if tuple.protocol == UDP => 0xffff,
            complete => complete,
        };
        self.told
            .frame
            .get_mut(field..field + 2)?
            .copy_from_slice(&complete.to_be_bytes());
        Some(())
    }

    pub(crate) fn move_counter(&mut self, counter: Counter, by: i64) {
        self.told.counters.push(Moved { counter, by });
        self.state.count(counter, by);
    }

    /// Takes a flow out, and what it counted as.
    pub(crate) fn forget(&mut self, id: crate::flows::FlowId) {
        for (counter, by) in self.state.remove(id) {
            self.move_counter(counter, by);
        }
    }
}

/// How a frame got here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Reach {
    Unicast,
    Group,
}
