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
    /// How much of it may be new at once.
    #[serde(skip_serializing_if = "ServiceLimits::is_default")]
    pub limits: ServiceLimits,
}

/// Bounds on what is new to a service. None: no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct ServiceLimits {
    /// New flows per second over all lcores of a node; beyond it `new_connection_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub new_connections_per_second: Option<u32>,
    /// TCP handshakes under way at once; beyond it `half_open_limit`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub half_open: Option<u32>,
}

/// The most that a service's limits take.
pub const MAX_SERVICE_LIMIT: u32 = 100_000_000;

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
        let limits = fields.optional("limits", ServiceLimits::default(), ServiceLimits::decode);
        fields.finish();
        Some(Service {
            address: address?,
            port: port?,
            protocol: protocol?,
            pool: pool?,
            mode: mode?,
            affinity: affinity?,
            timeouts: timeouts?,
            limits: limits?,
        })
    }
}

impl ServiceLimits {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn decode(place: &Place<'_>) -> Option<Self> {
        let bound = |number: &Place<'_>| number.number(1, MAX_SERVICE_LIMIT).map(Some);
        let mut fields = place.mapping()?;
        let new_connections_per_second = fields.optional("newConnectionsPerSecond", None, bound);
        let half_open = fields.optional("halfOpen", None, bound);
        fields.finish();
        Some(Self {
            new_connections_per_second: new_connections_per_second?,
            half_open: half_open?,
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
