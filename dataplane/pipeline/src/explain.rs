//! What would happen to one frame, and why: the reference's decision told station by station, and the real pipeline run once
//! beside it on a copy. Where the two do not agree, that is said: one of them is wrong.
//!
//! Off the lcores: this allocates. State is not consulted: it assumes that no flow exists and that no limit has been used up.
//! Where a pool takes turns, the backend shown is the first in turn.

mod teller;

use std::sync::Arc;

use march_policy::{Arrival, CompiledSets, Observed, Policy, State};
use march_tables::{Generation, PortId};
use march_wire::parse::{IpPacket, L4};
use march_wire::{Buffer, Verdict};

use crate::context::Now;
use crate::counters::Counters;
use crate::pipeline::{Pipeline, Settings};

/// One thing that the packet met.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Station {
    /// What it was: `parse`, `guard`, `address`, `rule`, `service`, `limit`, `backend`, `route`, `rewrite`, `mark`, `mirror`, `place`,
    /// `counters` or `verdict`; `internal` where data plane and reference do not agree.
    pub stage: &'static str,
    /// What it said.
    pub said: String,
}

/// Names of what the packet met; empty where it met none.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Names {
    /// The rule that decided.
    pub rule: String,
    /// The mapping that it was made from.
    pub mapping: String,
    /// The service.
    pub service: String,
    /// Its pool.
    pub pool: String,
    /// The backend, address and port.
    pub backend: String,
}

/// The whole story of one frame.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Explanation {
    /// In the order in which the packet met them.
    pub stations: Vec<Station>,
    /// Whose they are.
    pub names: Names,
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
    let (verdict, after) = run(generation, ingress, frame)?;
    let sets = CompiledSets(Arc::clone(&generation.sets));
    let policy = Policy::new(&generation.config, Arc::new(sets));
    let arrival = Arrival {
        now_ms: Now::default().ms,
        ingress,
        frame,
    };
    let observed = Observed {
        verdict,
        frame: &after,
    };
    let decision = policy.follow(&mut State::new(), arrival, &observed);
    let (stations, names) = teller::tell(&policy, &arrival, &decision, &observed);
    Ok(Explanation {
        stations,
        names,
        verdict,
        frame: after,
    })
}

/// What the pipeline does with a copy of the frame.
fn run(
    generation: &Generation,
    ingress: PortId,
    frame: &[u8],
) -> std::io::Result<(Verdict, Vec<u8>)> {
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
    let ([verdict], [copy]) = (verdicts, frames);
    Ok((verdict, copy.bytes().to_vec()))
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
