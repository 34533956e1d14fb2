//! Which packets a trace is about.

use core::net::IpAddr;
use core::str::FromStr;

use march_tables::PortId;
use march_wire::parse::L4;
use march_wire::tuple::IpPrefix;
use march_wire::{DropReason, Packet, Verdict};

/// What must hold of a packet; all of it. The default holds of every one.
///
/// As text: words in any order, `host P`, `src P`, `dst P` (P an address or a prefix), `port N`, `sport N`, `dport N`,
/// `tcp`, `udp`, `icmp`, `icmpv6` or `proto N`, `in PORT`, `drop` or `drop REASON`, `forward`, `answer`, `punt`, `hold`.
/// What has a source or a destination matches the packets of both directions.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TraceFilter {
    host: Option<IpPrefix>,
    src: Option<IpPrefix>,
    dst: Option<IpPrefix>,
    port: Option<u16>,
    src_port: Option<u16>,
    dst_port: Option<u16>,
    protocol: Option<u8>,
    ingress: Option<PortId>,
    outcome: Option<Outcome>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Outcome {
    Forward,
    Answer,
    Punt,
    Hold,
    Drop(Option<DropReason>),
}

/// Why a text is no filter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// Not one of the words.
    #[error(
        "`{0}` is not a word of a filter: host, src, dst, port, sport, dport, tcp, udp, icmp, icmpv6, proto, in, drop, forward, answer, punt or hold"
    )]
    Word(String),
    /// Nothing behind a word that needs something.
    #[error("`{0}` needs something behind it")]
    Missing(String),
    /// What is behind a word is wrong.
    #[error("`{word} {value}`: {why}")]
    Value {
        /// The word.
        word: String,
        /// What is behind it.
        value: String,
        /// What is wrong.
        why: String,
    },
    /// A word twice.
    #[error("`{0}` is given twice")]
    Twice(String),
}

/// What a filter looks at in one frame. No address where it is not an IP packet.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sight {
    ends: Option<(IpAddr, IpAddr)>,
    ports: (u16, u16),
    protocol: u8,
}

impl Sight {
    pub fn of(frame: &[u8]) -> Self {
        let Ok(Packet::Ip(packet)) = march_wire::parse(frame) else {
            return Self::default();
        };
        Self {
            ends: packet.ip_addresses(frame),
            ports: match packet.l4 {
                L4::Tcp { .. } | L4::Udp { .. } => packet.ports(),
                L4::Icmp { .. } | L4::Other => (0, 0),
            },
            protocol: packet.protocol,
        }
    }
}

impl TraceFilter {
    /// Reads a filter; `port_of` gives the number of a port by its name.
    pub fn parse(
        text: &str,
        port_of: impl Fn(&str) -> Option<PortId>,
    ) -> Result<Self, FilterError> {
        let mut filter = Self::default();
        let mut words = text.split_whitespace().peekable();
        while let Some(word) = words.next() {
            match word {
                "tcp" => once(&mut filter.protocol, word, 6)?,
                "udp" => once(&mut filter.protocol, word, 17)?,
                "icmp" => once(&mut filter.protocol, word, 1)?,
                "icmpv6" => once(&mut filter.protocol, word, 58)?,
                "forward" => once(&mut filter.outcome, word, Outcome::Forward)?,
                "answer" => once(&mut filter.outcome, word, Outcome::Answer)?,
                "punt" => once(&mut filter.outcome, word, Outcome::Punt)?,
                "hold" => once(&mut filter.outcome, word, Outcome::Hold)?,
                "drop" => {
                    let reason = words.peek().and_then(|next| reason_of(next));
                    if reason.is_some() {
                        words.next();
                    }
                    once(&mut filter.outcome, word, Outcome::Drop(reason))?;
                }
                "host" | "src" | "dst" | "port" | "sport" | "dport" | "proto" | "in" => {
                    let value = words
                        .next()
                        .ok_or_else(|| FilterError::Missing(word.to_owned()))?;
                    filter.set(word, value, &port_of)?;
                }
                _ => return Err(FilterError::Word(word.to_owned())),
            }
        }
        Ok(filter)
    }

    fn set(
        &mut self,
        word: &str,
        value: &str,
        port_of: &impl Fn(&str) -> Option<PortId>,
    ) -> Result<(), FilterError> {
        match word {
            "host" => once(&mut self.host, word, prefix(word, value)?),
            "src" => once(&mut self.src, word, prefix(word, value)?),
            "dst" => once(&mut self.dst, word, prefix(word, value)?),
            "port" => once(&mut self.port, word, number(word, value)?),
            "sport" => once(&mut self.src_port, word, number(word, value)?),
            "dport" => once(&mut self.dst_port, word, number(word, value)?),
            "proto" => once(&mut self.protocol, word, number(word, value)?),
            _ => {
                let port = port_of(value)
                    .ok_or_else(|| refused(word, value, "this node drives no port of that name"))?;
                once(&mut self.ingress, word, port)
            }
        }
    }

    /// Whether a packet is one of those, leaving aside what became of it.
    pub(super) fn matches_packet(&self, ingress: PortId, sight: &Sight) -> bool {
        if self.ingress.is_some_and(|wanted| wanted != ingress) {
            return false;
        }
        if self.protocol.is_some_and(|wanted| wanted != sight.protocol) {
            return false;
        }
        let Some((src, dst)) = sight.ends else {
            return !self.looks_at_ends() && self.protocol.is_none();
        };
        let (src_port, dst_port) = sight.ports;
        self.matches_ends((src, src_port), (dst, dst_port))
            || self.matches_ends((dst, dst_port), (src, src_port))
    }

    fn looks_at_ends(&self) -> bool {
        let addresses = [&self.host, &self.src, &self.dst];
        let ports = [&self.port, &self.src_port, &self.dst_port];
        addresses.iter().any(|one| one.is_some()) || ports.iter().any(|one| one.is_some())
    }

    fn matches_ends(&self, (src, src_port): (IpAddr, u16), (dst, dst_port): (IpAddr, u16)) -> bool {
        let within = |wanted: Option<IpPrefix>, address| {
            wanted.is_none_or(|prefix| prefix.contains(address))
        };
        (within(self.host, src) || within(self.host, dst))
            && within(self.src, src)
            && within(self.dst, dst)
            && self
                .port
                .is_none_or(|port| port == src_port || port == dst_port)
            && self.src_port.is_none_or(|port| port == src_port)
            && self.dst_port.is_none_or(|port| port == dst_port)
    }

    /// Whether what became of a packet is what the filter asks for.
    pub(super) fn matches_verdict(&self, verdict: Verdict) -> bool {
        match (self.outcome, verdict) {
            (None, _)
            | (Some(Outcome::Forward), Verdict::Forward { .. })
            | (Some(Outcome::Answer), Verdict::Answer { .. })
            | (Some(Outcome::Punt), Verdict::Punt)
            | (Some(Outcome::Hold), Verdict::Hold)
            | (Some(Outcome::Drop(None)), Verdict::Drop(_)) => true,
            (Some(Outcome::Drop(Some(wanted))), Verdict::Drop(reason)) => wanted == reason,
            _ => false,
        }
    }
}

fn once<T>(place: &mut Option<T>, word: &str, value: T) -> Result<(), FilterError> {
    if place.replace(value).is_some() {
        return Err(FilterError::Twice(word.to_owned()));
    }
    Ok(())
}

fn refused(word: &str, value: &str, why: &str) -> FilterError {
    FilterError::Value {
        word: word.to_owned(),
        value: value.to_owned(),
        why: why.to_owned(),
    }
}

fn prefix(word: &str, value: &str) -> Result<IpPrefix, FilterError> {
    if let Ok(address) = IpAddr::from_str(value) {
        return Ok(IpPrefix::host(address));
    }
    value
        .parse()
        .map_err(|error: march_wire::tuple::PrefixError| refused(word, value, &error.to_string()))
}

fn number<T: FromStr>(word: &str, value: &str) -> Result<T, FilterError> {
    value
        .parse()
        .map_err(|_| refused(word, value, "not such a number"))
}

fn reason_of(word: &str) -> Option<DropReason> {
    DropReason::ALL
        .iter()
        .copied()
        .find(|reason| reason.as_str() == word)
}

#[cfg(test)]
mod tests {
    use super::*;
    use core::net::Ipv4Addr;
    use march_wire::build::PacketBuilder;

    fn filter(text: &str) -> TraceFilter {
        TraceFilter::parse(text, |name| (name == "wan0").then_some(3)).expect("a filter")
    }

    fn sight() -> Sight {
        let frame =
            PacketBuilder::new(Ipv4Addr::new(198, 51, 100, 7), Ipv4Addr::new(192, 0, 2, 10))
                .macs([2; 6], [4; 6])
                .tcp(4000, 80, 2)
                .build();
        Sight::of(&frame)
    }

    #[test]
    fn both_directions_match() {
        for text in [
            "",
            "host 192.0.2.10",
            "src 198.51.100.0/24 dst 192.0.2.10 dport 80",
            "src 192.0.2.10 dst 198.51.100.7 sport 80 dport 4000 tcp",
            "port 4000 proto 6",
            "in wan0 tcp",
        ] {
            assert!(filter(text).matches_packet(3, &sight()), "{text}");
        }
        for text in [
            "udp",
            "host 192.0.2.11",
            "src 198.51.100.7 sport 80",
            "src 198.51.100.7 dst 198.51.100.7",
            "port 81",
            "host 2001:db8::1",
        ] {
            assert!(!filter(text).matches_packet(3, &sight()), "{text}");
        }
        assert!(!filter("in wan0").matches_packet(2, &sight()));
        // What is not IP has neither ends nor a protocol.
        assert!(filter("in wan0").matches_packet(3, &Sight::default()));
        assert!(!filter("port 0").matches_packet(3, &Sight::default()));
    }

    #[test]
    fn outcomes_are_told_apart() {
        let dropped = Verdict::Drop(DropReason::RuleDrop);
        assert!(filter("drop").matches_verdict(dropped));
        assert!(filter("drop rule_drop").matches_verdict(dropped));
        assert!(!filter("drop no_service").matches_verdict(dropped));
        assert!(!filter("forward").matches_verdict(dropped));
        assert!(filter("forward").matches_verdict(Verdict::Forward { port: 1 }));
    }

    #[test]
    fn wrong_words_are_named() {
        let refused = |text: &str| {
            TraceFilter::parse(text, |_| None)
                .expect_err("refused")
                .to_string()
        };
        assert!(refused("sorce 1.2.3.4").starts_with("`sorce` is not a word"));
        assert_eq!(refused("src"), "`src` needs something behind it");
        assert_eq!(refused("port 70000"), "`port 70000`: not such a number");
        assert_eq!(refused("tcp udp"), "`udp` is given twice");
        assert_eq!(
            refused("in lan9"),
            "`in lan9`: this node drives no port of that name"
        );
        assert!(refused("src 10.0.0.1/8").contains("10.0.0.0/8"));
    }
}
