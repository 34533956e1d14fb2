//! The engine of the socket rung: services are listeners on the kernel's stack, and their addresses are the kernel's.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use march_socket::{Limits, SocketTier, TierReading};
use march_tables::{Config, Generation};

use crate::kernel::{KernelState, Prefix};
use crate::takeover::Takeover;

/// A running socket tier.
#[derive(Debug)]
pub struct SocketEngine {
    tier: SocketTier,
    /// Names of the ports at this rung.
    pub ports: Vec<String>,
    interfaces: Vec<String>,
    /// Services' addresses and the interfaces that they were put on.
    addresses: BTreeSet<(IpAddr, String)>,
}

impl SocketEngine {
    /// A tier over `ports` (document and interface names) that listens nowhere yet.
    #[must_use]
    pub fn new(ports: Vec<(String, String)>, generation: Arc<Generation>) -> Self {
        let (ports, interfaces) = ports.into_iter().unzip();
        Self {
            tier: SocketTier::new(Limits::default(), generation),
            ports,
            interfaces,
            addresses: BTreeSet::new(),
        }
    }

    /// Where each service's address is to be: see [`home`].
    #[must_use]
    pub fn homes(&self, config: &Config, kernel: &KernelState) -> BTreeSet<(IpAddr, String)> {
        config
            .live_services()
            .filter(|(_, service)| service.address.is_host())
            .map(|(_, service)| service.address.address())
            .map(|address| (address, home(address, &self.interfaces, kernel)))
            .collect()
    }

    /// Opens the services' listeners and makes their addresses the kernel's, in this order, so that nobody is refused in
    /// between. Returns what could not be done; the next call tries it again.
    pub async fn publish(
        &mut self,
        homes: BTreeSet<(IpAddr, String)>,
        generation: Arc<Generation>,
        takeover: &mut Takeover,
    ) -> Vec<String> {
        let report = self.tier.publish(generation).await;
        let mut failures: Vec<String> = report.failures.iter().map(ToString::to_string).collect();
        let before = self.addresses.clone();
        for (address, interface) in homes.difference(&before) {
            match takeover.put_service_address(*address, interface).await {
                Ok(()) => {
                    self.addresses.insert((*address, interface.clone()));
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        for (address, interface) in before.difference(&homes) {
            match takeover.drop_service_address(*address, interface).await {
                Ok(()) => {
                    self.addresses.remove(&(*address, interface.clone()));
                }
                Err(error) => failures.push(error.to_string()),
            }
        }
        failures
    }

    /// The counters now.
    #[must_use]
    pub fn read(&self) -> TierReading {
        self.tier.read()
    }
}

/// The port whose link the address belongs to, where neighbours ask for it: the kernel answers neighbour solicitations only
/// for addresses of the interface that they come in on. An address of no link is routed here and lives on loopback.
fn home(address: IpAddr, interfaces: &[String], kernel: &KernelState) -> String {
    let on_link = interfaces.iter().find(|interface| {
        let Some(link) = kernel.link_named(interface) else {
            return false;
        };
        kernel.addresses_of(link.index).any(|local| {
            let is_subnet = local.prefix_len < Prefix::host(local.address).len;
            is_subnet && Prefix::new(local.address, local.prefix_len).contains(address)
        })
    });
    on_link.cloned().unwrap_or_else(|| "lo".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::state::{Change, Link, LocalAddress};

    #[test]
    fn an_address_lives_where_its_neighbours_ask_for_it() {
        let mut kernel = KernelState::default();
        for (index, name, address) in [(2, "eth1", "10.1.0.1"), (3, "eth2", "10.2.0.1")] {
            let link = Link {
                index,
                name: name.into(),
                mac: [0; 6],
                mtu: 1500,
                is_up: true,
                has_carrier: true,
                is_ethernet: true,
            };
            kernel.apply(Change::Link(link));
            let address = address.parse().expect("an address");
            kernel.apply(Change::Address(LocalAddress {
                link: index,
                address,
                prefix_len: 24,
            }));
        }
        let interfaces = ["eth1".to_owned(), "eth2".to_owned()];
        let home = |text: &str| home(text.parse().expect("an address"), &interfaces, &kernel);
        assert_eq!(home("10.2.0.10"), "eth2");
        assert_eq!(home("203.0.113.10"), "lo");
        assert_eq!(home("2001:db8::10"), "lo");
    }
}
