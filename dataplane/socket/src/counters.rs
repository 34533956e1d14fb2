//! What the tier counts: written by its tasks, read by the exporter without a lock on the relaying path.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::net::IpAddr;

use march_wire::DropReason;

/// One counter per [`DropReason`].
#[derive(Debug)]
pub(crate) struct DropCounters([AtomicU64; DropReason::COUNT]);

impl Default for DropCounters {
    fn default() -> Self {
        Self([const { AtomicU64::new(0) }; DropReason::COUNT])
    }
}

impl DropCounters {
    pub(crate) fn count(&self, reason: DropReason) {
        self.0[reason as usize].fetch_add(1, Relaxed);
    }

    pub(crate) fn read(&self) -> [u64; DropReason::COUNT] {
        core::array::from_fn(|index| self.0[index].load(Relaxed))
    }
}

/// Live counters of one service.
#[derive(Debug, Default)]
pub(crate) struct ServiceCounters {
    pub(crate) accepted: AtomicU64,
    pub(crate) active: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) drops: DropCounters,
}

/// Live counters of one backend.
#[derive(Debug, Default)]
pub(crate) struct BackendCounters {
    pub(crate) accepted: AtomicU64,
    pub(crate) active: AtomicU64,
    pub(crate) bytes_in: AtomicU64,
    pub(crate) bytes_out: AtomicU64,
    pub(crate) connect_errors: AtomicU64,
}

/// A service's counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServiceReading {
    /// The service's name.
    pub name: Box<str>,
    /// TCP connections and UDP sessions that were given a backend.
    pub accepted: u64,
    /// Those of them that still run.
    pub active: u64,
    /// Bytes from clients towards backends (payload, no headers).
    pub bytes_in: u64,
    /// Bytes from backends towards clients (payload, no headers).
    pub bytes_out: u64,
    /// Refused connections and datagrams by reason, in the order of [`DropReason::ALL`].
    pub drops: [u64; DropReason::COUNT],
}

/// A backend's counters at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendReading {
    /// The backend's slot in the generation.
    pub slot: u16,
    /// Its address.
    pub address: IpAddr,
    /// Its port; 0 means the port that the client asked for.
    pub port: u16,
    /// TCP connections made and UDP sessions opened to it.
    pub accepted: u64,
    /// Those of them that still run.
    pub active: u64,
    /// Bytes sent to it (payload).
    pub bytes_in: u64,
    /// Bytes received from it (payload).
    pub bytes_out: u64,
    /// Connections that could not be made, and UDP datagrams that the backend's host refused.
    pub connect_errors: u64,
}

/// The whole tier at one moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TierReading {
    /// The generation that new connections are decided by.
    pub generation: u64,
    /// Sockets that listen now.
    pub listeners: usize,
    /// TCP connections that run now.
    pub connections: usize,
    /// UDP sessions that run now.
    pub udp_sessions: usize,
    /// Times that accepting failed for want of file descriptors or memory.
    pub accept_errors: u64,
    /// Refusals by reason over all services, in the order of [`DropReason::ALL`]; never goes back.
    pub drops: [u64; DropReason::COUNT],
    /// Every service of the running generation, in its order.
    pub services: Vec<ServiceReading>,
    /// Every backend of the running generation, by slot.
    pub backends: Vec<BackendReading>,
}

impl ServiceCounters {
    pub(crate) fn read(&self, name: &str) -> ServiceReading {
        ServiceReading {
            name: name.into(),
            accepted: self.accepted.load(Relaxed),
            active: self.active.load(Relaxed),
            bytes_in: self.bytes_in.load(Relaxed),
            bytes_out: self.bytes_out.load(Relaxed),
            drops: self.drops.read(),
        }
    }
}

/// Counts one relayed conversation as active for as long as it lives.
#[derive(Debug)]
pub(crate) struct Active<'a> {
    gauges: [&'a AtomicU64; 2],
}

impl<'a> Active<'a> {
    pub(crate) fn begin(service: &'a ServiceCounters, backend: &'a BackendCounters) -> Self {
        service.accepted.fetch_add(1, Relaxed);
        backend.accepted.fetch_add(1, Relaxed);
        let gauges = [&service.active, &backend.active];
        for gauge in gauges {
            gauge.fetch_add(1, Relaxed);
        }
        Self { gauges }
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        for gauge in self.gauges {
            gauge.fetch_sub(1, Relaxed);
        }
    }
}

/// Where the bytes of one conversation are added up.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Tally<'a> {
    pub(crate) service: &'a ServiceCounters,
    pub(crate) backend: &'a BackendCounters,
}

impl Tally<'_> {
    pub(crate) fn towards_backend(&self, bytes: usize) {
        self.service.bytes_in.fetch_add(bytes as u64, Relaxed);
        self.backend.bytes_in.fetch_add(bytes as u64, Relaxed);
    }

    pub(crate) fn towards_client(&self, bytes: usize) {
        self.service.bytes_out.fetch_add(bytes as u64, Relaxed);
        self.backend.bytes_out.fetch_add(bytes as u64, Relaxed);
    }
}
