//! Rules, address sets and limits of a configuration fragment.

use march_tables::{
    Action, AddressSet, Criteria, IcmpMessage, Limit, LimitScope, LimitUnit, Mirror, PrefixSet,
    Redirect, Rule, SourceNat, Stance, TcpFlags, Treatment, Vlan, Wholeness,
};

use super::{Draft, Read, port_range, prefix, protocol};

impl Draft {
    pub(super) fn rule(&self, read: &Read<'_>) -> Result<Rule, String> {
        Ok(Rule {
            name: read.text(0)?.into(),
            priority: read.parsed("priority")?.unwrap_or(0),
            sources: read.list("sources", prefix)?,
            destinations: read.list("destinations", prefix)?,
            source_ports: read.list("source_ports", port_range)?,
            ports: read.list("ports", port_range)?,
            protocol: read.field("protocol").map(protocol).transpose()?,
            criteria: self.criteria(read)?,
            action: match read.required("action")? {
                "allow" => Action::Allow,
                "drop" => Action::Drop,
                "reject" => Action::Reject,
                "count" => Action::Count,
                "punt" => Action::Punt,
                "redirect" => Action::Redirect(self.redirect(read.required("to")?)?),
                other => return Err(format!("no action `{other}`")),
            },
            treatment: self.treatment(read)?,
            ..Rule::vacant()
        })
    }

    fn criteria(&self, read: &Read<'_>) -> Result<Criteria, String> {
        let sets = |name| read.list(name, |set| self.set_id(set));
        Ok(Criteria {
            source_sets: sets("source_sets")?,
            destination_sets: sets("destination_sets")?,
            not_source_sets: sets("not_source_sets")?,
            not_destination_sets: sets("not_destination_sets")?,
            icmp: read.list("icmp", icmp)?,
            tcp_flags: read.field("tcp_flags").map(tcp_flags).transpose()?,
            dscp: read
                .list("dscp", dscp)?
                .into_iter()
                .fold(0, |set, dscp| set | 1 << dscp),
            ingress: read.list("ingress", |port| self.port_id(port))?,
            vlans: read.list("vlans", vlan)?,
            fragment: match read.field("fragment") {
                None => None,
                Some("whole") => Some(Wholeness::Whole),
                Some("fragment") => Some(Wholeness::Fragment),
                Some("first") => Some(Wholeness::First),
                Some("later") => Some(Wholeness::Later),
                Some(other) => return Err(format!("no `fragment={other}`")),
            },
        })
    }

    /// `service:NAME`, `port:NAME`, or `ADDRESS,PORT` with 0 for the port as it is.
    fn redirect(&self, text: &str) -> Result<Redirect, String> {
        if let Some(name) = text.strip_prefix("service:") {
            return Ok(Redirect::Service(self.service_id(name)?));
        }
        if let Some(name) = text.strip_prefix("port:") {
            return Ok(Redirect::Port(self.port_id(name)?));
        }
        let wrong = || format!("`to={text}`: service:NAME, port:NAME or ADDRESS,PORT");
        let (address, port) = text.split_once(',').ok_or_else(wrong)?;
        Ok(Redirect::Address {
            address: address.parse().map_err(|_| wrong())?,
            port: port.parse().map_err(|_| wrong())?,
        })
    }

    fn treatment(&self, read: &Read<'_>) -> Result<Treatment, String> {
        let mirror = |text: &str| {
            let (port, rate) = text.split_once(',').unwrap_or((text, "1000000"));
            Ok::<_, String>(Mirror {
                port: self.port_id(port)?,
                per_second: rate.parse().map_err(|_| format!("`{rate}` is no rate"))?,
            })
        };
        Ok(Treatment {
            mark: read.field("mark").map(dscp).transpose()?,
            mirror: read.field("mirror").map(mirror).transpose()?,
            limit: read
                .field("limit")
                .map(|name| self.limit_id(name))
                .transpose()?,
            source_nat: match read.field("source_nat") {
                None | Some("keep") => SourceNat::Keep,
                Some("masquerade") => SourceNat::Masquerade,
                Some(other) => return Err(format!("no `source_nat={other}`")),
            },
        })
    }
}

/// A set with the prefixes behind its name. What it holds is what it is known by.
pub(super) fn set(read: &Read<'_>) -> Result<AddressSet, String> {
    let words = read.statement.words.get(1..).unwrap_or_default();
    let prefixes = words
        .iter()
        .map(|text| prefix(text))
        .collect::<Result<Vec<_>, _>>()?;
    let mut content = [0_u8; 32];
    for (at, byte) in words.join(" ").bytes().enumerate() {
        let place = &mut content[at % 32];
        *place = place.rotate_left(3) ^ byte;
    }
    Ok(AddressSet {
        name: read.text(0)?.into(),
        content,
        prefixes: std::sync::Arc::new(PrefixSet::new(&prefixes)),
    })
}

pub(super) fn limit(read: &Read<'_>) -> Result<Limit, String> {
    let (unit, per_second) = match (read.parsed("packets")?, read.parsed("bits")?) {
        (Some(packets), None) => (LimitUnit::Packets, packets),
        (None, Some(bits)) => (LimitUnit::Bits, bits),
        _ => return Err("either `packets=` or `bits=`".to_owned()),
    };
    Ok(Limit {
        name: read.text(0)?.into(),
        scope: match read.field("per") {
            None | Some("shared") => LimitScope::Shared,
            Some("service") => LimitScope::Service,
            Some("source") => LimitScope::Source {
                v4: read.parsed("v4")?.unwrap_or(32),
                v6: read.parsed("v6")?.unwrap_or(128),
            },
            Some(other) => return Err(format!("no `per={other}`")),
        },
        unit,
        per_second,
        burst: read.parsed("burst")?.unwrap_or(per_second),
    })
}

pub(super) fn stance(read: &Read<'_>, name: &str, default: Stance) -> Result<Stance, String> {
    match read.field(name) {
        None => Ok(default),
        Some("allow") => Ok(Stance::Allow),
        Some("deny") => Ok(Stance::Deny),
        Some(other) => Err(format!("`{name}={other}`: allow or deny")),
    }
}

/// A type, or a type and a code: `8`, `3/1`.
fn icmp(text: &str) -> Result<IcmpMessage, String> {
    let number = |text: &str| {
        text.parse::<u8>()
            .map_err(|_| format!("`{text}` is no ICMP number"))
    };
    Ok(match text.split_once('/') {
        Some((kind, code)) => IcmpMessage {
            kind: number(kind)?,
            code: Some(number(code)?),
        },
        None => IcmpMessage {
            kind: number(text)?,
            code: None,
        },
    })
}

/// What must be set of what is looked at: `S/SA`.
fn tcp_flags(text: &str) -> Result<TcpFlags, String> {
    let bits = |letters: &str| {
        letters.chars().try_fold(0_u8, |flags, letter| {
            let bit = "FSRPAUEC".find(letter);
            bit.map(|bit| flags | 1 << bit)
                .ok_or_else(|| format!("no TCP flag `{letter}`"))
        })
    };
    let (value, mask) = text.split_once('/').unwrap_or((text, text));
    Ok(TcpFlags {
        mask: bits(mask)?,
        value: bits(value)?,
    })
}

fn dscp(text: &str) -> Result<u8, String> {
    let number = text.parse().ok().filter(|number| *number < 64);
    number.ok_or_else(|| format!("`{text}` is no DSCP"))
}

fn vlan(text: &str) -> Result<Vlan, String> {
    if text == "untagged" {
        return Ok(Vlan::Untagged);
    }
    let ids = port_range(text)?;
    Ok(Vlan::Ids(ids.first, ids.last))
}
