//! What the steering programs are told, out of a generation's configuration.

use std::net::IpAddr;

use march_bpf_loader::{AddressSet, NatAddress, Transit};
use march_tables::{Action, Config, Mode, PortTable, Stance};

/// One set for all ports: a VIP or NAT address may be asked for on any of them.
pub(super) fn address_set(config: &Config) -> AddressSet {
    let nat = config.ports.iter().flat_map(|port| {
        let v4 = port.nat4.addresses.iter().map(|address| {
            (
                IpAddr::V4(*address),
                port.nat4.first_port,
                port.nat4.last_port,
            )
        });
        let v6 = port.nat6.addresses.iter().map(|address| {
            (
                IpAddr::V6(*address),
                port.nat6.first_port,
                port.nat6.last_port,
            )
        });
        v4.chain(v6)
    });
    // Under `nat` the backends' replies go to the client's own address, which is nobody's here.
    let replies = config
        .live_services()
        .any(|(_, service)| service.mode == Mode::Nat);
    // Whatever a rule does but drop, and what a port lets through by itself, is done to packets in transit too.
    let acts = config.rules.iter().any(|rule| rule.action != Action::Drop);
    let passes = |port: &PortTable| port.unmatched.transit == Stance::Allow;
    let judged = replies || acts || config.ports.iter().any(passes);
    AddressSet {
        kernel: config.local.to_vec(),
        vips: config
            .live_services()
            .map(|(_, service)| service.address)
            .collect(),
        nat: nat
            .map(|(address, first_port, last_port)| NatAddress {
                address,
                first_port,
                last_port,
            })
            .collect(),
        transit: if judged {
            Transit::Judged
        } else {
            Transit::Denied
        },
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use march_tables::{NatPool, Redirect, Rule, Unmatched};

    use super::*;

    fn rule(action: Action) -> Rule {
        Rule {
            name: "r".into(),
            priority: 1,
            sources: Vec::new(),
            destinations: Vec::new(),
            source_ports: Vec::new(),
            ports: Vec::new(),
            protocol: None,
            action,
            ..Rule::vacant()
        }
    }

    #[test]
    fn transit_reaches_the_socket_only_where_something_is_done_with_it() {
        let mut config = Config {
            rules: [rule(Action::Drop)].into(),
            ..Config::default()
        };
        assert_eq!(address_set(&config).transit, Transit::Denied);
        let actions = [
            Action::Allow,
            Action::Reject,
            Action::Count,
            Action::Punt,
            Action::Redirect(Redirect::Port(0)),
        ];
        for action in actions {
            config.rules = [rule(Action::Drop), rule(action)].into();
            assert_eq!(address_set(&config).transit, Transit::Judged, "{action:?}");
        }
        config.rules = [rule(Action::Drop)].into();
        config.ports = Arc::from([PortTable {
            unmatched: Unmatched {
                transit: Stance::Allow,
                ..Unmatched::default()
            },
            ..PortTable::default()
        }]);
        assert_eq!(address_set(&config).transit, Transit::Judged);
    }

    #[test]
    fn nat_addresses_carry_their_port_range() {
        let address = std::net::Ipv4Addr::new(192, 0, 2, 1);
        let nat4 = NatPool {
            addresses: Box::from([address]),
            first_port: 20_000,
            last_port: 32_767,
        };
        let port = PortTable {
            nat4,
            ..PortTable::default()
        };
        let config = Config {
            ports: Arc::from([port]),
            local: Arc::from([IpAddr::V4(address)]),
            ..Config::default()
        };
        let set = address_set(&config);
        assert_eq!(set.kernel, [IpAddr::V4(address)]);
        let expected = NatAddress {
            address: IpAddr::V4(address),
            first_port: 20_000,
            last_port: 32_767,
        };
        assert_eq!(set.nat, [expected]);
    }
}
