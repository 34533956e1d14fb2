//! The tier itself: which listeners there should be, and bringing about exactly those.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::sync::atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed};
use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;

use arc_swap::ArcSwap;
use march_tables::{Generation, Service};
use march_wire::DropReason;
use march_wire::tuple::IpPrefix;
use tokio::sync::{Mutex, Semaphore, watch};
use tokio::task::JoinHandle;

use crate::config::Limits;
use crate::counters::{BackendReading, DropCounters, ServiceCounters, TierReading};
use crate::listen::{self, ListenerKey, Transport};
use crate::running::{Running, service_ids};
use crate::{descriptors, tcp, udp};

/// What every task of the tier sees.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) limits: Limits,
    pub(crate) connections: Arc<Semaphore>,
    pub(crate) sessions: Arc<Semaphore>,
    pub(crate) accept_errors: AtomicU64,
    open_listeners: AtomicUsize,
    drops: DropCounters,
    running: ArcSwap<Running>,
}

impl Shared {
    pub(crate) fn running(&self) -> Arc<Running> {
        self.running.load_full()
    }

    /// Counts a refused connection or datagram, on its service's account too if it has one.
    pub(crate) fn refuse(&self, reason: DropReason, service: Option<&Arc<ServiceCounters>>) {
        self.drops.count(reason);
        if let Some(service) = service {
            service.drops.count(reason);
        }
    }
}

/// One open listener.
#[derive(Debug)]
enum Listener {
    Tcp {
        stop: watch::Sender<bool>,
        task: JoinHandle<()>,
    },
    Udp {
        gate: Arc<udp::Gate>,
        task: JoinHandle<()>,
    },
}

/// A listener that could not be opened, and why.
#[derive(Debug, thiserror::Error)]
pub enum ListenerFailure {
    /// The kernel refused the socket.
    #[error("service {service}: cannot listen on {key}: {source}")]
    Open {
        /// The service's name.
        service: Box<str>,
        /// What was to be opened.
        key: ListenerKey,
        /// What the kernel said.
        source: io::Error,
    },
    /// The service needs more listeners than [`Limits::listeners`] leaves.
    #[error("service {service} needs {needed} listening sockets and {left} of {limit} are left")]
    TooMany {
        /// The service's name.
        service: Box<str>,
        /// Addresses times ports of the service.
        needed: u128,
        /// How many the services before it left.
        left: usize,
        /// The limit.
        limit: usize,
    },
    /// The service's protocol is neither TCP nor UDP.
    #[error("service {service}: protocol {protocol} cannot be carried by sockets")]
    Protocol {
        /// The service's name.
        service: Box<str>,
        /// Its IP protocol number.
        protocol: u8,
    },
}

/// What a [`SocketTier::publish`] did.
#[derive(Debug, Default)]
pub struct PublishReport {
    /// Listeners opened.
    pub opened: usize,
    /// Listeners that went on untouched.
    pub kept: usize,
    /// Listeners closed to new clients.
    pub closed: usize,
    /// What could not be done; everything else runs. Publishing again tries again.
    pub failures: Vec<ListenerFailure>,
}

/// The socket tier of one node. Dropping it closes the listeners to new clients.
#[derive(Debug)]
pub struct SocketTier {
    shared: Arc<Shared>,
    listeners: Mutex<BTreeMap<ListenerKey, Listener>>,
}

impl SocketTier {
    /// A tier that runs `generation`'s tables and listens nowhere until [`SocketTier::publish`].
    ///
    /// Raises the process's soft limit on open files to what `limits` may need, as far as the hard one lets it.
    pub fn new(limits: Limits, generation: Arc<Generation>) -> Self {
        descriptors::make_room(&limits);
        let shared = Shared {
            connections: Arc::new(Semaphore::new(limits.connections)),
            sessions: Arc::new(Semaphore::new(limits.udp_sessions)),
            limits,
            accept_errors: AtomicU64::new(0),
            open_listeners: AtomicUsize::new(0),
            drops: DropCounters::default(),
            running: ArcSwap::from_pointee(Running::new(generation, None)),
        };
        Self {
            shared: Arc::new(shared),
            listeners: Mutex::new(BTreeMap::new()),
        }
    }

    /// Runs `generation` from now on.
    ///
    /// New clients are decided by it at once. Listeners that it still has are untouched, new ones open before old
    /// ones close. Connections to backends that it no longer carries are reset; connections of a removed service go
    /// on until they end; UDP sessions of a removed service go on for at most [`Limits::udp_drain`].
    pub async fn publish(&self, generation: Arc<Generation>) -> PublishReport {
        let mut listeners = self.listeners.lock().await;
        let mut report = PublishReport::default();
        let wanted = wanted_listeners(&generation, self.shared.limits.listeners, &mut report);
        let previous = self.shared.running();
        let next = Arc::new(Running::new(generation, Some(&previous)));
        self.shared.running.store(Arc::clone(&next));
        previous.retire_backends(&next);
        for (key, service) in &wanted {
            self.ensure_open(&mut listeners, *key, service, &mut report)
                .await;
        }
        close_unwanted(&mut listeners, &wanted, &self.shared.limits, &mut report).await;
        let open = listeners.values().filter(|one| one.is_open()).count();
        self.shared.open_listeners.store(open, Relaxed);
        report
    }

    /// The counters now.
    pub fn read(&self) -> TierReading {
        let running = self.shared.running();
        let limits = &self.shared.limits;
        TierReading {
            generation: running.generation.id,
            listeners: self.shared.open_listeners.load(Relaxed),
            connections: limits.connections - self.shared.connections.available_permits(),
            udp_sessions: limits.udp_sessions - self.shared.sessions.available_permits(),
            accept_errors: self.shared.accept_errors.load(Relaxed),
            drops: self.shared.drops.read(),
            services: running
                .services()
                .map(|(name, counters)| counters.read(name))
                .collect(),
            backends: running
                .backends
                .iter()
                .map(|life| BackendReading {
                    slot: life.slot,
                    address: life.address,
                    port: life.port,
                    accepted: life.counters.accepted.load(Relaxed),
                    active: life.counters.active.load(Relaxed),
                    bytes_in: life.counters.bytes_in.load(Relaxed),
                    bytes_out: life.counters.bytes_out.load(Relaxed),
                    connect_errors: life.counters.connect_errors.load(Relaxed),
                })
                .collect(),
        }
    }

    async fn ensure_open(
        &self,
        listeners: &mut BTreeMap<ListenerKey, Listener>,
        key: ListenerKey,
        service: &str,
        report: &mut PublishReport,
    ) {
        if let Some(listener) = listeners.remove(&key) {
            if listener.keep() {
                listeners.insert(key, listener);
                report.kept += 1;
                return;
            }
            // It is on its way out: its socket must be gone before the address can be bound again.
            listener.finish().await;
        }
        match self.open(key) {
            Ok(listener) => {
                listeners.insert(key, listener);
                report.opened += 1;
            }
            Err(source) => {
                report.failures.push(ListenerFailure::Open {
                    service: service.into(),
                    key,
                    source,
                });
            }
        }
    }

    fn open(&self, key: ListenerKey) -> io::Result<Listener> {
        let shared = Arc::clone(&self.shared);
        match key.transport {
            Transport::Tcp => {
                let socket = listen::open_tcp(key)?;
                let (stop, stopped) = watch::channel(false);
                let task = tokio::spawn(tcp::accept_loop(shared, socket, key.address, stopped));
                Ok(Listener::Tcp { stop, task })
            }
            Transport::Udp => {
                let socket = Arc::new(listen::open_udp(key)?);
                let gate = Arc::new(udp::Gate::default());
                let run = udp::receive_loop(shared, socket, key.address, Arc::clone(&gate));
                Ok(Listener::Udp {
                    gate,
                    task: tokio::spawn(run),
                })
            }
        }
    }
}

impl Drop for SocketTier {
    fn drop(&mut self) {
        for listener in self.listeners.get_mut().values() {
            listener.close(&self.shared.limits);
        }
    }
}

impl Listener {
    /// Whether it takes new clients.
    fn is_open(&self) -> bool {
        match self {
            Self::Tcp { stop, task } => !*stop.borrow() && !task.is_finished(),
            Self::Udp { gate, task } => gate.is_open() && !task.is_finished(),
        }
    }

    /// Takes new clients from now on, if it still can.
    fn keep(&self) -> bool {
        match self {
            Self::Tcp { .. } => self.is_open(),
            Self::Udp { gate, task } => gate.reopen() && !task.is_finished(),
        }
    }

    /// Takes no new clients from now on.
    fn close(&self, limits: &Limits) {
        match self {
            Self::Tcp { stop, .. } => {
                stop.send_replace(true);
            }
            Self::Udp { gate, .. } => gate.close(limits.udp_drain),
        }
    }

    /// Returns once its socket is closed.
    async fn finish(self) {
        let (Self::Tcp { task, .. } | Self::Udp { task, .. }) = self;
        // A panic in the task was reported where it happened; the socket is closed either way.
        let _ = task.await;
    }
}

/// Closes what `wanted` does not name. TCP sockets are closed when this returns; UDP ones drain behind it.
async fn close_unwanted(
    listeners: &mut BTreeMap<ListenerKey, Listener>,
    wanted: &BTreeMap<ListenerKey, Box<str>>,
    limits: &Limits,
    report: &mut PublishReport,
) {
    let unwanted: BTreeSet<_> = listeners
        .keys()
        .filter(|key| !wanted.contains_key(key))
        .copied()
        .collect();
    for key in unwanted {
        let Some(listener) = listeners.remove(&key) else {
            continue;
        };
        report.closed += usize::from(listener.is_open());
        listener.close(limits);
        match &listener {
            Listener::Tcp { .. } => listener.finish().await,
            Listener::Udp { task, .. } if task.is_finished() => {}
            Listener::Udp { .. } => {
                listeners.insert(key, listener);
            }
        }
    }
}

/// Every (VIP, port) that `generation`'s services need, with the name of the first service that needs it.
fn wanted_listeners(
    generation: &Generation,
    limit: usize,
    report: &mut PublishReport,
) -> BTreeMap<ListenerKey, Box<str>> {
    let mut wanted = BTreeMap::new();
    for id in service_ids(generation) {
        let service = generation.services.get(id);
        if service.is_vacant() {
            continue;
        }
        let name = &service.name;
        let Some(transport) = Transport::from_protocol(service.protocol) else {
            report.failures.push(ListenerFailure::Protocol {
                service: name.clone(),
                protocol: service.protocol,
            });
            continue;
        };
        let needed = listeners_needed(service);
        let left = limit - wanted.len();
        if needed > left as u128 {
            report.failures.push(ListenerFailure::TooMany {
                service: name.clone(),
                needed,
                left,
                limit,
            });
            continue;
        }
        for ip in addresses(service) {
            for port in service.first_port..=service.last_port {
                let key = ListenerKey {
                    transport,
                    address: SocketAddr::new(ip, port),
                };
                wanted.entry(key).or_insert_with(|| name.clone());
            }
        }
    }
    wanted
}

/// Addresses times ports.
fn listeners_needed(service: &Service) -> u128 {
    let ports = u128::from(service.last_port.saturating_sub(service.first_port)) + 1;
    address_count(service.address).saturating_mul(ports)
}

fn address_count(prefix: IpPrefix) -> u128 {
    let width: u32 = if prefix.address().is_ipv4() { 32 } else { 128 };
    1u128
        .checked_shl(width - u32::from(prefix.length()))
        .unwrap_or(u128::MAX)
}

/// Every address of the service's prefix, in order. Callers bound it by [`listeners_needed`] first.
fn addresses(service: &Service) -> impl Iterator<Item = IpAddr> + use<> {
    let prefix = service.address;
    (0..address_count(prefix)).map(move |offset| match prefix.address() {
        IpAddr::V4(first) => {
            // The count of a v4 prefix is at most 2^32, so an offset fits.
            let offset = u32::try_from(offset).unwrap_or(u32::MAX);
            IpAddr::V4(Ipv4Addr::from_bits(first.to_bits().wrapping_add(offset)))
        }
        IpAddr::V6(first) => IpAddr::V6(Ipv6Addr::from_bits(first.to_bits().wrapping_add(offset))),
    })
}
