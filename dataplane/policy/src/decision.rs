//! What was decided about one packet, and everything that it was decided by.

use core::net::IpAddr;

use march_tables::{
    Action, BackendId, BackendState, LimitId, Mode, PortId, RuleId, ServiceId, SetId, SourceNat,
    Stance, Treatment,
};
use march_wire::{DropReason, Verdict};

use crate::facts::Tuple;
use crate::flows::{Life, Way};
use crate::place::Placed;
use crate::rule::Towards;

/// What the frame was read as.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Parsed {
    /// Nothing was looked at: no such port.
    #[default]
    Unread,
    /// It cannot be what it says it is.
    Refused(DropReason),
    /// ARP.
    Arp,
    /// A link protocol of this type.
    Link(u16),
    /// An IP packet.
    Ip {
        /// Ends.
        tuple: Tuple,
        /// Whether it is a fragment.
        is_fragment: bool,
    },
}

/// Whose an address is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AddressOwner {
    /// Another host's.
    Nobody,
    /// The kernel's.
    Kernel,
    /// The kernel's, and in a NAT pool: a port decides whose a packet is.
    KernelAndNat,
    /// A service's.
    Service,
    /// A NAT pool's alone.
    Nat,
}

/// What the guard of the ingress port said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Guarded {
    /// No set holds the source.
    Unlisted,
    /// A set that allows decided.
    Allowed {
        /// Which.
        set: SetId,
        /// Length of the prefix that did.
        length: u8,
    },
    /// A set that blocks decided.
    Blocked {
        /// Which.
        set: SetId,
        /// Length of the prefix that did.
        length: u8,
    },
}

/// A limit that the packet met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitUse {
    /// One of the configuration's limits.
    Configured {
        /// Which.
        limit: LimitId,
        /// Units that were there before this packet, rounded down.
        left: u64,
        /// Units that it needs.
        needed: u64,
    },
    /// The service's new connections per second.
    NewConnections {
        /// Connections that could still be opened.
        left: u64,
    },
    /// The service's handshakes under way.
    HalfOpen {
        /// How many there are.
        now: u32,
        /// How many there may be.
        most: u32,
    },
}

/// What was there of a flow.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum FlowUse {
    /// Not looked for, or none.
    #[default]
    None,
    /// One, judged under this policy.
    Known(Life),
    /// One that was judged again and may go on.
    Rechecked(Life),
    /// One that was judged again and ended.
    Ended,
    /// One that was over: the packet opened a new one on the same ports.
    Restarted,
}

/// What let the packet through or kept it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RuleUse {
    /// A rule.
    Matched {
        /// Which.
        rule: RuleId,
        /// Its name.
        name: Box<str>,
        /// Its priority.
        priority: u32,
        /// The mapping that it was made from.
        mapping: Option<Box<str>>,
        /// What it says.
        action: Action,
        /// How it has what it lets through treated.
        treatment: Treatment,
        /// Where it is carried out, and why.
        placed: Placed,
    },
    /// None; the port's default.
    Default {
        /// Of which port.
        ingress: PortId,
        /// What it says.
        stance: Stance,
        /// For what the packet is.
        towards: Towards,
    },
}

/// The service.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ServiceUse {
    /// Which.
    pub service: ServiceId,
    /// How its packets are rewritten.
    pub mode: Mode,
    /// Where it is carried out, and why.
    pub placed: Placed,
}

/// The backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BackendUse {
    /// Its slot.
    pub slot: BackendId,
    /// Where it is.
    pub address: IpAddr,
    /// The port that packets go to.
    pub port: u16,
    /// What may be done with it.
    pub state: BackendState,
}

/// Both sides of a rewrite.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Translated {
    /// As the packet came.
    pub before: Tuple,
    /// As it leaves.
    pub after: Tuple,
    /// Whose pool the new source is from, where there is one.
    pub source_nat: SourceNat,
}

/// Where it goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hop {
    /// Egress port.
    pub port: PortId,
    /// The neighbour.
    pub address: IpAddr,
    /// Its MAC address; `None`: not resolved, the packet waits.
    pub mac: Option<[u8; 6]>,
}

/// A copy of the packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Mirrored {
    /// Sent out of this port, as it came in.
    Copied(PortId, Vec<u8>),
    /// Not made: beyond the rate.
    Lost(PortId),
}

/// What is counted beyond verdicts.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Counter {
    /// Packets that a rule decided about.
    RuleHits(RuleId),
    /// Packets of a service, by direction (0: from the client).
    ServicePackets(ServiceId, usize),
    /// Their bytes.
    ServiceBytes(ServiceId, usize),
    /// Flows opened.
    ServiceFlowsCreated(ServiceId),
    /// Flows that exist (a gauge).
    ServiceFlows(ServiceId),
    /// Packets of a backend.
    BackendPackets(BackendId, usize),
    /// Their bytes.
    BackendBytes(BackendId, usize),
    /// Flows opened.
    BackendFlowsCreated(BackendId),
    /// Flows that exist (a gauge).
    BackendFlows(BackendId),
    /// Flows opened, of all kinds.
    FlowsCreated,
    /// Flows judged again.
    FlowsRechecked,
    /// Flows that made room.
    FlowsEvicted,
    /// Flows that ended by time.
    FlowsExpired,
    /// Checksums completed on the way in.
    ChecksumsCompleted(PortId),
    /// Copies made, out of this port.
    Mirrored(PortId),
    /// Copies not made.
    MirrorLost(PortId),
}

/// A counter and by how much it moved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Moved {
    /// Which.
    pub counter: Counter,
    /// Added to it.
    pub by: i64,
}

/// Everything about one packet.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What it was read as.
    pub parsed: Parsed,
    /// What the guard said, where there is one and it was asked.
    pub guard: Option<Guarded>,
    /// Whose the destination is.
    pub owner: Option<AddressOwner>,
    /// What was there of a flow.
    pub flow: FlowUse,
    /// What let it through or kept it: at this packet, or when its flow was judged again now.
    pub rule: Option<RuleUse>,
    /// The port's default, where the rule only counted.
    pub default_after_count: Option<Stance>,
    /// How the flow goes through: which service and backend, which redirect.
    pub way: Option<Way>,
    /// The service.
    pub service: Option<ServiceUse>,
    /// The backend.
    pub backend: Option<BackendUse>,
    /// The rewrite.
    pub translated: Option<Translated>,
    /// Code point written.
    pub marked: Option<u8>,
    /// A copy of it.
    pub mirrored: Option<Mirrored>,
    /// Limits that it met, in order.
    pub limits: Vec<LimitUse>,
    /// Next hop.
    pub hop: Option<Hop>,
    /// What moved, in order.
    pub counters: Vec<Moved>,
    /// What happens to it.
    pub verdict: Verdict,
    /// Its bytes afterwards.
    pub frame: Vec<u8>,
}

impl Decision {
    pub(crate) fn new(frame: &[u8]) -> Self {
        Self {
            parsed: Parsed::Unread,
            guard: None,
            owner: None,
            flow: FlowUse::None,
            rule: None,
            default_after_count: None,
            way: None,
            service: None,
            backend: None,
            translated: None,
            marked: None,
            mirrored: None,
            limits: Vec::new(),
            hop: None,
            counters: Vec::new(),
            verdict: Verdict::Punt,
            frame: frame.to_vec(),
        }
    }
}
