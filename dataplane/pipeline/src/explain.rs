//! What would happen to one frame, and why: the real pipeline run once on a copy, with the look-ups it makes told.
//!
//! Off the lcores: this allocates. State is not consulted: it assumes that no flow exists and that no answer of ours has
//! used up a rate limit. Where a pool takes turns, the backend shown is the first in turn.

use std::net::IpAddr;
use std::sync::Arc;

use march_tables::{
    Action, AddressKind, AdjacencyState, BackendState, Generation, Mode, PortId, Route, Subject,
};
use march_wire::parse::{Fragment, IpPacket, L4};
use march_wire::tuple::{Address, FiveTuple};
use march_wire::{Buffer, Packet, Verdict};

use crate::context::Now;
use crate::counters::Counters;
use crate::pipeline::{Pipeline, Settings};

/// One thing that the packet met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// Which look-up: `parse`, `address`, `rule`, `service`, `backend`, `route` or `verdict`.
    pub stage: &'static str,
    /// What it said.
    pub said: String,
}

/// The whole story of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// In the order in which the packet met them.
    pub stations: Vec<Station>,
    /// What happens to it.
    pub verdict: Verdict,
    /// The frame afterwards.
    pub frame: Vec<u8>,
}

/// A frame in its own memory, with room to grow.
struct Copy {
    memory: Vec<u8>,
    start: usize,
    end: usize,
}

impl Copy {
    const ROOM: usize = 256;

    fn of(frame: &[u8]) -> Self {
        let mut memory = vec![0; Self::ROOM];
        memory.extend_from_slice(frame);
        memory.resize(memory.len() + Self::ROOM, 0);
        Self {
            memory,
            start: Self::ROOM,
            end: Self::ROOM + frame.len(),
        }
    }
}

impl Buffer for Copy {
    fn bytes(&self) -> &[u8] {
        self.memory.get(self.start..self.end).unwrap_or_default()
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        self.memory
            .get_mut(self.start..self.end)
            .unwrap_or_default()
    }
    fn headroom(&self) -> usize {
        self.start
    }
    fn tailroom(&self) -> usize {
        self.memory.len() - self.end
    }
    fn prepend(&mut self, count: usize) -> bool {
        let Some(start) = self.start.checked_sub(count) else {
            return false;
        };
        self.start = start;
        true
    }
    fn resize(&mut self, len: usize) -> bool {
        let fits = self.start + len <= self.memory.len();
        if fits {
            self.end = self.start + len;
        }
        fits
    }
}

/// Tells what `generation` does with `frame` (Ethernet header first, no FCS) coming in on `ingress`.
pub fn explain(
    generation: &Generation,
    ingress: PortId,
    frame: &[u8],
) -> std::io::Result<Explanation> {
    let limits = crate::counters::Limits {
        ports: generation.ports.len(),
        services: generation.services.len(),
        backends: generation.backends.len(),
        rules: generation.rules.len(),
    };
    let settings = Settings {
        flows4: 1,
        flows6: 1,
        sources: 1_024,
        seed: (0, 0),
    };
    let mut pipeline = Pipeline::new(settings, Arc::new(Counters::new(limits)))?;
    let mut frames = [Copy::of(frame)];
    let mut verdicts = [Verdict::Punt];
    pipeline.process(
        generation,
        Now::default(),
        ingress,
        &mut frames,
        &mut verdicts,
        &mut crate::mirror::NoMirror,
    );
    let [verdict] = verdicts;
    let [copy] = frames;

    let mut teller = Teller {
        generation,
        ingress,
        stations: Vec::new(),
    };
    teller.tell(frame);
    teller.verdict(verdict, copy.bytes());
    Ok(Explanation {
        stations: teller.stations,
        verdict,
        frame: copy.bytes().to_vec(),
    })
}

struct Teller<'a> {
    generation: &'a Generation,
    ingress: PortId,
    stations: Vec<Station>,
}

impl Teller<'_> {
    fn say(&mut self, stage: &'static str, said: String) {
        self.stations.push(Station { stage, said });
    }

    fn port_name(&self, port: PortId) -> &str {
        self.generation.port(port).map_or("?", |port| &port.name)
    }

    fn tell(&mut self, frame: &[u8]) {
        match march_wire::parse(frame) {
            Err(reason) => self.say(
                "parse",
                format!("{} bytes: {reason}: {}", frame.len(), reason.help()),
            ),
            Ok(Packet::Arp(_)) => self.say("parse", "ARP".to_owned()),
            Ok(Packet::Other(link)) => self.say(
                "parse",
                format!("ethertype 0x{:04x}: a link protocol", link.ethertype),
            ),
            Ok(Packet::Ip(packet)) => {
                self.say("parse", describe(frame, &packet));
                match packet.family {
                    march_wire::Family::V4 => self.tell_ip::<std::net::Ipv4Addr>(frame, &packet),
                    march_wire::Family::V6 => self.tell_ip::<std::net::Ipv6Addr>(frame, &packet),
                }
            }
        }
    }

    fn tell_ip<A: Address>(&mut self, frame: &[u8], packet: &IpPacket) {
        let Some(tuple) = packet.tuple::<A, _>(frame) else {
            return;
        };
        let kind = self.generation.local.kind(tuple.dst);
        let whose = match kind {
            AddressKind::NotLocal => "not local: transit",
            AddressKind::Kernel => "an address of the kernel",
            AddressKind::KernelNat => "an address of the kernel that a NAT pool uses too",
            AddressKind::Vip => "a service's address",
            AddressKind::Nat => "a dedicated NAT address",
        };
        self.say("address", format!("{} is {whose}", tuple.dst));
        if !matches!(kind, AddressKind::Vip | AddressKind::NotLocal)
            || packet.fragment != Fragment::None
        {
            return;
        }
        self.tell_rule(&Subject::of_parts(packet, tuple, self.ingress), kind);
        if kind == AddressKind::Vip {
            self.tell_service(&tuple);
        } else {
            self.tell_route("route", tuple.dst.into());
        }
    }

    fn tell_rule<A: Address>(&mut self, subject: &Subject<A>, kind: AddressKind) {
        let matched = self.generation.rules.classify(subject);
        let said = match matched {
            Some(matched) => {
                let rule = self.generation.rules.get(matched.rule);
                let (name, priority) = rule.map_or(("?", 0), |rule| (&*rule.name, rule.priority));
                let action = match matched.action {
                    Action::Allow => "allow",
                    Action::Drop => "drop",
                    Action::Reject => "reject",
                    Action::Count => "count",
                    Action::Punt => "punt",
                    Action::Redirect(_) => "redirect",
                };
                format!("rule \"{name}\" (priority {priority}) says {action}")
            }
            None if kind == AddressKind::Vip => {
                "no rule matches: services are allowed by default".to_owned()
            }
            None => "no rule matches: transit is denied by default".to_owned(),
        };
        self.say("rule", said);
    }

    fn tell_service<A: Address>(&mut self, tuple: &FiveTuple<A>) {
        let generation = self.generation;
        let Some(id) = generation
            .services
            .lookup(tuple.dst, tuple.protocol, tuple.dst_port)
        else {
            self.say(
                "service",
                format!(
                    "no service at port {} of protocol {}",
                    tuple.dst_port, tuple.protocol
                ),
            );
            return;
        };
        let service = generation.services.get(id);
        let mode = match service.mode {
            Mode::FullNat => "full_nat",
            Mode::Nat => "nat",
        };
        self.say("service", format!("\"{}\", mode {mode}", service.name));
        let Some(pool) = generation.pool(service.pool) else {
            return;
        };
        let Some(slot) = pool.choose(service.affinity.hash(tuple), &mut 0) else {
            self.say(
                "backend",
                format!("pool \"{}\" has no backend that takes new flows", pool.name),
            );
            return;
        };
        let Some(backend) = generation.backend(slot) else {
            return;
        };
        let state = match backend.state {
            BackendState::Active => "active",
            BackendState::Draining => "draining",
            BackendState::Down => "down",
            BackendState::Offline => "offline",
            BackendState::Gone => "gone",
        };
        let port = if backend.port == 0 {
            tuple.dst_port
        } else {
            backend.port
        };
        let place = std::net::SocketAddr::new(backend.address, port);
        self.say(
            "backend",
            format!("{place} of pool \"{}\", {state}", pool.name),
        );
        self.tell_route("route", backend.address);
    }

    fn tell_route(&mut self, stage: &'static str, destination: IpAddr) {
        let generation = self.generation;
        let route = match destination {
            IpAddr::V4(destination) => generation.routes.lookup(destination),
            IpAddr::V6(destination) => generation.routes.lookup(destination),
        };
        let (hop, id) =
            match route {
                Route::Missing => return self.say(stage, format!("no route to {destination}")),
                Route::Blackhole => return self.say(
                    stage,
                    format!(
                        "the route to {destination} is a blackhole, or leaves by no port of ours"
                    ),
                ),
                Route::Via(id) => match generation.neighbours.key(id) {
                    Some((port, gateway)) => (
                        format!(
                            "{destination} via {gateway} out of {}",
                            self.port_name(port)
                        ),
                        Some(id),
                    ),
                    None => return,
                },
                Route::Connected(port) => {
                    let id = match destination {
                        IpAddr::V4(address) => generation.neighbours.get(port, address),
                        IpAddr::V6(address) => generation.neighbours.get(port, address),
                    };
                    (
                        format!("{destination} is on the link of {}", self.port_name(port)),
                        id,
                    )
                }
            };
        let adjacency = id.and_then(|id| generation.adjacency(id));
        let mac = match adjacency {
            Some(adjacency) if adjacency.state == AdjacencyState::Resolved => {
                let [a, b, c, d, e, f, ..] = adjacency.rewrite;
                format!("{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{f:02x}")
            }
            _ => "MAC address not yet known".to_owned(),
        };
        self.say(stage, format!("{hop}, {mac}"));
    }

    fn verdict(&mut self, verdict: Verdict, after: &[u8]) {
        let packet = match march_wire::parse(after) {
            Ok(Packet::Ip(packet)) => describe(after, &packet),
            _ => format!("{} bytes", after.len()),
        };
        let said = match verdict {
            Verdict::Forward { port } => {
                format!("forward out of {} as {packet}", self.port_name(port))
            }
            Verdict::Answer { port } => {
                format!("answer out of {} with {packet}", self.port_name(port))
            }
            Verdict::Punt => "punt to the kernel".to_owned(),
            Verdict::Hold => "hold until the next hop's MAC address is known".to_owned(),
            Verdict::Drop(reason) => format!("drop: {reason}: {}", reason.help()),
        };
        self.say("verdict", said);
    }
}

/// One line about an IP packet that was parsed from `frame`.
#[must_use]
pub fn describe(frame: &[u8], packet: &IpPacket) -> String {
    let Some((src, dst)) = packet.ip_addresses(frame) else {
        return String::new();
    };
    let (src_port, dst_port) = packet.ports();
    let ends = || {
        format!(
            "{} -> {}",
            std::net::SocketAddr::new(src, src_port),
            std::net::SocketAddr::new(dst, dst_port)
        )
    };
    let what = match packet.l4 {
        L4::Tcp { flags, .. } => format!("TCP {} flags {}", ends(), flag_names(flags)),
        L4::Udp { .. } => format!("UDP {}", ends()),
        L4::Icmp { kind, code, .. } => format!("ICMP {src} -> {dst} type {kind} code {code}"),
        L4::Other => format!("protocol {} {src} -> {dst}", packet.protocol),
    };
    let tag = packet
        .vlan
        .map(|tci| format!(", VLAN {}", tci & 0xfff))
        .unwrap_or_default();
    format!("{what}, TTL {}, {} bytes{tag}", packet.ttl, packet.ip_len())
}

fn flag_names(flags: u8) -> String {
    let names = ["FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR"];
    let set: Vec<&str> = (0..8)
        .filter(|bit| flags >> bit & 1 == 1)
        .filter_map(|bit| names.get(bit).copied())
        .collect();
    set.join("+")
}
