//! The agent: one task that owns everything and decides; the others only carry messages to it.
//!
//! [`Agent::start`] gives back what an earlier process left taken, starts from last-good, and [`Agent::run`] then follows
//! the daemon, the kernel and the health checks until it is told to stop, when it gives everything back.

mod apply;
mod fetch;
mod inbound;
mod judge;
mod place;
mod queries;

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use march_model::State;
use march_pipeline::Counters;
use march_proto::v1::{BackendAdmin, NodeMessage, Telemetry};
use march_tables::{Generation, Publisher};
use tokio::sync::{mpsc, watch};
use tokio::time::MissedTickBehavior;

use crate::compile::{AdminStates, Compiled, FastPort, Ids};
use crate::contents::{Contents, Sets};
use crate::engine::{Engine, LcoreOptions, PlannedPort, Resources};
use crate::flood::FloodWatch;
use crate::health::{self, HealthEvent, ProbeTarget, Prober};
use crate::kernel::{Kernel, KernelError, Resolver};
use crate::ladder::{Family, Taking, Tier};
use crate::last_good::LastGood;
use crate::metrics::Snapshot;
use crate::ports::{PortSpec, PortStatuses};
use crate::rule_hits::HitLog;
use crate::session::{self, Inbound, Running};
use crate::takeover::{Takeover, TakeoverError};
use crate::telemetry;
use crate::trace::Tracer;
use fetch::OpenPush;
use judge::Judge;

/// How often lcores are asked for next hops that they miss.
const REQUESTS_EVERY: Duration = Duration::from_millis(5);
/// How often neighbours, slots and retired generations are looked after.
const CARE_EVERY: Duration = Duration::from_millis(500);
/// How often the daemon hears from us.
const REPORT_EVERY: Duration = Duration::from_secs(1);
/// Changes of the kernel within this time make one generation.
const KERNEL_SETTLE: Duration = Duration::from_millis(5);
/// Messages of health checks and session that may wait.
const INBOX: usize = 256;

/// How the node is to run; from the command line.
#[derive(Clone, Debug)]
pub struct Options {
    /// Name of this node; `Port.spec.node` refers to it.
    pub node: String,
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Where the journal and last-good are.
    pub state_dir: PathBuf,
    /// Whether guarded interfaces may be taken.
    pub taking: Taking,
    /// Highest tier that is allowed.
    pub tier_limit: Option<Family>,
    /// The lcores.
    pub lcores: LcoreOptions,
    /// The client of the ssh session that started this, if one did.
    pub ssh_client: Option<std::net::IpAddr>,
}

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The kernel cannot be followed.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// The journal cannot be used.
    #[error(transparent)]
    Takeover(#[from] TakeoverError),
}

/// A revision that this node is to run.
#[derive(Clone, Debug)]
struct Desired {
    revision: u64,
    state: State,
    /// What its address sets hold.
    sets: Sets,
}

/// The agent.
pub struct Agent {
    options: Options,
    kernel: Kernel,
    takeover: Takeover,
    last_good: LastGood,
    contents: Contents,
    /// What came and still lacks chunks.
    open_push: Option<OpenPush>,
    publisher: Publisher,
    traffic: Arc<Counters>,
    resolver: Resolver,
    ids: Ids,
    admin: AdminStates,
    admin_list: Vec<BackendAdmin>,
    unhealthy: BTreeSet<u16>,
    desired: Option<Desired>,
    specs: Vec<PortSpec>,
    statuses: PortStatuses,
    /// Tiers that did not start, by port, with the error; forgotten when the ports change.
    failed: BTreeMap<String, BTreeMap<Tier, String>>,
    /// Interfaces of our ports that existed when the ladder last decided.
    seen_interfaces: BTreeSet<String>,
    /// What `engine` runs.
    plan: Vec<PlannedPort>,
    engine: Engine,
    compiled: Option<Compiled>,
    resources: Resources,
    targets: watch::Sender<Vec<ProbeTarget>>,
    prober: Prober,
    health: mpsc::Receiver<HealthEvent>,
    inbound: mpsc::Receiver<Inbound>,
    outgoing: Option<mpsc::Sender<NodeMessage>>,
    running: watch::Sender<Running>,
    snapshot: Arc<Mutex<Snapshot>>,
    /// The last report and when it was made, for the sign of life while an engine starts.
    reported: watch::Sender<(Telemetry, Instant)>,
    troubles: BTreeMap<&'static str, String>,
    tracer: Tracer,
    hits: HitLog,
    floods: FloodWatch,
    judge: Judge,
}

impl Agent {
    /// Connects to the kernel, gives back what was left taken, and starts from last-good.
    pub async fn start(options: Options) -> Result<Self, AgentError> {
        let kernel = Kernel::connect().await?;
        let mut takeover = Takeover::open(&options.state_dir, kernel.handle.clone())?;
        if takeover.outstanding() > 0 {
            tracing::warn!(
                event = "agent.unclean_start",
                changes = takeover.outstanding(),
                "an earlier marchdp ended without giving everything back; doing that now"
            );
            takeover.give_back().await;
        }
        let (targets, targets_seen) = watch::channel(Vec::new());
        let (health_sender, health) = mpsc::channel(INBOX);
        let (inbound_sender, inbound) = mpsc::channel(INBOX);
        let (running, running_seen) = watch::channel(Running::default());
        let limits = crate::engine::counter_limits();
        let mut agent = Self {
            resolver: Resolver::new(kernel.nudges.clone()),
            last_good: LastGood::new(&options.state_dir),
            contents: Contents::open(&options.state_dir),
            open_push: None,
            publisher: Publisher::new(Generation::empty()),
            traffic: Arc::new(Counters::new(limits)),
            ids: Ids::new(limits),
            admin: AdminStates::default(),
            admin_list: Vec::new(),
            unhealthy: BTreeSet::new(),
            desired: None,
            specs: Vec::new(),
            statuses: PortStatuses::new(),
            failed: BTreeMap::new(),
            seen_interfaces: BTreeSet::new(),
            plan: Vec::new(),
            engine: Engine::Idle,
            compiled: None,
            resources: Resources::default(),
            prober: Prober::spawn(targets_seen, health_sender),
            targets,
            health,
            inbound,
            outgoing: None,
            running,
            snapshot: Arc::default(),
            reported: watch::channel((Telemetry::default(), Instant::now())).0,
            troubles: BTreeMap::new(),
            tracer: Tracer::default(),
            hits: HitLog::default(),
            floods: FloodWatch::default(),
            judge: Judge::default(),
            kernel,
            takeover,
            options,
        };
        agent.start_from_last_good().await;
        // Only now: `Hello` says what runs.
        session::spawn(
            agent.options.socket.clone(),
            agent.options.node.clone(),
            running_seen,
            inbound_sender,
        );
        Ok(agent)
    }

    /// What a scrape shows, refreshed once a second.
    pub fn snapshot(&self) -> impl Fn() -> Snapshot + Send + Sync + use<> {
        let snapshot = Arc::clone(&self.snapshot);
        move || {
            snapshot
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .clone()
        }
    }

    /// Notes why this node does not do as configured, or that it does again.
    pub fn note_trouble(&mut self, what: &'static str, trouble: Option<String>) {
        match trouble {
            Some(trouble) => self.troubles.insert(what, trouble),
            None => self.troubles.remove(what),
        };
    }

    /// Runs until `stop` completes, then stops the engine and gives everything back. Returns what could not be.
    pub async fn run(mut self, stop: impl Future<Output = ()>) -> Vec<String> {
        let mut stop = std::pin::pin!(stop);
        let mut changes = self.kernel.mirror.changes();
        let mut requests = every(REQUESTS_EVERY);
        let mut care = every(CARE_EVERY);
        let mut report = every(REPORT_EVERY);
        loop {
            tokio::select! {
                () = &mut stop => break,
                Some(message) = self.inbound.recv() => self.on_inbound(message).await,
                Some(event) = self.health.recv() => self.on_health(&event).await,
                Ok(()) = changes.changed() => {
                    tokio::time::sleep(KERNEL_SETTLE).await;
                    changes.mark_unchanged();
                    self.on_kernel_change().await;
                }
                _ = requests.tick() => self.take_requests(),
                _ = care.tick() => self.take_care().await,
                _ = report.tick() => self.report(),
            }
        }
        self.stop().await
    }

    async fn stop(mut self) -> Vec<String> {
        tracing::info!(
            event = "agent.stopping",
            "stopping; interfaces are given back"
        );
        self.stop_engine();
        let failures = self.takeover.give_back().await;
        tracing::info!(
            event = "agent.stopped",
            not_given_back = failures.len(),
            "stopped"
        );
        failures
    }

    async fn on_health(&mut self, event: &HealthEvent) {
        let backend = self
            .compiled
            .as_ref()
            .and_then(|compiled| compiled.backends.get(&event.slot));
        let backend = backend
            .map(|key| format!("{} of pool {}", key.address, key.pool))
            .unwrap_or_default();
        if event.healthy {
            tracing::info!(event = "health.up", backend, reason = %event.reason, "backend takes new flows");
        } else {
            tracing::warn!(event = "health.down", backend, reason = %event.reason, "backend takes no new flows");
        }
        self.follow_health().await;
    }

    /// Takes over what the prober knows now. An event only says when to look: it may be of a slot's earlier backend, and
    /// of a target that went and came back there is none.
    async fn follow_health(&mut self) {
        let Some(compiled) = &self.compiled else {
            return;
        };
        let down = health::down(&self.prober.table(), &compiled.targets);
        if down != self.unhealthy {
            self.unhealthy = down;
            self.refresh("health").await;
        }
    }

    async fn on_kernel_change(&mut self) {
        self.follow_interfaces().await;
        self.refresh("kernel").await;
    }

    /// Places the ports again if interfaces came or went: as soon as that is quick, so that what runs goes on meanwhile.
    async fn follow_interfaces(&mut self) {
        let present = self.present_interfaces();
        if present == self.seen_interfaces || self.specs.is_empty() || !self.are_programs_ready() {
            return;
        }
        tracing::info!(
            event = "agent.interfaces_changed",
            ?present,
            "interfaces came or went; ports are placed again"
        );
        self.failed.clear();
        self.place_ports().await;
    }

    /// Interfaces of our ports that could be driven: those that are up, and those that are driven whatever their state.
    /// A device that DPDK drives may have no interface in the kernel at all.
    fn present_interfaces(&self) -> BTreeSet<String> {
        let (driven, is_dpdk): (&[FastPort], bool) = match &self.engine {
            Engine::Fast(engine) => (&engine.ports, engine.family == Family::Dpdk),
            _ => (&[], false),
        };
        let kernel = self.kernel.mirror.read();
        self.specs
            .iter()
            .map(|spec| spec.interface.clone())
            .filter(|interface| {
                let is_driven = driven.iter().any(|port| port.interface == *interface);
                match kernel.link_named(interface) {
                    Some(link) => link.is_up || is_driven,
                    None => is_driven && is_dpdk,
                }
            })
            .collect()
    }

    fn take_requests(&mut self) {
        if let Engine::Fast(engine) = &self.engine {
            for (link, address) in engine.take_requests() {
                self.resolver.request(link, address);
            }
        }
    }

    async fn take_care(&mut self) {
        {
            let kernel = self.kernel.mirror.read();
            self.resolver.tick(|link, address| {
                kernel
                    .neighbours
                    .get(&(link, address))
                    .is_some_and(|neighbour| neighbour.mac.is_some())
            });
        }
        let before = self.seen_interfaces.clone();
        self.follow_interfaces().await;
        if before != self.seen_interfaces {
            self.refresh("interfaces").await;
        }
        self.follow_health().await;
        self.follow_time().await;
        if self.publisher.reclaim() == 0 {
            self.ids.release(&self.traffic);
        }
        if let Engine::Fast(engine) = &self.engine
            && !engine.lcore().is_running()
        {
            tracing::error!(
                event = "engine.lcore_ended",
                "an lcore ended by a bug; the engine starts again"
            );
            self.place_ports().await;
            self.refresh("lcore").await;
        }
    }

    fn report(&mut self) {
        self.hits.sample(&self.traffic, &self.publisher.current());
        self.floods.look(&self.traffic);
        self.tracer.care();
        self.judge.care();
        let targets = self.prober.table();
        let telemetry = self.telemetry(&targets);
        let snapshot = Snapshot {
            targets,
            socket: match &self.engine {
                Engine::Socket(engine) => Some(engine.read()),
                _ => None,
            },
            is_connected: self.outgoing.is_some(),
            troubles: self.forwarding_troubles(),
            telemetry: telemetry.clone(),
        };
        *self.snapshot.lock().unwrap_or_else(PoisonError::into_inner) = snapshot;
        self.reported
            .send_replace((telemetry.clone(), Instant::now()));
        self.tell(march_proto::v1::node_message::Message::Telemetry(telemetry));
    }

    /// What keeps the node from forwarding as configured. A missing daemon does not: the health page stays good, so
    /// that nobody takes a node out because `marchd` restarts.
    fn forwarding_troubles(&self) -> Vec<String> {
        let others = self.troubles.iter().filter(|(what, _)| **what != "session");
        others.map(|(_, trouble)| trouble.clone()).collect()
    }

    fn telemetry(&self, targets: &[health::TargetState]) -> Telemetry {
        let kernel = self.kernel.mirror.read();
        let mut report = telemetry::telemetry(&telemetry::Sources {
            engine: &self.engine,
            compiled: self.compiled.as_ref(),
            statuses: &self.statuses,
            admin: &self.admin,
            targets,
            kernel: &kernel,
            flow_capacity: (self.options.lcores.flows4 + self.options.lcores.flows6) as u64,
        });
        let running = self.running.borrow();
        report.revision = running.revision;
        report.hash.clone_from(&running.hash);
        report.generation = self.publisher.current().id;
        report
    }

    /// Sends a message to the daemon, if the session stands. A session that does not keep up loses telemetry first, and
    /// never an answer to a push, without which the daemon would push nothing more.
    fn tell(&mut self, message: march_proto::v1::node_message::Message) {
        let Some(outgoing) = &self.outgoing else {
            return;
        };
        if session::offer(outgoing, message) == session::Offered::Ended {
            // With the sender the session ends, if it has not ended yet; the next one begins with what the daemon wants.
            self.outgoing = None;
        }
    }
}

fn every(period: Duration) -> tokio::time::Interval {
    let mut interval = tokio::time::interval(period);
    interval.set_missed_tick_behavior(MissedTickBehavior::Delay);
    interval
}
