//! Where a rule or a service runs, and why: one table of what each place can do.

use std::fmt;

use crate::port::{Guard, Port, Unmatched};
use crate::rule::{Action, Redirect, Rule, SourceNat};
use crate::scalar::Protocol;
use crate::service::{Service, ServiceLimits};

/// A place where packets or connections are decided about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Plane {
    /// The lcores of a node whose ports run at a fast tier: dpdk or `af_xdp`.
    FastPath,
    /// The sockets of a node whose ports run at the socket tier.
    SocketTier,
}

impl fmt::Display for Plane {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(match self {
            Self::FastPath => "fast path",
            Self::SocketTier => "socket tier",
        })
    }
}

/// Where a thing runs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ExecutionPlace {
    /// The places that can do all of it, the fastest first.
    pub places: Vec<Plane>,
    /// Why there and nowhere else.
    pub reason: String,
    /// What it asks for that the socket tier cannot do. A node at that tier refuses the document.
    pub beyond_sockets: Vec<Need>,
}

/// Something that a document asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Need {
    /// The field that asks for it.
    pub path: &'static str,
    /// What it is, in words.
    pub what: &'static str,
    /// Why the socket tier cannot do it; none: it can.
    pub not_in_sockets: Option<&'static str>,
}

/// Every need, once. The fast path can do all of them.
macro_rules! needs {
    ($($name:ident: $path:literal, $what:literal, $sockets:expr;)+) => {
        $(const $name: Need = Need { path: $path, what: $what, not_in_sockets: $sockets };)+
    };
}

const NO_PACKETS: Option<&str> = Some("a socket sees connections, not packets");
const NO_TRANSIT: Option<&str> = Some("nothing passes through sockets but connections to services");

needs! {
    ALLOW: "spec.action", "allow", None;
    DROP: "spec.action", "drop", None;
    COUNT: "spec.action", "count", None;
    REJECT: "spec.action", "reject", Some("a socket has accepted the connection before rules are asked");
    PUNT: "spec.action", "punt", Some("the kernel has the packet already");
    REDIRECT_SERVICE: "spec.redirect.service", "redirect to a service", NO_TRANSIT;
    REDIRECT_ADDRESS: "spec.redirect.address", "redirect to an address", NO_TRANSIT;
    REDIRECT_PORT: "spec.redirect.port", "redirect to a port", NO_PACKETS;
    MARK: "spec.mark", "mark DSCP", NO_PACKETS;
    MIRROR: "spec.mirror", "mirror", NO_PACKETS;
    RATE_LIMIT: "spec.rateLimit", "rate limit", NO_PACKETS;
    MASQUERADE: "spec.sourceNat", "masquerade", NO_TRANSIT;
    PROTOCOL: "spec.match.protocol", "a protocol other than TCP and UDP", Some("sockets are of TCP and UDP");
    ICMP: "spec.match.icmp", "ICMP messages", Some("sockets are of TCP and UDP");
    TCP_FLAGS: "spec.match.tcpFlags", "TCP flags", NO_PACKETS;
    DSCP: "spec.match.dscp", "DSCP", NO_PACKETS;
    INGRESS: "spec.match.ingress", "the port where it comes in", Some("a socket does not know by which interface a client came");
    VLANS: "spec.match.vlans", "VLANs", NO_PACKETS;
    FRAGMENT: "spec.match.fragment", "fragments", NO_PACKETS;
    FORWARD: "spec.mode", "forward at L4", None;
    NEW_CONNECTIONS: "spec.limits.newConnectionsPerSecond", "a limit on new connections", Some("the kernel accepts connections before anything is counted");
    HALF_OPEN: "spec.limits.halfOpen", "a limit on handshakes", Some("the kernel makes the handshakes");
    DEFAULT: "spec.default", "a default of its own", Some("a socket does not know by which interface a client came");
    GUARD: "spec.guard", "a guard", NO_PACKETS;
}

/// Whose place it is.
#[derive(Clone, Copy, Debug)]
pub enum Placed<'a> {
    /// A rule.
    Rule(&'a Rule),
    /// A service.
    Service(&'a Service),
    /// What a port says of packets that come in there.
    Port(&'a Port),
}

/// Where it runs and why.
pub fn execution_place(of: Placed<'_>) -> ExecutionPlace {
    let needs = match of {
        Placed::Rule(rule) => needs_of_rule(rule),
        Placed::Service(service) => needs_of_service(service),
        Placed::Port(port) => needs_of_port(port),
    };
    let beyond: Vec<Need> = needs
        .iter()
        .copied()
        .filter(|need| need.not_in_sockets.is_some())
        .collect();
    let (places, reason) = if beyond.is_empty() {
        let words: Vec<&str> = needs.iter().map(|need| need.what).collect();
        let reason = match words.as_slice() {
            [] => "it asks for nothing".to_owned(),
            words => format!("every tier can {}", words.join(", ")),
        };
        (vec![Plane::FastPath, Plane::SocketTier], reason)
    } else {
        let words = beyond
            .iter()
            .map(|need| format!("{}: {}", need.what, need.not_in_sockets.unwrap_or_default()));
        let words: Vec<String> = words.collect();
        (
            vec![Plane::FastPath],
            format!("only the fast path can ({})", words.join("; ")),
        )
    };
    ExecutionPlace {
        places,
        reason,
        beyond_sockets: beyond,
    }
}

impl ExecutionPlace {
    /// The places in words: `fast path`, or `fast path, socket tier`.
    pub fn words(&self) -> String {
        let words: Vec<String> = self.places.iter().map(ToString::to_string).collect();
        words.join(", ")
    }
}

fn needs_of_rule(rule: &Rule) -> Vec<Need> {
    let action = match (rule.action, &rule.redirect) {
        (Action::Allow, _) => ALLOW,
        (Action::Drop, _) => DROP,
        (Action::Count, _) => COUNT,
        (Action::Reject, _) => REJECT,
        (Action::Punt, _) => PUNT,
        (Action::Redirect, Some(Redirect::Address { .. })) => REDIRECT_ADDRESS,
        (Action::Redirect, Some(Redirect::Port(_))) => REDIRECT_PORT,
        (Action::Redirect, _) => REDIRECT_SERVICE,
    };
    let matches = &rule.matches;
    let rest = [
        (rule.mark.is_some(), MARK),
        (rule.mirror.is_some(), MIRROR),
        (rule.rate_limit.is_some(), RATE_LIMIT),
        (rule.source_nat == SourceNat::Masquerade, MASQUERADE),
        (
            matches
                .protocol
                .is_some_and(|protocol| !Protocol::has_ports(protocol)),
            PROTOCOL,
        ),
        (!matches.icmp.is_empty(), ICMP),
        (matches.tcp_flags.is_some(), TCP_FLAGS),
        (!matches.dscp.is_empty(), DSCP),
        (!matches.ingress.is_empty(), INGRESS),
        (!matches.vlans.is_empty(), VLANS),
        (matches.fragment.is_some(), FRAGMENT),
    ];
    with(action, &rest)
}

fn needs_of_service(service: &Service) -> Vec<Need> {
    let ServiceLimits {
        new_connections_per_second,
        half_open,
    } = service.limits;
    let limits = [
        (new_connections_per_second.is_some(), NEW_CONNECTIONS),
        (half_open.is_some(), HALF_OPEN),
    ];
    with(FORWARD, &limits)
}

fn needs_of_port(port: &Port) -> Vec<Need> {
    let given = [
        (port.unmatched != Unmatched::default(), DEFAULT),
        (port.guard != Guard::default(), GUARD),
    ];
    given
        .iter()
        .filter(|(is_given, _)| *is_given)
        .map(|(_, need)| *need)
        .collect()
}

fn with(first: Need, rest: &[(bool, Need)]) -> Vec<Need> {
    let given = rest.iter().filter(|(is_given, _)| *is_given);
    std::iter::once(first)
        .chain(given.map(|(_, need)| *need))
        .collect()
}
