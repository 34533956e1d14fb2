//! The engine of the socket rung: services are listeners on the kernel's stack, and their addresses are the kernel's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use march_socket::{Limits, SocketTier, TierReading};
use march_tables::{Config, Generation};
use rtnetlink::Handle;

use super::EngineError;
use crate::kernel::change;
use crate::takeover::Takeover;

/// A running socket tier.
#[derive(Debug)]
pub struct SocketEngine {
    tier: SocketTier,
    handle: Handle,
    /// Names of the ports at this rung.
    pub ports: Vec<String>,
    addresses: BTreeSet<IpAddr>,
}

impl SocketEngine {
    /// A tier that listens nowhere yet.
    #[must_use]
    pub fn new(handle: Handle, ports: Vec<String>, generation: Arc<Generation>) -> Self {
        Self {
            tier: SocketTier::new(Limits::default(), generation),
            handle,
            ports,
            addresses: BTreeSet::new(),
        }
    }

    /// Makes the services' addresses the kernel's and opens their listeners. Returns what could not be opened.
    pub async fn publish(
        &mut self,
        config: &Config,
        generation: Arc<Generation>,
        takeover: &mut Takeover,
    ) -> Result<Vec<String>, EngineError> {
        let wanted: BTreeSet<IpAddr> = config
            .services
            .iter()
            .filter(|service| service.address.is_host())
            .map(|service| service.address.address())
            .collect();
        for address in wanted.difference(&self.addresses) {
            if !config.local.contains(address) {
                takeover.note_service_address(*address)?;
            }
            change::add_service_address(&self.handle, *address).await?;
        }
        let report = self.tier.publish(generation).await;
        for address in self.addresses.difference(&wanted) {
            takeover.drop_service_address(*address).await?;
        }
        self.addresses = wanted;
        Ok(report.failures.iter().map(ToString::to_string).collect())
    }

    /// The counters now.
    #[must_use]
    pub fn read(&self) -> TierReading {
        self.tier.read()
    }
}
