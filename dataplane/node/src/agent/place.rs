//! Placing ports on the ladder and starting the engine that follows from it.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use march_pipeline::Counters;

use super::Agent;
use super::apply::first_generation;
use crate::engine::{self, Engine, EngineError, PlannedPort, SocketEngine, counter_limits};
use crate::ladder::{
    Assessment, Facts, Limits, Placement, PortState, Tier, agree, assess, guard_below,
    guarded_links,
};
use crate::ports::{PortStatus, PortStatuses};

impl Agent {
    /// Decides for every port anew and, unless what runs is what is wanted, stops it and starts the highest engine that
    /// starts.
    ///
    /// A tier that does not start is noted as passed over and the ladder goes on below it, so this always ends.
    pub(super) async fn place_ports(&mut self) {
        self.statuses = self.agreed();
        if !self.runs(&self.planned()) {
            self.replace_engine().await;
        }
        self.seen_interfaces = self.present_interfaces();
        self.say_placements();
    }

    /// Whether the lcores run just these ports: a port that cannot be placed is no reason to stop the others.
    fn runs(&self, planned: &[PlannedPort]) -> bool {
        match &self.engine {
            Engine::Fast(engine) => engine.lcore().is_running() && self.plan == planned,
            Engine::Socket(_) | Engine::Idle => false,
        }
    }

    async fn replace_engine(&mut self) {
        self.load_programs();
        if !matches!(self.engine, Engine::Idle) {
            tracing::warn!(
                event = "engine.restart",
                "the set of ports changed: the engine starts anew, flows end"
            );
        }
        loop {
            self.stop_engine();
            self.takeover.give_back().await;
            self.statuses = self.agreed();
            let planned = self.planned();
            match self.start_engine(&planned).await {
                Ok(()) => {
                    self.plan = planned;
                    break;
                }
                Err(error) => self.pass_over(&planned, &error),
            }
        }
    }

    /// Where each port belongs as things are.
    fn agreed(&self) -> PortStatuses {
        let placements = agree(&self.assess_ports());
        self.specs
            .iter()
            .filter_map(|spec| {
                let placement = placements.get(&spec.name)?.clone();
                Some((
                    spec.name.clone(),
                    PortStatus {
                        interface: spec.interface.clone(),
                        placement,
                    },
                ))
            })
            .collect()
    }

    fn programs_needed(&self) -> usize {
        let assessments = self.assess_ports();
        let needs = |assessment: &&Assessment| assessment.possible.first() == Some(&Tier::AfXdp);
        assessments.values().filter(needs).count()
    }

    /// Whether the programs that the ports may need are there; starts loading them if not.
    pub(super) fn are_programs_ready(&mut self) -> bool {
        let count = self.programs_needed();
        self.resources.programs.preload(count);
        self.resources.programs.is_settled()
    }

    /// Has the programs ready that the ports may need, while what runs still runs.
    fn load_programs(&mut self) {
        let count = self.programs_needed();
        // An error comes again, and is told, when the engine asks for them.
        let _ = self.resources.programs.ensure(count);
    }

    pub(super) fn stop_engine(&mut self) {
        self.tracer.end();
        match std::mem::replace(&mut self.engine, Engine::Idle) {
            Engine::Fast(engine) => engine.stop(),
            // Dropping it closes the listeners; its addresses are in the journal.
            Engine::Socket(_) | Engine::Idle => {}
        }
        self.compiled = None;
    }

    fn assess_ports(&self) -> BTreeMap<String, Assessment> {
        let kernel = self.kernel.mirror.read();
        let guarded = guarded_links(&kernel, self.options.ssh_client, self.options.taking);
        self.specs
            .iter()
            .map(|spec| {
                let sysfs = Path::new(march_lcore::SYSFS);
                let limits = Limits {
                    highest: self.options.tier_limit,
                    guarded: guard_below(&guarded, &kernel, sysfs, &spec.interface),
                    failed: self.failed.get(&spec.name).cloned().unwrap_or_default(),
                };
                let facts = Facts::gather(&spec.interface, &kernel);
                (
                    spec.name.clone(),
                    assess(&spec.interface, &spec.request, &facts, &limits),
                )
            })
            .collect()
    }

    /// The ports that the lcores are to drive.
    fn planned(&self) -> Vec<PlannedPort> {
        self.specs
            .iter()
            .filter_map(|spec| {
                let tier = self
                    .statuses
                    .get(&spec.name)?
                    .placement
                    .tier
                    .clone()
                    .filter(Tier::is_fast)?;
                Some(PlannedPort {
                    name: spec.name.clone(),
                    interface: spec.interface.clone(),
                    tier,
                    nat_addresses: spec.nat_addresses.clone(),
                    nat_ports: spec.nat_ports,
                })
            })
            .collect()
    }

    async fn start_engine(&mut self, planned: &[PlannedPort]) -> Result<(), EngineError> {
        if !planned.is_empty() {
            return self.start_fast(planned).await;
        }
        let socket: Vec<(String, String)> = self
            .statuses
            .iter()
            .filter(|(_, status)| status.placement.tier.is_some())
            .map(|(name, status)| (name.clone(), status.interface.clone()))
            .collect();
        if !socket.is_empty() {
            self.traffic = Arc::new(Counters::new(counter_limits()));
            self.engine = Engine::Socket(SocketEngine::new(socket, self.publisher.current()));
        }
        Ok(())
    }

    async fn start_fast(&mut self, planned: &[PlannedPort]) -> Result<(), EngineError> {
        let prepared = engine::prepare(
            planned,
            &self.kernel,
            &mut self.takeover,
            &mut self.resources,
        )
        .await?;
        // The mirror must know the twins' addresses before the first generation is compiled from it.
        self.kernel.settle().await?;
        let compiled = self
            .compile(&prepared.ports, march_model::Plane::FastPath)
            .map_err(|errors| refused(&errors))?;
        let current = self.publisher.current();
        let generation = first_generation(&compiled.config, &current)
            .map_err(|error| EngineError::Node(error.to_string()))?;
        self.publisher.publish(generation);
        self.traffic = Arc::new(Counters::new(counter_limits()));
        let mut engine = prepared.run(
            &self.options.lcores,
            self.publisher.reader(),
            Arc::clone(&self.traffic),
        )?;
        if let Err(error) = engine.steer(&compiled.config) {
            engine.stop();
            return Err(error);
        }
        tracing::info!(
            event = "engine.running",
            tier = %engine.family,
            ports = engine.ports.len(),
            cpu = engine.lcore().cpu,
            "the engine runs"
        );
        self.engine = Engine::Fast(Box::new(engine));
        self.adopt(compiled).await;
        Ok(())
    }

    /// Notes why a tier did not start, for the port that it is about, or for all of them.
    fn pass_over(&mut self, planned: &[PlannedPort], error: &EngineError) {
        let blamed = match error {
            EngineError::Port { port, .. } => Some(port.as_str()),
            _ => None,
        };
        for port in planned
            .iter()
            .filter(|port| blamed.is_none_or(|name| name == port.name))
        {
            let reason = match error {
                EngineError::Port { reason, .. } => reason.clone(),
                other => other.to_string(),
            };
            tracing::warn!(
                event = "ladder.not_started",
                port = port.name,
                tier = %port.tier,
                reason,
                "the tier does not start; the next one is tried"
            );
            self.failed
                .entry(port.name.clone())
                .or_default()
                .insert(port.tier.clone(), reason);
        }
    }

    fn say_placements(&self) {
        for (port, status) in &self.statuses {
            let Placement {
                tier,
                passed,
                state,
            } = &status.placement;
            let tier = tier
                .as_ref()
                .map_or_else(|| "none".to_owned(), ToString::to_string);
            for passed in passed {
                let (rung, why) = (passed.tier.to_string(), passed.why.as_str());
                tracing::info!(
                    event = "ladder.passed_over",
                    port,
                    rung,
                    why,
                    "tier passed over"
                );
            }
            if *state == PortState::Up {
                tracing::info!(
                    event = "ladder.placed",
                    port,
                    interface = status.interface,
                    tier,
                    "port placed"
                );
            } else {
                tracing::error!(
                    event = "ladder.not_placed",
                    port,
                    interface = status.interface,
                    state = state.as_str(),
                    "the port does not run; the others go on"
                );
            }
        }
    }
}

fn refused(errors: &[march_model::FieldError]) -> EngineError {
    let words: Vec<String> = errors.iter().map(ToString::to_string).collect();
    EngineError::Node(words.join("; "))
}
