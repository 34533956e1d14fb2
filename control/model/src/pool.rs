//! `Pool`: the servers behind a service.

use std::net::{IpAddr, SocketAddr};

use serde::Serialize;

use crate::place::Place;
use crate::scalar::{DurationMs, host_address, port_number, words};

/// The largest weight of a backend.
pub const MAX_WEIGHT: u16 = 1_000;

/// The spec of a `Pool`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Pool {
    /// How a new flow gets its backend.
    pub algorithm: Algorithm,
    /// The servers, sorted by address and port; at least one, none twice.
    pub backends: Vec<Backend>,
    /// How the node finds out which servers work; none: all count as working.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<HealthCheck>,
}

/// How a new flow gets its backend.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// Consistent hashing, weighted, the same on every node.
    Maglev,
    /// In turn, weighted.
    RoundRobin,
}

words!(Algorithm, "an algorithm", Maglev "maglev", RoundRobin "round_robin");

/// One server.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Backend {
    /// Its address.
    pub address: IpAddr,
    /// Its port; none: the port that the client asked for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// Its share, 1 to [`MAX_WEIGHT`].
    pub weight: u16,
}

impl Backend {
    /// `address` or `address:port`, with brackets for IPv6.
    pub fn endpoint(&self) -> String {
        match self.port {
            Some(port) => SocketAddr::new(self.address, port).to_string(),
            None => self.address.to_string(),
        }
    }
}

/// How the node finds out whether a server works.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthCheck {
    /// What is tried.
    #[serde(flatten)]
    pub probe: Probe,
    /// The port that is tried; none: the backend's.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u16>,
    /// From one try to the next.
    pub interval: DurationMs,
    /// How long a try may take; shorter than the interval.
    pub timeout: DurationMs,
    /// Successes in a row that bring a backend back, at least 1.
    pub rise: u8,
    /// Failures in a row that take a backend out, at least 1.
    pub fall: u8,
}

/// What a health check tries.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(tag = "type", rename_all = "lowercase")]
pub enum Probe {
    /// A TCP connection is accepted.
    Tcp,
    /// `GET path` over HTTP/1.1 is answered with a status from 200 to 399.
    Http {
        /// Path and query, starting with `/`.
        path: String,
        /// The `Host` header; none: the backend's address.
        #[serde(skip_serializing_if = "Option::is_none")]
        host: Option<String>,
    },
}

#[derive(Clone, Copy)]
enum ProbeType {
    Tcp,
    Http,
}

words!(ProbeType, "a type of health check", Tcp "tcp", Http "http");

impl Pool {
    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let algorithm = fields.optional("algorithm", Algorithm::Maglev, Place::parse);
        let backends = fields.required("backends", backends);
        let health_check = fields.optional("healthCheck", None, |check| {
            HealthCheck::decode(check).map(Some)
        });
        if let (Some(backends), Some(Some(check))) = (&backends, &health_check)
            && check.port.is_none()
            && let Some(backend) = backends.iter().find(|backend| backend.port.is_none())
        {
            fields.error(
                "healthCheck",
                format!(
                    "backend {} has no port of its own, so the check needs `port`",
                    backend.address
                ),
            );
        }
        fields.finish();
        Some(Pool {
            algorithm: algorithm?,
            backends: backends?,
            health_check: health_check?,
        })
    }
}

fn backends(place: &Place<'_>) -> Option<Vec<Backend>> {
    let mut list = place.list(|item| Some((item.path().to_owned(), Backend::decode(item)?)))?;
    if list.is_empty() {
        place.error("the pool is empty; give at least one backend, or delete the pool".to_owned());
        return None;
    }
    list.sort_by_key(|(_, backend)| (backend.address, backend.port));
    let mut unique = true;
    for pair in list.windows(2) {
        let [(first, a), (second, b)] = pair else {
            continue;
        };
        if (a.address, a.port) == (b.address, b.port) {
            place.error_at(
                second,
                format!(
                    "backend {} is in the pool already, at {first}",
                    b.endpoint()
                ),
            );
            unique = false;
        }
    }
    unique.then(|| list.into_iter().map(|(_, backend)| backend).collect())
}

impl Backend {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let address = fields.required("address", |address| {
            address.parse_with(|text| {
                host_address(text).map_err(|error| {
                    let is_name =
                        text.contains(|c: char| c.is_ascii_alphabetic()) && !text.contains(':');
                    if is_name {
                        format!("{error}; a backend is given by address, not by name")
                    } else {
                        error
                    }
                })
            })
        });
        let port = fields.optional("port", None, |port| port.parse_with(port_number).map(Some));
        let weight = fields.optional("weight", 1, |weight| weight.number(1, MAX_WEIGHT));
        fields.finish();
        Some(Backend {
            address: address?,
            port: port?,
            weight: weight?,
        })
    }
}

impl HealthCheck {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let kind = fields.required("type", Place::parse::<ProbeType>);
        let is_http = !matches!(kind, Some(ProbeType::Tcp));
        let (mut path, mut host) = (Some("/".to_owned()), Some(None));
        if is_http {
            path = fields.optional("path", "/".to_owned(), |path| path.parse_with(http_path));
            host = fields.optional("host", None, |host| host.parse_with(http_host).map(Some));
        }
        let port = fields.optional("port", None, |port| port.parse_with(port_number).map(Some));
        let interval = fields.optional("interval", DurationMs::of(2_000), Place::parse);
        let half = interval.map_or(1_000, |interval: DurationMs| {
            (interval.as_millis() / 2).max(1)
        });
        let timeout = fields.optional("timeout", DurationMs::of(half.min(1_000)), Place::parse);
        let rise = fields.optional("rise", 2, |rise| rise.number(1, 255_u8));
        let fall = fields.optional("fall", 3, |fall| fall.number(1, 255_u8));
        if let (Some(timeout), Some(interval)) = (timeout, interval)
            && timeout >= interval
        {
            fields.error(
                "timeout",
                format!("timeout {timeout} must be shorter than interval {interval}"),
            );
        }
        fields.finish();
        let probe = match kind? {
            ProbeType::Tcp => Probe::Tcp,
            ProbeType::Http => Probe::Http {
                path: path?,
                host: host?,
            },
        };
        Some(HealthCheck {
            probe,
            port: port?,
            interval: interval?,
            timeout: timeout?,
            rise: rise?,
            fall: fall?,
        })
    }
}

fn http_path(text: &str) -> Result<String, String> {
    let valid = text.starts_with('/')
        && text.len() <= 1024
        && text.bytes().all(|byte| byte.is_ascii_graphic());
    if valid {
        Ok(text.to_owned())
    } else {
        Err(
            "a path starts with `/` and has up to 1024 printable characters without spaces"
                .to_owned(),
        )
    }
}

fn http_host(text: &str) -> Result<String, String> {
    let valid = (1..=255).contains(&text.len())
        && text
            .bytes()
            .all(|byte| byte.is_ascii_alphanumeric() || b".-:[]_".contains(&byte));
    if valid {
        Ok(text.to_owned())
    } else {
        Err("not a host name or address".to_owned())
    }
}
