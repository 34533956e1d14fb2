//! `Service`: a VIP with its policy.

use serde::Serialize;

use crate::name::Name;
use crate::place::Place;
use crate::scalar::{DurationMs, PortRange, Prefix, Transport, unusable, words};

/// The spec of a `Service`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Service {
    /// The VIP: an address or a prefix.
    pub address: Prefix,
    /// The port or ports.
    pub port: PortRange,
    /// TCP or UDP.
    pub protocol: Transport,
    /// The name of the pool behind it.
    pub pool: Name,
    /// How packets are rewritten.
    pub mode: Mode,
    /// What decides the backend of a new flow.
    pub affinity: Affinity,
    /// How long an idle flow is remembered.
    pub timeouts: Timeouts,
}

/// How packets of a service are rewritten.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// Source and destination: backends need no route back.
    FullNat,
    /// The destination only: the client's address is kept, backends route back through the node.
    Nat,
}

words!(Mode, "a forwarding mode", FullNat "full_nat", Nat "nat");

/// What decides the backend of a new flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// Addresses, ports and protocol.
    FiveTuple,
    /// The client's address: a client stays with its backend.
    SourceIp,
}

words!(Affinity, "an affinity", FiveTuple "five_tuple", SourceIp "source_ip");

/// How long an idle flow is remembered, by state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Timeouts {
    /// TCP before the handshake is complete.
    pub syn: DurationMs,
    /// TCP with both directions open.
    pub established: DurationMs,
    /// TCP after a FIN.
    pub closing: DurationMs,
    /// UDP.
    pub udp: DurationMs,
    /// ICMP echo.
    pub icmp: DurationMs,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            syn: DurationMs::of(30_000),
            established: DurationMs::of(3_600_000),
            closing: DurationMs::of(60_000),
            udp: DurationMs::of(60_000),
            icmp: DurationMs::of(10_000),
        }
    }
}

impl Service {
    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let address = fields.required("address", vip);
        let port = fields.required("port", Place::parse);
        let protocol = fields.required("protocol", Place::parse);
        let pool = fields.required("pool", Place::parse);
        let mode = fields.optional("mode", Mode::FullNat, Place::parse);
        let affinity = fields.optional("affinity", Affinity::FiveTuple, Place::parse);
        let timeouts = fields.optional("timeouts", Timeouts::default(), Timeouts::decode);
        fields.finish();
        Some(Service {
            address: address?,
            port: port?,
            protocol: protocol?,
            pool: pool?,
            mode: mode?,
            affinity: affinity?,
            timeouts: timeouts?,
        })
    }
}

fn vip(place: &Place<'_>) -> Option<Prefix> {
    let prefix: Prefix = place.parse()?;
    if let Some(why) = unusable(prefix.address()) {
        place.error(format!(
            "`{prefix}` is {why}, which cannot be a service's address"
        ));
        return None;
    }
    Some(prefix)
}

impl Timeouts {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let default = Timeouts::default();
        let mut fields = place.mapping()?;
        let syn = fields.optional("syn", default.syn, Place::parse);
        let established = fields.optional("established", default.established, Place::parse);
        let closing = fields.optional("closing", default.closing, Place::parse);
        let udp = fields.optional("udp", default.udp, Place::parse);
        let icmp = fields.optional("icmp", default.icmp, Place::parse);
        fields.finish();
        Some(Timeouts {
            syn: syn?,
            established: established?,
            closing: closing?,
            udp: udp?,
            icmp: icmp?,
        })
    }
}
