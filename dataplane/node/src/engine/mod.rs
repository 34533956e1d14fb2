//! What runs the packets: lcores over `AF_XDP` or DPDK ports, or the socket tier.
//!
//! An engine is made for one set of ports. Changing that set means another engine, and flows end with the old one;
//! everything else is a new generation, which never restarts anything.
//!
//! Life of a fast engine: *prepared* (devices opened, twins made, nothing polled), then *run* once a generation that has its
//! ports is published.

mod dpdk;
mod fast;
mod programs;
mod socket;
mod steering;
mod xsk;

use std::net::IpAddr;

use crate::kernel::KernelError;
use crate::ladder::Tier;
use crate::takeover::TakeoverError;

pub use dpdk::Eal;
pub use fast::{FastEngine, PortCounts, Prepared, counter_limits, prepare};
pub use programs::Programs;
pub use socket::SocketEngine;

/// A port that an engine is to run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PlannedPort {
    /// Name of the document.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// What it runs.
    pub tier: Tier,
    /// Addresses that the document gives for source NAT.
    pub nat_addresses: Vec<IpAddr>,
    /// First and last source port for NAT.
    pub nat_ports: (u16, u16),
}

/// How lcores are to run; from the command line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LcoreOptions {
    /// CPUs to use, in this order; empty: chosen near the NIC.
    pub cpus: Vec<usize>,
    /// What an lcore does when nothing comes.
    pub idle: IdleChoice,
    /// IPv4 flows that fit.
    pub flows4: usize,
    /// IPv6 flows that fit.
    pub flows6: usize,
    /// Sources whose rates are followed at once.
    pub sources: usize,
}

/// What an lcore does when nothing comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum IdleChoice {
    /// Polls on where the lcore has a core to itself, else rests.
    #[default]
    Auto,
    /// Polls on.
    Poll,
    /// Rests.
    Relax,
}

/// Why an engine does not start.
#[derive(Debug, thiserror::Error)]
pub enum EngineError {
    /// One port cannot run its tier; the ladder goes on below it.
    #[error("port {port}: {reason}")]
    Port {
        /// Which.
        port: String,
        /// Why, in words.
        reason: String,
    },
    /// No port in particular.
    #[error("{0}")]
    Node(String),
    /// Taking an interface failed.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
}

impl EngineError {
    fn port(port: &PlannedPort, reason: impl std::fmt::Display) -> Self {
        Self::Port {
            port: port.name.clone(),
            reason: brief(&reason.to_string()),
        }
    }
}

/// What outlives an engine.
#[derive(Debug, Default)]
pub struct Resources {
    /// DPDK's environment.
    pub eal: Eal,
    /// Steering programs, loaded ahead.
    pub programs: Programs,
}

/// What runs.
#[derive(Debug)]
pub enum Engine {
    /// Nothing: no port, or none that can run.
    Idle,
    /// Lcores.
    Fast(Box<FastEngine>),
    /// The kernel's stack.
    Socket(SocketEngine),
}

/// Longest reason that is told, in characters.
const REASON_CHARS: usize = 400;

/// The first line of a reason: a verifier's log is no reason that a person can act on.
fn brief(reason: &str) -> String {
    let line = reason.lines().next().unwrap_or_default();
    match line.char_indices().nth(REASON_CHARS) {
        Some((end, _)) => format!("{} ...", &line[..end]),
        None => line.to_owned(),
    }
}
