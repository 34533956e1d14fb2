//! Compiling and publishing.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Instant, SystemTime};

use march_model::{FieldError, Plane};
use march_proto::v1::Timings;
use march_tables::{BuildError, Config, Generation};

use super::inbound::micros;
use super::{Agent, Desired};
use crate::compile::{self, AdminStates, Compiled, FastPort, Ids, Inputs, PeerOffload};
use crate::engine::{Engine, counter_limits};
use crate::kernel::Mirror;
use crate::ports::{PortSpec, shape, specs};
use crate::session::Running;

impl Agent {
    /// Makes `desired` what this node runs, or refuses it and goes back to what was desired before; the caller refreshes.
    pub(super) async fn apply(
        &mut self,
        desired: Desired,
        received: Instant,
    ) -> Result<Timings, Vec<FieldError>> {
        let specs = specs(&desired.state, &self.options.node)?;
        let is_reshaped =
            shape(&specs) != shape(&self.specs) || matches!(self.engine, Engine::Idle);
        if is_reshaped {
            self.check(&desired, &specs)?;
        }
        let hash = desired.state.hash().to_string();
        let revision = desired.revision;
        let specs_before = std::mem::replace(&mut self.specs, specs);
        let desired_before = self.desired.replace(desired);
        self.fit_ports(is_reshaped).await;
        match self.build_and_publish(received).await {
            Ok(mut timings) => {
                timings.running_us = micros(received);
                self.running.send_replace(Running { revision, hash });
                Ok(timings)
            }
            Err(errors) => {
                // What is refused must not come to run at the kernel's next change. With nothing before it, it is all
                // there is to try.
                if desired_before.is_some() {
                    self.specs = specs_before;
                    self.desired = desired_before;
                    self.fit_ports(is_reshaped).await;
                }
                Err(errors)
            }
        }
    }

    async fn fit_ports(&mut self, is_reshaped: bool) {
        if is_reshaped {
            self.failed.clear();
            self.place_ports().await;
        } else {
            self.renew_nat();
        }
    }

    /// Compiles for ports as documented, before any interface is touched.
    fn check(&self, desired: &Desired, specs: &[PortSpec]) -> Result<(), Vec<FieldError>> {
        let ports: Vec<FastPort> = specs
            .iter()
            .zip(0..)
            .map(|(spec, index)| documented(spec, index))
            .collect();
        self.basis(Plane::FastPath).build(desired, &ports).map(drop)
    }

    /// What is driven now, and who decides about its traffic.
    fn driven(&self) -> (&[FastPort], Plane) {
        match &self.engine {
            Engine::Fast(engine) => (&engine.ports, Plane::FastPath),
            Engine::Socket(_) => (&[], Plane::SocketTier),
            Engine::Idle => (&[], Plane::FastPath),
        }
    }

    /// What a generation that is published to nobody is made from.
    pub(super) fn basis(&self, plane: Plane) -> Basis {
        Basis {
            current: self.publisher.current(),
            ids: self.ids.clone(),
            mirror: self.kernel.mirror.clone(),
            unhealthy: self.unhealthy.clone(),
            admin: self.admin.clone(),
            node: self.options.node.clone(),
            plane,
        }
    }

    /// NAT changes are a generation, not another engine.
    fn renew_nat(&mut self) {
        if let Engine::Fast(engine) = &mut self.engine {
            for port in &mut engine.ports {
                if let Some(spec) = self.specs.iter().find(|spec| spec.name == port.name) {
                    port.nat_addresses.clone_from(&spec.nat_addresses);
                    port.nat_ports = spec.nat_ports;
                }
            }
        }
    }

    /// Something other than the documents changed: compiles again, and publishes if that made a difference.
    pub(super) async fn refresh(&mut self, cause: &'static str) {
        if self.desired.is_none() {
            return;
        }
        let refused = self.build_and_publish(Instant::now()).await.err();
        for error in refused.iter().flatten() {
            tracing::error!(event = "generation.refused", cause, %error, "cannot compile; the running generation stays");
        }
        let first = refused.iter().flatten().next();
        let trouble = first.map(|error| format!("the running generation is old: {error}"));
        self.note_trouble("generation", trouble);
    }

    /// A rule or mapping that ends makes a generation without it, so that its flows are judged again.
    pub(super) async fn follow_time(&mut self) {
        let next_end = self
            .compiled
            .as_ref()
            .and_then(|compiled| compiled.next_end);
        if next_end.is_some_and(|end| end <= SystemTime::now().into()) {
            tracing::info!(event = "rules.ended", "a rule or mapping ended");
            self.refresh("time").await;
        }
    }

    pub(super) fn compile(
        &mut self,
        ports: &[FastPort],
        plane: Plane,
    ) -> Result<Compiled, Vec<FieldError>> {
        let Some(desired) = &self.desired else {
            return Err(Vec::new());
        };
        let kernel = self.kernel.mirror.read();
        let inputs = Inputs {
            revision: desired.revision,
            state: &desired.state,
            sets: &desired.sets,
            ports,
            kernel: &kernel,
            unhealthy: &self.unhealthy,
            admin: &self.admin,
            node: &self.options.node,
            plane,
            now: SystemTime::now().into(),
        };
        compile::compile(&inputs, &mut self.ids)
    }

    async fn build_and_publish(&mut self, received: Instant) -> Result<Timings, Vec<FieldError>> {
        let (ports, plane) = self.driven();
        let ports = ports.to_vec();
        let compiled = self.compile(&ports, plane)?;
        check_limits(&compiled.config)?;
        let is_same = self
            .compiled
            .as_ref()
            .is_some_and(|last| last.config == compiled.config);
        let mut timings = Timings {
            generation: self.publisher.current().id,
            ..Timings::default()
        };
        if is_same {
            timings.compiled_us = micros(received);
            timings.published_us = timings.compiled_us;
        } else {
            let current = self.publisher.current();
            let generation = march_tables::build(&compiled.config, Some(&current))
                .map_err(|error| vec![field_error(&error)])?;
            timings.compiled_us = micros(received);
            timings.generation = generation.id;
            self.publisher.publish(generation);
            timings.published_us = micros(received);
        }
        self.adopt(compiled).await;
        if let Engine::Fast(engine) = &self.engine
            && !engine.wait_for_generation(timings.generation).await
        {
            tracing::error!(
                event = "generation.not_running",
                generation = timings.generation,
                "an lcore does not follow"
            );
            return Err(vec![FieldError::of_document(
                "",
                "",
                "an lcore does not take the new generation".to_owned(),
            )]);
        }
        self.follow_up().await;
        timings.running_us = micros(received);
        Ok(timings)
    }

    /// Everything beside the lcores that follows from a compilation.
    pub(super) async fn adopt(&mut self, compiled: Compiled) {
        let owned = match &self.engine {
            Engine::Fast(_) => compiled.owned.clone(),
            _ => BTreeSet::new(),
        };
        let trouble = self
            .takeover
            .set_blackholes(&owned)
            .await
            .err()
            .map(|error| error.to_string());
        if let Some(trouble) = &trouble {
            tracing::error!(
                event = "takeover.blackhole_failed",
                trouble,
                "the kernel may answer for a service's address"
            );
        }
        self.note_trouble("blackhole", trouble);
        self.resolver.set_wanted(compiled.next_hops.clone());
        self.unhealthy
            .retain(|slot| compiled.targets.iter().any(|target| target.slot == *slot));
        self.targets.send_if_modified(|targets| {
            let is_new = *targets != compiled.targets;
            targets.clone_from(&compiled.targets);
            is_new
        });
        self.compiled = Some(compiled);
    }

    /// What must come after the lcores run the generation: steering programs, or the socket tier's listeners.
    pub(super) async fn follow_up(&mut self) {
        let Some(compiled) = &self.compiled else {
            return;
        };
        let trouble = match &mut self.engine {
            Engine::Idle => None,
            Engine::Fast(engine) => engine
                .steer(&compiled.config)
                .err()
                .map(|error| error.to_string()),
            Engine::Socket(engine) => {
                let generation = self.publisher.current();
                let homes = engine.homes(&compiled.config, &self.kernel.mirror.read());
                let failures = engine.publish(homes, generation, &mut self.takeover).await;
                (!failures.is_empty()).then(|| failures.join("; "))
            }
        };
        if let Some(trouble) = &trouble
            && self.troubles.get("steering") != Some(trouble)
        {
            tracing::error!(
                event = "engine.not_steered",
                trouble,
                "traffic does not reach every service"
            );
        }
        self.note_trouble("steering", trouble);
    }
}

/// What a compilation needs of the agent besides documents and ports.
#[derive(Clone, Debug)]
pub(super) struct Basis {
    /// What runs.
    pub current: Arc<Generation>,
    ids: Ids,
    mirror: Mirror,
    unhealthy: BTreeSet<u16>,
    admin: AdminStates,
    node: String,
    plane: Plane,
}

impl Basis {
    /// The generation that `desired` would make now.
    pub(super) fn build(
        mut self,
        desired: &Desired,
        ports: &[FastPort],
    ) -> Result<Generation, Vec<FieldError>> {
        // A copy: who follows the kernel must not wait until this is compiled.
        let kernel = self.mirror.read().clone();
        let inputs = Inputs {
            revision: desired.revision,
            state: &desired.state,
            sets: &desired.sets,
            ports,
            kernel: &kernel,
            unhealthy: &self.unhealthy,
            admin: &self.admin,
            node: &self.node,
            plane: self.plane,
            now: SystemTime::now().into(),
        };
        let compiled = compile::compile(&inputs, &mut self.ids)?;
        check_limits(&compiled.config)?;
        march_tables::build(&compiled.config, Some(&self.current))
            .map_err(|error| vec![field_error(&error)])
    }
}

/// A port as documented, for a compilation that only looks for errors.
fn documented(spec: &PortSpec, index: u32) -> FastPort {
    FastPort {
        name: spec.name.clone(),
        interface: spec.interface.clone(),
        carrier: u32::MAX - index,
        mac: [0; 6],
        mtu: 1500,
        nat_addresses: spec.nat_addresses.clone(),
        nat_ports: spec.nat_ports,
        peer_offload: PeerOffload::Possible,
    }
}

/// Counters are allocated once; a configuration with more things than can be counted is refused.
fn check_limits(config: &Config) -> Result<(), Vec<FieldError>> {
    let limits = counter_limits();
    let counts = [
        ("ports", config.ports.len(), limits.ports),
        ("services", config.services.len(), limits.services),
        ("rules", config.rules.len(), limits.rules),
    ];
    let errors: Vec<FieldError> = counts
        .into_iter()
        .filter(|(_, count, limit)| count > limit)
        .map(|(what, count, limit)| {
            FieldError::of_document(
                "",
                what,
                format!("{count} {what} are more than the {limit} that one node can run"),
            )
        })
        .collect();
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

fn field_error(error: &BuildError) -> FieldError {
    let (document, path) = match error {
        BuildError::ServiceOverlap { second, .. } => (format!("Service/{second}"), "spec.address"),
        BuildError::ServiceKey { service, .. } => (format!("Service/{service}"), "spec.port"),
        BuildError::UnknownPool { service, .. } => (format!("Service/{service}"), "spec.pool"),
        BuildError::RulePorts { rule, .. } => (rule_document(rule), "spec.match.ports"),
        BuildError::RulesMeet { rule, .. } => (rule_document(rule), "spec.match"),
        BuildError::GuardSet { port, .. } => (format!("Port/{port}"), "spec.guard"),
        BuildError::GuardLimit { port, .. } => (format!("Port/{port}"), "spec.guard.perSource"),
        BuildError::NatPorts { port, .. } => (format!("Port/{port}"), "spec.nat.ports"),
        BuildError::BackendSlot { pool, .. } | BuildError::DuplicateBackend { pool, .. } => {
            (format!("Pool/{pool}"), "spec.backends")
        }
        _ => (String::new(), ""),
    };
    FieldError::of_document(document, path, error.to_string())
}

/// The document that a compiled rule is of: those of mappings are named `MAPPING/PART`.
fn rule_document(rule: &str) -> String {
    match rule.split_once('/') {
        Some((mapping, _)) => format!("Mapping/{mapping}"),
        None => format!("Rule/{rule}"),
    }
}

/// The first generation of another engine.
pub(super) fn first_generation(
    config: &Config,
    after: &Generation,
) -> Result<Generation, BuildError> {
    // Other ports than before: nothing of the old tables fits, and no lcore is left that remembers them.
    let mut generation = march_tables::build(config, None)?;
    generation.id = after.id + 1;
    Ok(generation)
}
