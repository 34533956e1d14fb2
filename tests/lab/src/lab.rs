//! A lab that runs: network, servers, and what carries the traffic.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::load::{Kind, Load, Plan};
use crate::product::{self, PATIENCE, Product};
use crate::servers::{self, Backend};
use crate::tier::Tier;
use crate::topology::{self, BACKENDS, Offloads, VIP4, VIP6};
use crate::{baseline, documents, poll};

/// Network, servers and product (or the kernel in its place).
#[derive(Debug)]
pub struct Lab {
    /// What carries the traffic.
    pub tier: Tier,
    /// Servers by the names of [`BACKENDS`].
    pub backends: BTreeMap<&'static str, Backend>,
    product: Option<Product>,
}

impl Lab {
    /// The network and the servers, nothing between them yet.
    pub fn bare(tier: Tier, offloads: Offloads) -> Result<Self> {
        topology::build(offloads).context("the lab's network")?;
        let mut backends = BTreeMap::new();
        for (index, name) in BACKENDS.into_iter().enumerate() {
            backends.insert(name, servers::start(index)?);
        }
        Ok(Self {
            tier,
            backends,
            product: None,
        })
    }

    /// A lab that carries traffic: the lab's documents are applied and every service answers.
    pub fn start(tier: Tier, offloads: Offloads) -> Result<Self> {
        let mut lab = Self::bare(tier, offloads)?;
        if tier == Tier::Kernel {
            baseline::start()?;
        } else {
            if tier == Tier::Socket {
                topology::route_vips()?;
            }
            let product = Product::start()?;
            product.apply("lab.yaml", &documents::all(tier))?;
            lab.product = Some(product);
            lab.wait_for_tier()?;
        }
        lab.wait_for_answers()?;
        Ok(lab)
    }

    /// Starts the product in a lab that has none yet.
    pub fn start_product(&mut self) -> Result<&mut Product> {
        Ok(self.product.insert(Product::start()?))
    }

    /// The product. Scenarios that use it do not run on [`Tier::Kernel`].
    pub fn product(&self) -> &Product {
        self.product.as_ref().expect("this lab runs the product")
    }

    /// The product, to stop and start parts of it.
    pub fn product_mut(&mut self) -> &mut Product {
        self.product.as_mut().expect("this lab runs the product")
    }

    /// Whether this lab runs the product.
    pub fn has_product(&self) -> bool {
        self.product.is_some()
    }

    /// Nothing may claim another tier than it runs, and nothing else may run than what was asked for.
    fn wait_for_tier(&self) -> Result<()> {
        let product = self.product();
        let wanted = self.tier.asked_for();
        poll::until_ok(&format!("both ports run {wanted}"), PATIENCE, || {
            let telemetry = product.telemetry()?;
            for name in ["wan", "lan"] {
                let port = product::port(&telemetry, name)?;
                ensure!(
                    port.tier == wanted && port.state == "up",
                    "{name} is {} and runs {}: {:?}",
                    port.state,
                    port.tier,
                    port.reasons
                );
            }
            Ok(())
        })
        .with_context(|| product.logs())
    }

    fn wait_for_answers(&self) -> Result<()> {
        let plans = [
            Plan::new(Kind::Http, VIP4, 80),
            Plan::new(Kind::Http, VIP6, 80),
            Plan::new(Kind::Udp, VIP4, 9000),
            Plan::new(Kind::Udp, VIP6, 9000),
        ];
        for plan in plans {
            let what = format!(
                "{:?} requests to {} are answered by every backend",
                plan.kind, plan.target
            );
            // Many short flows: health checks may still be bringing backends in.
            let load = Load::start(&Plan {
                patience_ms: 1000,
                ..plan.flows(48).rate(400)
            })?;
            let answered = load.until(&what, PATIENCE, |report| report.right > 0);
            answered
                .with_context(|| self.product.as_ref().map(Product::logs).unwrap_or_default())?;
        }
        if let Some(product) = &self.product {
            poll::until_ok("every backend is up", PATIENCE, || {
                let telemetry = product.telemetry()?;
                let waiting: Vec<_> = telemetry
                    .backends
                    .iter()
                    .filter(|backend| !matches!(backend.health.as_str(), "up" | "unchecked"))
                    .collect();
                ensure!(
                    waiting.is_empty() && !telemetry.backends.is_empty(),
                    "backends not up: {waiting:?}"
                );
                Ok(())
            })
            .with_context(|| product.logs())?;
        }
        Ok(())
    }

    /// Kills the nginx of one backend, as a crash would.
    pub fn kill_http(&mut self, name: &str) -> Result<()> {
        self.backends
            .get_mut(name)
            .context("no such backend")?
            .http
            .kill()
    }

    /// Starts the nginx of one backend again.
    pub fn revive_http(&mut self, name: &'static str) -> Result<()> {
        let backend = self.backends.get_mut(name).context("no such backend")?;
        backend.http = servers::nginx(name)?;
        poll::until(
            &format!("nginx of {name} listens"),
            Duration::from_secs(10),
            || servers::listens(name, servers::HTTP_PORT).then_some(()),
        )
    }
}
