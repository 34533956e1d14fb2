//! `Port`: a network interface of a node that the data plane drives.

use std::fmt;
use std::net::IpAddr;
use std::str::FromStr;

use serde::Serialize;

use crate::name::{InterfaceName, Name, serialize_as_text, shorten};
use crate::place::Place;
use crate::scalar::{PortRange, host_address};

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
    /// Source addresses and ports towards backends, in mode `full_nat`.
    pub nat: Nat,
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
        fields.finish();
        Some(Port {
            node: node?,
            interface: interface?,
            tier: tier?,
            nat: nat?,
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
