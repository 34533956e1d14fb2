//! `Port`: a network interface of a node that the data plane drives.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Serialize;

use crate::name::{InterfaceName, Name, serialize_as_text, shorten};
use crate::place::Place;
use crate::scalar::{PortRange, host_address, words};

/// The default of `nat.ports`: below the kernel's default ephemeral range, above what services listen on.
pub const DEFAULT_NAT_PORTS: PortRange = PortRange::of(20_000, 32_767);

/// The kernel's default `ip_local_port_range`.
pub const KERNEL_EPHEMERAL_PORTS: PortRange = PortRange::of(32_768, 60_999);

/// The spec of a `Port`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Port {
    /// The node that has the interface.
    pub node: Name,
    /// The interface, as the node's kernel names it.
    pub interface: InterfaceName,
    /// Which tier may drive it.
    pub tier: TierChoice,
    /// Source addresses and ports towards backends, in mode `full_nat`, and of masqueraded transit.
    pub nat: Nat,
    /// What happens to what comes in here and no rule decides about.
    #[serde(rename = "default", skip_serializing_if = "Unmatched::is_default")]
    pub unmatched: Unmatched,
    /// What is looked at before anything else in what comes in here.
    #[serde(skip_serializing_if = "Guard::is_default")]
    pub guard: Guard,
}

/// What happens to packets that no rule decides about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Unmatched {
    /// To services; denied: dropped as `default_deny`.
    pub services: Stance,
    /// Through the box; denied: dropped as `no_service`.
    pub transit: Stance,
}

impl Default for Unmatched {
    fn default() -> Self {
        Self {
            services: Stance::Allow,
            transit: Stance::Deny,
        }
    }
}

/// Whether something may go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stance {
    /// It may.
    Allow,
    /// It is dropped.
    Deny,
}

words!(Stance, "a default", Allow "allow", Deny "deny");

/// What is looked at before anything else. Of the sets that hold a source, the one with the longest prefix decides;
/// between equals `allow` does.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Guard {
    /// Address sets whose members are dropped as `blocked`; sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub block: Vec<Name>,
    /// Address sets whose members are neither blocked by a shorter prefix nor held to `per_source`; sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub allow: Vec<Name>,
    /// The name of a `RateLimit` with `per: source` on everything that comes in; beyond it `source_rate`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub per_source: Option<Name>,
}

/// Where the source address of a full-NAT flow that leaves by this port comes from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Nat {
    /// Dedicated addresses, sorted; none: the port's own addresses.
    pub addresses: Vec<IpAddr>,
    /// Ports that the kernel must not use for its own connections.
    pub ports: PortRange,
}

/// A tier that a port asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum TierChoice {
    /// The highest that works: dpdk on real devices, `af_xdp`, socket.
    Auto,
    /// DPDK on a real device.
    Dpdk,
    /// DPDK on a virtual device of this driver, such as `net_af_packet`: for tests.
    DpdkVirtual(Box<str>),
    /// `AF_XDP` sockets.
    AfXdp,
    /// The kernel's stack.
    Socket,
}

impl FromStr for TierChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let words = ["auto", "dpdk", "af_xdp", "socket"];
        if let Some(driver) = text
            .strip_prefix("dpdk(")
            .and_then(|rest| rest.strip_suffix(')'))
        {
            let is_allowed =
                |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'_';
            return if driver.starts_with("net_")
                && driver.len() <= 32
                && driver.bytes().all(is_allowed)
            {
                Ok(TierChoice::DpdkVirtual(driver.into()))
            } else {
                Err(format!(
                    "`{}` is not a DPDK virtual driver; write it like dpdk(net_af_packet)",
                    shorten(driver)
                ))
            };
        }
        match text {
            "auto" => Ok(TierChoice::Auto),
            "dpdk" => Ok(TierChoice::Dpdk),
            "af_xdp" => Ok(TierChoice::AfXdp),
            "socket" => Ok(TierChoice::Socket),
            _ => Err(format!(
                "`{}` is not a tier{}; write {} or, for tests, dpdk(DRIVER)",
                shorten(text),
                crate::suggest::did_you_mean(text, words),
                words.join(", ")
            )),
        }
    }
}

impl fmt::Display for TierChoice {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            TierChoice::Auto => formatter.write_str("auto"),
            TierChoice::Dpdk => formatter.write_str("dpdk"),
            TierChoice::DpdkVirtual(driver) => write!(formatter, "dpdk({driver})"),
            TierChoice::AfXdp => formatter.write_str("af_xdp"),
            TierChoice::Socket => formatter.write_str("socket"),
        }
    }
}

serialize_as_text!(TierChoice);

impl Port {
    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let node = fields.required("node", Place::parse);
        let interface = fields.required("interface", Place::parse);
        let tier = fields.optional("tier", TierChoice::Auto, Place::parse);
        let default_nat = Nat {
            addresses: Vec::new(),
            ports: DEFAULT_NAT_PORTS,
        };
        let nat = fields.optional("nat", default_nat, Nat::decode);
        let unmatched = fields.optional("default", Unmatched::default(), Unmatched::decode);
        let guard = fields.optional("guard", Guard::default(), Guard::decode);
        fields.finish();
        Some(Port {
            node: node?,
            interface: interface?,
            tier: tier?,
            nat: nat?,
            unmatched: unmatched?,
            guard: guard?,
        })
    }
}

impl Unmatched {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn decode(place: &Place<'_>) -> Option<Self> {
        let default = Self::default();
        let mut fields = place.mapping()?;
        let services = fields.optional("services", default.services, Place::parse);
        let transit = fields.optional("transit", default.transit, Place::parse);
        fields.finish();
        Some(Self {
            services: services?,
            transit: transit?,
        })
    }
}

impl Guard {
    fn is_default(&self) -> bool {
        *self == Self::default()
    }

    fn decode(place: &Place<'_>) -> Option<Self> {
        let sets = |list: &Place<'_>| list.set("address set", Place::parse::<Name>);
        let mut fields = place.mapping()?;
        let block = fields.optional("block", Vec::new(), sets);
        let allow = fields.optional("allow", Vec::new(), sets);
        let per_source = fields.optional("perSource", None, |limit| limit.parse().map(Some));
        if let (Some(block), Some(allow)) = (&block, &allow)
            && let Some(both) = block.iter().find(|set| allow.contains(set))
        {
            fields.error(
                "block",
                format!("the set {both} cannot be both blocked and allowed"),
            );
        }
        fields.finish();
        Some(Self {
            block: block?,
            allow: allow?,
            per_source: per_source?,
        })
    }
}

impl Nat {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let addresses = fields.optional("addresses", Vec::new(), |list| {
            list.set("address", |item| item.parse_with(host_address))
        });
        let ports = fields.optional("ports", DEFAULT_NAT_PORTS, Place::parse);
        fields.finish();
        Some(Nat {
            addresses: addresses?,
            ports: ports?,
        })
    }
}
