//! What a rule applies to.

use serde::Serialize;

use crate::criteria::{Dscp, IcmpMessage, TcpFlags, Vlan, Wholeness};
use crate::name::Name;
use crate::place::Place;
use crate::scalar::{Family, PortRange, Prefix, Protocol};

/// What a rule applies to: every field that is given must match. An empty list or absent field matches anything.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Match {
    /// Source prefixes, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sources: Vec<Prefix>,
    /// Address sets; a source matches that is in one of these or in one of `sources`. Sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_sets: Vec<Name>,
    /// Address sets that the source must not be in, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_source_sets: Vec<Name>,
    /// Destination prefixes, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destinations: Vec<Prefix>,
    /// Address sets; a destination matches that is in one of these or in one of `destinations`. Sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub destination_sets: Vec<Name>,
    /// Address sets that the destination must not be in, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_destination_sets: Vec<Name>,
    /// Source ports, sorted; only with protocol tcp or udp.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub source_ports: Vec<PortRange>,
    /// Destination ports, sorted; only with protocol tcp or udp.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// The IP protocol.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<Protocol>,
    /// ICMP messages, of the packet's family, sorted; matches only ICMP and `ICMPv6`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub icmp: Vec<IcmpMessage>,
    /// TCP flags; matches only TCP.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tcp_flags: Option<TcpFlags>,
    /// Differentiated services code points, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub dscp: Vec<Dscp>,
    /// Ports where the packet may come in, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ingress: Vec<Name>,
    /// What the frame's 802.1Q tag may say, sorted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vlans: Vec<Vlan>,
    /// Whether the packet must be whole or a fragment.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fragment: Option<Wholeness>,
}

impl Match {
    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        fn list<T: Ord + std::fmt::Display + std::str::FromStr<Err = String>>(
            what: &'static str,
        ) -> impl FnOnce(&Place<'_>) -> Option<Vec<T>> {
            move |place| place.set(what, Place::parse)
        }
        let mut fields = place.mapping()?;
        let sources = fields.optional("sources", Vec::new(), list("prefix"));
        let source_sets = fields.optional("sourceSets", Vec::new(), list("address set"));
        let not_source_sets = fields.optional("notSourceSets", Vec::new(), list("address set"));
        let destinations = fields.optional("destinations", Vec::new(), list("prefix"));
        let destination_sets = fields.optional("destinationSets", Vec::new(), list("address set"));
        let not_destination_sets =
            fields.optional("notDestinationSets", Vec::new(), list("address set"));
        let source_ports = fields.optional("sourcePorts", Vec::new(), list("port range"));
        let ports = fields.optional("ports", Vec::new(), list("port range"));
        let protocol = fields.optional("protocol", None, |protocol| protocol.parse().map(Some));
        let icmp = fields.optional("icmp", Vec::new(), |list| {
            list.set("message", IcmpMessage::decode)
        });
        let tcp_flags =
            fields.optional("tcpFlags", None, |flags| TcpFlags::decode(flags).map(Some));
        let dscp = fields.optional("dscp", Vec::new(), list("DSCP"));
        let ingress = fields.optional("ingress", Vec::new(), list("port"));
        let vlans = fields.optional("vlans", Vec::new(), list("VLAN"));
        let fragment = fields.optional("fragment", None, |word| word.parse().map(Some));
        fields.finish();
        let matches = Match {
            sources: sources?,
            source_sets: source_sets?,
            not_source_sets: not_source_sets?,
            destinations: destinations?,
            destination_sets: destination_sets?,
            not_destination_sets: not_destination_sets?,
            source_ports: source_ports?,
            ports: ports?,
            protocol: protocol?,
            icmp: icmp?,
            tcp_flags: tcp_flags?,
            dscp: dscp?,
            ingress: ingress?,
            vlans: vlans?,
            fragment: fragment?,
        };
        matches.check(place);
        Some(matches)
    }

    /// Refuses matches that can never be true.
    fn check(&self, place: &Place<'_>) {
        let refuse = |field: &str, message: String| {
            place.error_at(&format!("{}.{field}", place.path()), message);
        };
        self.check_protocol(&refuse);
        self.check_addresses(place, &refuse);
    }

    /// Ports, messages and flags against the protocol, and against each other.
    fn check_protocol(&self, refuse: &impl Fn(&str, String)) {
        for (field, ports) in [("sourcePorts", &self.source_ports), ("ports", &self.ports)] {
            if !ports.is_empty() && !self.protocol.is_some_and(Protocol::has_ports) {
                let message = match self.protocol {
                    None => "ports need `protocol: tcp` or `protocol: udp` beside them".to_owned(),
                    Some(protocol) => format!("protocol {protocol} has no ports to match"),
                };
                refuse(field, message);
            }
        }
        if let (false, Some(protocol)) = (self.icmp.is_empty(), self.protocol)
            && !protocol.is_icmp()
        {
            refuse("icmp", format!("protocol {protocol} has no ICMP messages"));
        }
        if let (Some(_), Some(protocol)) = (&self.tcp_flags, self.protocol)
            && protocol != Protocol::TCP
        {
            refuse("tcpFlags", format!("protocol {protocol} has no TCP flags"));
        }
        if self.tcp_flags.is_some() && !self.icmp.is_empty() {
            let message = "no packet has TCP flags and is an ICMP message, so nothing can match";
            refuse("tcpFlags", message.to_owned());
        }
        if self.fragment == Some(Wholeness::Later) {
            for (field, is_given) in [
                ("sourcePorts", !self.source_ports.is_empty()),
                ("ports", !self.ports.is_empty()),
                ("icmp", !self.icmp.is_empty()),
                ("tcpFlags", self.tcp_flags.is_some()),
            ] {
                if is_given {
                    refuse(
                        field,
                        "a later fragment has no L4 header to match, so nothing can match"
                            .to_owned(),
                    );
                }
            }
        }
    }

    fn check_addresses(&self, place: &Place<'_>, refuse: &impl Fn(&str, String)) {
        for (field, wanted, unwanted) in [
            ("notSourceSets", &self.source_sets, &self.not_source_sets),
            (
                "notDestinationSets",
                &self.destination_sets,
                &self.not_destination_sets,
            ),
        ] {
            if let Some(set) = wanted.iter().find(|set| unwanted.contains(set)) {
                refuse(
                    field,
                    format!("the set {set} cannot be both wanted and not wanted"),
                );
            }
        }
        let families = [Family::V4, Family::V6].map(|family| {
            let source = can_be(&self.sources, &self.source_sets, family);
            let destination = can_be(&self.destinations, &self.destination_sets, family);
            source && destination && self.protocol.is_none_or(|one| one.is_possible_in(family))
        });
        if families == [false; 2] {
            let message = if can_be_both(self) {
                "the addresses are of a family that the protocol is not, so nothing can match"
            } else {
                "sources and destinations are of different families, so nothing can match"
            };
            place.error(message.to_owned());
        }
    }
}

/// Whether an address of this family can match; what a set holds is not known here.
fn can_be(prefixes: &[Prefix], sets: &[Name], family: Family) -> bool {
    !sets.is_empty()
        || prefixes.is_empty()
        || prefixes.iter().any(|prefix| prefix.family() == family)
}

fn can_be_both(matches: &Match) -> bool {
    [Family::V4, Family::V6].into_iter().any(|family| {
        can_be(&matches.sources, &matches.source_sets, family)
            && can_be(&matches.destinations, &matches.destination_sets, family)
    })
}
