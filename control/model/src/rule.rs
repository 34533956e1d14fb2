//! `Rule`: a match and an action.

use std::net::IpAddr;

use serde::Serialize;
use serde::ser::SerializeMap;

use crate::criteria::Dscp;
use crate::matches::Match;
use crate::name::Name;
use crate::place::Place;
use crate::scalar::{Family, Prefix, Protocol, host_address, port_number, words};
use crate::time::Timestamp;

/// The largest number that `priority` takes.
pub const MAX_PRIORITY: u32 = 1_000_000;
/// The default of `mirror.packetsPerSecond`.
pub const DEFAULT_MIRROR_RATE: u32 = 10_000;
/// The most that `mirror.packetsPerSecond` takes.
pub const MAX_MIRROR_RATE: u32 = 10_000_000;

/// The spec of a `Rule`. Rules are looked at by priority, lower first, then by name (bytewise); the first that matches
/// decides.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Rule {
    /// Lower is looked at first; up to [`MAX_PRIORITY`].
    pub priority: u32,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// What it applies to.
    #[serde(rename = "match")]
    pub matches: Match,
    /// What happens.
    pub action: Action,
    /// Where to; with action redirect, and only then.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub redirect: Option<Redirect>,
    /// DSCP written into what it lets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mark: Option<Dscp>,
    /// Where copies of what it lets through go.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mirror: Option<Mirror>,
    /// The name of the `RateLimit` on what it lets through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub rate_limit: Option<Name>,
    /// What happens to the source address of transit that it lets through.
    #[serde(skip_serializing_if = "SourceNat::is_default")]
    pub source_nat: SourceNat,
}

/// What a rule does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the service, or through the box as transit.
    Allow,
    /// Dropped, counted as `rule_drop`.
    Drop,
    /// Dropped, and the sender is told: TCP by RST, all else by an ICMP error.
    Reject,
    /// Counted, and then as if no rule had matched.
    Count,
    /// To the kernel.
    Punt,
    /// Elsewhere.
    Redirect,
}

words!(Action, "an action", Allow "allow", Drop "drop", Reject "reject", Count "count", Punt "punt", Redirect "redirect");

impl Action {
    /// Whether packets go on after it, so that there is something to mark, copy, limit or translate.
    pub const fn lets_through(self) -> bool {
        matches!(self, Self::Allow | Self::Count | Self::Redirect)
    }
}

/// Where a redirected packet goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Redirect {
    /// To a service, as if it had been sent there.
    Service(Name),
    /// To an address; the destination is rewritten, the source kept.
    Address {
        /// The new destination.
        address: IpAddr,
        /// The new destination port; none: as it is.
        port: Option<u16>,
    },
    /// Unchanged, out of a port.
    Port(Name),
}

impl Serialize for Redirect {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(None)?;
        match self {
            Self::Service(name) => map.serialize_entry("service", name)?,
            Self::Port(name) => map.serialize_entry("port", name)?,
            Self::Address { address, port } => {
                map.serialize_entry("address", address)?;
                if let Some(port) = port {
                    map.serialize_entry("port", port)?;
                }
            }
        }
        map.end()
    }
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// The name of the port that they leave by.
    pub port: Name,
    /// How many at most, 1 to [`MAX_MIRROR_RATE`].
    pub packets_per_second: u32,
}

/// What happens to the source address of transit.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum SourceNat {
    /// It stays.
    #[default]
    Keep,
    /// It becomes one of the egress port's.
    Masquerade,
}

words!(SourceNat, "a source translation", Keep "keep", Masquerade "masquerade");

impl SourceNat {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde calls it")]
    fn is_default(&self) -> bool {
        *self == Self::default()
    }
}

impl Rule {
    /// Whether it is there at this moment.
    pub fn is_effective(&self, now: Timestamp) -> bool {
        self.expires_at.is_none_or(|end| end > now)
    }

    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let priority = fields.required("priority", |priority| priority.number(0, MAX_PRIORITY));
        let expires_at = fields.optional("expiresAt", None, |end| end.parse().map(Some));
        let matches = fields.optional("match", Match::default(), Match::decode);
        let action = fields.required("action", Place::parse);
        let redirect = fields.optional("redirect", None, |target| {
            Redirect::decode(target).map(Some)
        });
        let mark = fields.optional("mark", None, |mark| mark.parse().map(Some));
        let mirror = fields.optional("mirror", None, |mirror| Mirror::decode(mirror).map(Some));
        let rate_limit = fields.optional("rateLimit", None, |limit| limit.parse().map(Some));
        let source_nat = fields.optional("sourceNat", SourceNat::Keep, Place::parse);
        match (action, &redirect) {
            (Some(Action::Redirect), Some(None)) => fields.error(
                "redirect",
                "action redirect needs `redirect` with a service, an address or a port".to_owned(),
            ),
            (Some(action), Some(Some(_))) if action != Action::Redirect => fields.error(
                "redirect",
                format!("action {action} sends nothing elsewhere; write `action: redirect`"),
            ),
            _ => {}
        }
        fields.finish();
        let rule = Rule {
            priority: priority?,
            expires_at: expires_at?,
            matches: matches?,
            action: action?,
            redirect: redirect?,
            mark: mark?,
            mirror: mirror?,
            rate_limit: rate_limit?,
            source_nat: source_nat?,
        };
        rule.check(place);
        Some(rule)
    }

    /// Refuses what has no effect or cannot be done.
    fn check(&self, place: &Place<'_>) {
        let refuse = |field: &str, message: String| {
            place.error_at(&format!("{}.{field}", place.path()), message);
        };
        for (field, is_given) in [
            ("mark", self.mark.is_some()),
            ("mirror", self.mirror.is_some()),
            ("rateLimit", self.rate_limit.is_some()),
            ("sourceNat", self.source_nat != SourceNat::Keep),
        ] {
            if is_given && !self.action.lets_through() {
                let message = format!(
                    "action {} lets nothing through that this could be done to",
                    self.action
                );
                refuse(field, message);
            }
        }
        if let Some(mirror) = &self.mirror
            && self.matches.ingress.contains(&mirror.port)
        {
            let message = format!(
                "copies would leave by {}, where the packets come in",
                mirror.port
            );
            refuse("mirror.port", message);
        }
        match &self.redirect {
            Some(Redirect::Service(_)) if self.source_nat == SourceNat::Masquerade => refuse(
                "sourceNat",
                "only transit is masqueraded; a service translates by its own mode".to_owned(),
            ),
            Some(Redirect::Port(port)) if self.matches.ingress.contains(port) => refuse(
                "redirect.port",
                format!("packets that come in by {port} would leave by {port}"),
            ),
            Some(Redirect::Address { address, port }) => {
                self.check_address(*address, *port, &refuse);
            }
            _ => {}
        }
    }

    fn check_address(&self, address: IpAddr, port: Option<u16>, refuse: &impl Fn(&str, String)) {
        if port.is_some() && !self.matches.protocol.is_some_and(Protocol::has_ports) {
            let message = "a port needs `protocol: tcp` or `protocol: udp` in `match`";
            refuse("redirect.port", message.to_owned());
        }
        let family = Family::of(address);
        let is_other = |prefix: &Prefix| prefix.family() != family;
        let Match {
            sources,
            source_sets,
            destinations,
            destination_sets,
            ..
        } = &self.matches;
        let never = |prefixes: &[Prefix], sets: &[Name]| {
            sets.is_empty() && !prefixes.is_empty() && prefixes.iter().all(is_other)
        };
        if never(sources, source_sets) || never(destinations, destination_sets) {
            let message = format!("{address} is {family}, and the rule matches none of that");
            refuse("redirect.address", message);
        }
    }
}

impl Redirect {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let service = fields.optional("service", None, |name| name.parse().map(Some));
        let address = fields.optional("address", None, |address| {
            address.parse_with(host_address).map(Some)
        });
        let (mut number, mut port) = (Some(None), Some(None));
        if matches!(address, Some(None)) {
            port = fields.optional("port", None, |name| name.parse().map(Some));
        } else {
            number = fields.optional("port", None, |port| port.parse_with(port_number).map(Some));
        }
        fields.finish();
        match (service?, address?, number?, port?) {
            (Some(service), None, None, None) => Some(Self::Service(service)),
            (None, Some(address), port, None) => Some(Self::Address { address, port }),
            (None, None, None, Some(port)) => Some(Self::Port(port)),
            _ => {
                place.error(
                    "write one of {service: NAME}, {address: ADDRESS, port: NUMBER} and {port: NAME}"
                        .to_owned(),
                );
                None
            }
        }
    }
}

impl Mirror {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let port = fields.required("port", Place::parse);
        let packets_per_second = fields.optional("packetsPerSecond", DEFAULT_MIRROR_RATE, |rate| {
            rate.number(1, MAX_MIRROR_RATE)
        });
        fields.finish();
        Some(Self {
            port: port?,
            packets_per_second: packets_per_second?,
        })
    }
}
