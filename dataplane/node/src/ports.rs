//! What the documents say of this node's ports, before the ladder has decided anything.

use std::collections::BTreeMap;
use std::net::IpAddr;

use march_model::{FieldError, State};

use crate::ladder::{Placement, Request};

/// One port of this node, as documented.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortSpec {
    /// Name of the document.
    pub name: String,
    /// The interface.
    pub interface: String,
    /// The tier that it asks for.
    pub request: Request,
    /// Addresses for source NAT.
    pub nat_addresses: Vec<IpAddr>,
    /// First and last source port for NAT.
    pub nat_ports: (u16, u16),
}

/// A port and what became of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PortStatus {
    /// The interface.
    pub interface: String,
    /// The ladder's answer.
    pub placement: Placement,
}

/// By name of the document.
pub type PortStatuses = BTreeMap<String, PortStatus>;

/// The ports of `node`, sorted by name.
pub fn specs(state: &State, node: &str) -> Result<Vec<PortSpec>, Vec<FieldError>> {
    let mut errors = Vec::new();
    let mut specs: Vec<PortSpec> = Vec::new();
    for (metadata, port) in state.ports().filter(|(_, port)| port.node.as_str() == node) {
        let document = format!("Port/{}", metadata.name);
        let request = port.tier.to_string().parse().unwrap_or_else(|message| {
            errors.push(FieldError::of_document(
                document.clone(),
                "spec.tier",
                message,
            ));
            Request::Auto
        });
        let interface = port.interface.as_str().to_owned();
        if let Some(other) = specs.iter().find(|spec| spec.interface == interface) {
            let message = format!(
                "port {} of this node has interface {interface} already",
                other.name
            );
            errors.push(FieldError::of_document(document, "spec.interface", message));
        }
        specs.push(PortSpec {
            name: metadata.name.as_str().to_owned(),
            interface,
            request,
            nat_addresses: port.nat.addresses.clone(),
            nat_ports: (port.nat.ports.first(), port.nat.ports.last()),
        });
    }
    if errors.is_empty() {
        Ok(specs)
    } else {
        Err(errors)
    }
}

/// What decides whether the engine must start anew: names, interfaces and tiers, not NAT.
#[must_use]
pub fn shape(specs: &[PortSpec]) -> Vec<(String, String, Request)> {
    specs
        .iter()
        .map(|spec| {
            (
                spec.name.clone(),
                spec.interface.clone(),
                spec.request.clone(),
            )
        })
        .collect()
}
