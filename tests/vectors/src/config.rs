//! From a configuration fragment to the plain data that a generation is built from.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use march_tables::{
    AddressSet, Affinity, Algorithm, BackendState, Config, Guard, Limit, MirroredNeighbour,
    MirroredRoute, Mode, NatPool, PartialChecksums, PoolBackend, PoolConfig, PortRange, PortTable,
    RouteTarget, Rule, Service, ServiceLimits, Stance, Timeouts, Unmatched,
};
use march_wire::tuple::IpPrefix;

mod rules;

use crate::encode::parse_literal;
use crate::vector::{Fixture, LoadError, Statement};
use rules::{limit, set, stance};

/// Reads the statements of `fixture`.
pub fn tables(fixture: &Fixture) -> Result<Config, LoadError> {
    let mut draft = Draft::default();
    // What is referred to comes first, wherever it was written.
    let rank = |statement: &&Statement| match statement.keyword.as_str() {
        "set" | "limit" => 0,
        "port" => 1,
        "pool" => 2,
        "rule" => 4,
        _ => 3,
    };
    let mut statements: Vec<&Statement> = fixture.statements.iter().collect();
    statements.sort_by_key(rank);
    for statement in statements {
        draft
            .add(statement, fixture)
            .map_err(|message| LoadError::Line {
                path: fixture.path.clone(),
                line: statement.line,
                message: format!("`{}`: {message}", statement.keyword),
            })?;
    }
    Ok(draft.finish())
}

#[derive(Default)]
struct Draft {
    ports: Vec<PortTable>,
    services: Vec<Service>,
    pools: Vec<PoolConfig>,
    rules: Vec<Rule>,
    sets: Vec<AddressSet>,
    limits: Vec<Limit>,
    routes: Vec<MirroredRoute>,
    neighbours: Vec<MirroredNeighbour>,
    local: Vec<IpAddr>,
}

impl Draft {
    fn add(&mut self, statement: &Statement, fixture: &Fixture) -> Result<(), String> {
        let read = Read { statement, fixture };
        match statement.keyword.as_str() {
            "port" => {
                let port = self.port(&read)?;
                self.ports.push(port);
            }
            "set" => self.sets.push(set(&read)?),
            "limit" => self.limits.push(limit(&read)?),
            "local" => self.local.push(read.word(0)?),
            "pool" => self.pools.push(PoolConfig {
                name: read.text(0)?.into(),
                algorithm: match read.field("algorithm") {
                    None | Some("maglev") => Algorithm::Maglev,
                    Some("round_robin") => Algorithm::RoundRobin,
                    Some(other) => return Err(format!("no algorithm `{other}`")),
                },
                backends: Vec::new(),
            }),
            "backend" => self.backend(&read)?,
            "service" => {
                let service = self.service(&read)?;
                self.services.push(service);
            }
            "rule" => {
                let rule = self.rule(&read)?;
                self.rules.push(rule);
            }
            "route" => {
                let route = self.route(&read)?;
                self.routes.push(route);
            }
            "neighbour" => self.neighbours.push(MirroredNeighbour {
                port: self.port_id(read.text(0)?)?,
                address: read.word(1)?,
                mac: read.mac(read.text(2)?)?,
            }),
            _ => return Err("not a word of configurations".to_owned()),
        }
        Ok(())
    }

    fn port_id(&self, name: &str) -> Result<u16, String> {
        index(self.ports.iter().position(|port| &*port.name == name))
            .ok_or_else(|| format!("no port `{name}`"))
    }

    fn set_id(&self, name: &str) -> Result<u16, String> {
        index(self.sets.iter().position(|set| &*set.name == name))
            .ok_or_else(|| format!("no set `{name}`"))
    }

    fn limit_id(&self, name: &str) -> Result<u16, String> {
        index(self.limits.iter().position(|limit| &*limit.name == name))
            .ok_or_else(|| format!("no limit `{name}`"))
    }

    fn service_id(&self, name: &str) -> Result<u16, String> {
        let mut services = self.services.iter();
        index(services.position(|service| &*service.name == name))
            .ok_or_else(|| format!("no service `{name}`"))
    }

    fn pool_id(&self, name: &str) -> Result<u16, String> {
        index(self.pools.iter().position(|pool| &*pool.name == name))
            .ok_or_else(|| format!("no pool `{name}`"))
    }

    fn port(&self, read: &Read<'_>) -> Result<PortTable, String> {
        let range = read.field("nat_ports").map_or(
            Ok(PortRange {
                first: 1,
                last: u16::MAX,
            }),
            port_range,
        )?;
        let address = |text: &str| {
            text.parse::<Ipv4Addr>()
                .map_err(|_| format!("`{text}` is no address"))
        };
        let address6 = |text: &str| {
            text.parse::<Ipv6Addr>()
                .map_err(|_| format!("`{text}` is no address"))
        };
        Ok(PortTable {
            name: read.text(0)?.into(),
            mac: read.mac(read.required("mac")?)?,
            mtu: read.parsed("mtu")?.unwrap_or(1500),
            nat4: NatPool {
                addresses: read.list("nat4", address)?.into(),
                first_port: range.first,
                last_port: range.last,
            },
            nat6: NatPool {
                addresses: read.list("nat6", address6)?.into(),
                first_port: range.first,
                last_port: range.last,
            },
            address4: read.parsed("address4")?,
            address6: read.parsed("address6")?,
            partial_checksums: match read.field("partial_checksums") {
                None | Some("never") => PartialChecksums::Never,
                Some("possible") => PartialChecksums::Possible,
                Some(other) => {
                    return Err(format!("`partial_checksums={other}`: possible or never"));
                }
            },
            unmatched: Unmatched {
                services: stance(read, "services", Stance::Allow)?,
                transit: stance(read, "transit", Stance::Deny)?,
            },
            guard: Guard {
                block: read.list("block", |name| self.set_id(name))?,
                allow: read.list("allow", |name| self.set_id(name))?,
                per_source: match read.field("per_source") {
                    Some(name) => Some(self.limit_id(name)?),
                    None => None,
                },
            },
        })
    }

    fn backend(&mut self, read: &Read<'_>) -> Result<(), String> {
        let pool = usize::from(self.pool_id(read.text(0)?)?);
        let backend = PoolBackend {
            slot: 0,
            address: read.word(1)?,
            port: read.parsed("port")?.unwrap_or(0),
            weight: read.parsed("weight")?.unwrap_or(1),
            state: match read.field("state") {
                None | Some("active") => BackendState::Active,
                Some("draining") => BackendState::Draining,
                Some("down") => BackendState::Down,
                Some("offline") => BackendState::Offline,
                Some(other) => return Err(format!("no state `{other}`")),
            },
        };
        self.pools[pool].backends.push(backend);
        Ok(())
    }

    fn service(&self, read: &Read<'_>) -> Result<Service, String> {
        let ports = port_range(read.required("ports")?)?;
        let address = read.required("address")?;
        Ok(Service {
            name: read.text(0)?.into(),
            address: prefix(address)?,
            protocol: protocol(read.required("protocol")?)?,
            first_port: ports.first,
            last_port: ports.last,
            pool: self.pool_id(read.required("pool")?)?,
            mode: match read.field("mode") {
                None | Some("full_nat") => Mode::FullNat,
                Some("nat") => Mode::Nat,
                Some(other) => return Err(format!("no mode `{other}`")),
            },
            affinity: match read.field("affinity") {
                None | Some("five_tuple") => Affinity::FiveTuple,
                Some("source_ip") => Affinity::SourceIp,
                Some(other) => return Err(format!("no affinity `{other}`")),
            },
            timeouts: Timeouts::default(),
            limits: ServiceLimits {
                new_per_second: read.parsed("new_per_second")?.unwrap_or(0),
                half_open: read.parsed("half_open")?.unwrap_or(0),
            },
        })
    }

    fn route(&self, read: &Read<'_>) -> Result<MirroredRoute, String> {
        let target = match read.text(1)? {
            "blackhole" => RouteTarget::Blackhole,
            "connected" => RouteTarget::Connected {
                port: self.port_id(read.text(2)?)?,
            },
            "via" => RouteTarget::Via {
                gateway: read.word(2)?,
                port: self.port_id(read.text(3)?)?,
            },
            other => return Err(format!("no target `{other}`")),
        };
        Ok(MirroredRoute {
            prefix: prefix(read.text(0)?)?,
            target,
        })
    }

    /// Backends get slots that depend on what they are, not on the order or on who else is there: a slot is stable
    /// from one configuration of a family to the next.
    fn finish(mut self) -> Config {
        let mut slots: BTreeMap<(String, IpAddr, u16), u16> = BTreeMap::new();
        for pool in &self.pools {
            for backend in &pool.backends {
                let next = slots.len();
                let key = (pool.name.to_string(), backend.address, backend.port);
                slots
                    .entry(key)
                    .or_insert(u16::try_from(next).unwrap_or(u16::MAX));
            }
        }
        // Numbered by order of name, address and port, which is the same whatever the states are.
        for (number, slot) in (0..).zip(slots.values_mut()) {
            *slot = number;
        }
        for pool in &mut self.pools {
            for backend in &mut pool.backends {
                let key = (pool.name.to_string(), backend.address, backend.port);
                backend.slot = slots[&key];
            }
        }
        Config {
            revision: 1,
            ports: self.ports.into(),
            services: self.services.into(),
            pools: self.pools.into(),
            rules: self.rules.into(),
            sets: self.sets.into(),
            limits: self.limits.into(),
            routes: self.routes.into(),
            neighbours: self.neighbours.into(),
            local: self.local.into(),
        }
    }
}

/// One statement, with errors that name what is missing.
struct Read<'a> {
    statement: &'a Statement,
    fixture: &'a Fixture,
}

impl<'a> Read<'a> {
    fn text(&self, position: usize) -> Result<&'a str, String> {
        let word = self.statement.words.get(position);
        word.map(String::as_str)
            .ok_or_else(|| format!("word {} is missing", position + 1))
    }

    fn word<T: FromStr>(&self, position: usize) -> Result<T, String> {
        let text = self.text(position)?;
        text.parse().map_err(|_| format!("`{text}` makes no sense"))
    }

    fn field(&self, name: &str) -> Option<&'a str> {
        self.statement.fields.get(name).map(String::as_str)
    }

    fn required(&self, name: &str) -> Result<&'a str, String> {
        self.field(name)
            .ok_or_else(|| format!("`{name}=` is missing"))
    }

    fn parsed<T: FromStr>(&self, name: &str) -> Result<Option<T>, String> {
        self.field(name)
            .map(|text| {
                text.parse()
                    .map_err(|_| format!("`{name}={text}` makes no sense"))
            })
            .transpose()
    }

    fn list<T>(
        &self,
        name: &str,
        read: impl Fn(&str) -> Result<T, String>,
    ) -> Result<Vec<T>, String> {
        self.field(name)
            .map_or(Ok(Vec::new()), |text| text.split(',').map(read).collect())
    }

    fn mac(&self, text: &str) -> Result<[u8; 6], String> {
        let text = self
            .fixture
            .names
            .values
            .get(text)
            .map_or(text, String::as_str);
        let bytes = parse_literal(text, 6).ok_or_else(|| format!("`{text}` is no MAC address"))?;
        bytes
            .try_into()
            .map_err(|_| format!("`{text}` is no MAC address"))
    }
}

fn protocol(text: &str) -> Result<u8, String> {
    parse_literal(text, 1)
        .and_then(|bytes| bytes.first().copied())
        .ok_or_else(|| format!("no protocol `{text}`"))
}

fn port_range(text: &str) -> Result<PortRange, String> {
    let (first, last) = text.split_once('-').unwrap_or((text, text));
    let number = |text: &str| text.parse().map_err(|_| format!("`{text}` is no port"));
    Ok(PortRange {
        first: number(first)?,
        last: number(last)?,
    })
}

/// A prefix, or an address that stands for itself.
fn prefix(text: &str) -> Result<IpPrefix, String> {
    let wrong = || format!("`{text}` is no prefix");
    let (address, len) = text.split_once('/').unwrap_or((text, ""));
    let address: IpAddr = address.parse().map_err(|_| wrong())?;
    let len = match (len, address) {
        ("", IpAddr::V4(_)) => 32,
        ("", IpAddr::V6(_)) => 128,
        (len, _) => len.parse().map_err(|_| wrong())?,
    };
    IpPrefix::new(address, len).map_err(|error| format!("`{text}`: {error}"))
}

fn index(position: Option<usize>) -> Option<u16> {
    position.and_then(|position| u16::try_from(position).ok())
}
