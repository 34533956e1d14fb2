use std::collections::BTreeSet;

use march_tables::RouteTarget;

use march_pipeline::Limits;

use super::*;
use crate::kernel::state::{
    Change, Hop, KernelRoute, Link, LocalAddress, Merge, Neighbour, RouteAction, RouteKey,
    RouteOrigin,
};

const DOCUMENTS: &str = r"
apiVersion: marchproxy/v1
kind: Port
metadata: { name: wan0 }
spec: { node: node1, interface: eth1, tier: auto, nat: { addresses: [192.0.2.100] } }
---
apiVersion: marchproxy/v1
kind: Service
metadata: { name: web }
spec: { address: 192.0.2.10, port: 80, protocol: tcp, pool: web }
---
apiVersion: marchproxy/v1
kind: Pool
metadata: { name: web }
spec:
  backends: [ { address: 10.0.1.11, port: 8080 }, { address: 10.0.1.12, port: 8080 }, { address: 172.16.0.9, port: 8080 } ]
  healthCheck: { type: tcp }
---
apiVersion: marchproxy/v1
kind: Rule
metadata: { name: no-strangers }
spec: { priority: 100, match: { sources: [198.51.100.0/24], ports: [80], protocol: tcp }, action: drop }
";

fn state() -> State {
    let batch = march_model::Batch::parse(&[march_model::Source {
        name: "test.yaml".into(),
        text: DOCUMENTS.into(),
    }]);
    State::default()
        .plan(batch, march_model::Others::Keep, Timestamp::EPOCH)
        .expect("the documents are valid")
        .state
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

fn link(index: u32, name: &str) -> Change {
    let mac = [2, 0, 0, 0, 0, u8::try_from(index).expect("small")];
    Change::Link(Link {
        index,
        name: name.into(),
        mac,
        mtu: 1500,
        is_up: true,
        has_carrier: true,
        is_ethernet: true,
    })
}

fn address(link: u32, text: &str, prefix_len: u8) -> Change {
    Change::Address(LocalAddress {
        link,
        address: ip(text),
        prefix_len,
    })
}

fn route(prefix: &str, len: u8, gateway: Option<&str>, link: u32) -> Change {
    let key = RouteKey {
        prefix: Prefix::new(ip(prefix), len),
        metric: 0,
    };
    let hops = vec![Hop {
        gateway: gateway.map(ip),
        link,
    }];
    Change::Route(
        key,
        KernelRoute {
            action: RouteAction::Forward(hops),
            origin: RouteOrigin::System,
        },
        Merge::Append,
    )
}

fn kernel() -> KernelState {
    let mut kernel = KernelState::default();
    let changes = [
        link(2, "eth1"),
        link(9, "eth9"),
        address(2, "10.0.1.1", 24),
        address(2, "fe80::1", 64),
        address(2, "2001:db8::1", 64),
        address(9, "203.0.113.1", 24),
        route("10.0.1.0", 24, None, 2),
        route("172.16.0.0", 12, Some("10.0.1.254"), 2),
        route("203.0.113.0", 24, None, 9),
        route("fe80::", 64, None, 2),
        Change::Neighbour(
            2,
            ip("10.0.1.11"),
            Neighbour {
                mac: Some([2, 0, 0, 0, 1, 1]),
                has_failed: false,
            },
        ),
        Change::Neighbour(
            9,
            ip("203.0.113.7"),
            Neighbour {
                mac: Some([2, 0, 0, 0, 9, 7]),
                has_failed: false,
            },
        ),
    ];
    for change in changes {
        kernel.apply(change);
    }
    kernel
}

fn ports() -> Vec<FastPort> {
    vec![FastPort {
        name: "wan0".into(),
        interface: "eth1".into(),
        carrier: 2,
        mac: [2, 0, 0, 0, 0, 2],
        mtu: 1500,
        nat_addresses: vec![ip("192.0.2.100")],
        nat_ports: (20_000, 32_767),
        peer_offload: PeerOffload::Possible,
    }]
}

fn compiled(unhealthy: &[u16], admin: &AdminStates, ids: &mut Ids) -> Compiled {
    let (state, kernel, ports) = (state(), kernel(), ports());
    let unhealthy: BTreeSet<u16> = unhealthy.iter().copied().collect();
    let inputs = Inputs {
        revision: 7,
        state: &state,
        sets: &[],
        ports: &ports,
        kernel: &kernel,
        unhealthy: &unhealthy,
        admin,
        node: "node1",
        plane: Plane::FastPath,
        now: Timestamp::EPOCH,
    };
    compile(&inputs, ids).expect("compiles")
}

fn states(compiled: &Compiled) -> Vec<BackendState> {
    compiled.config.pools[0]
        .backends
        .iter()
        .map(|backend| backend.state)
        .collect()
}

#[test]
fn the_kernel_is_seen_in_terms_of_ports() {
    let compiled = compiled(
        &[],
        &AdminStates::default(),
        &mut Ids::new(Limits::default()),
    );
    let config = &compiled.config;
    let target = |text: &str| {
        config
            .routes
            .iter()
            .find(|route| route.prefix.to_string() == text)
            .map(|route| route.target)
    };
    assert_eq!(
        target("10.0.1.0/24"),
        Some(RouteTarget::Connected { port: 0 })
    );
    assert_eq!(
        target("172.16.0.0/12"),
        Some(RouteTarget::Via {
            port: 0,
            gateway: ip("10.0.1.254")
        })
    );
    assert_eq!(
        target("203.0.113.0/24"),
        Some(RouteTarget::Blackhole),
        "out of an interface that is no port"
    );
    assert_eq!(target("fe80::/64"), None);
    assert_eq!(config.neighbours.len(), 1, "only those on ports");
    assert!(config.local.contains(&ip("203.0.113.1")) && config.local.contains(&ip("10.0.1.255")));
    assert!(!config.local.contains(&ip("192.0.2.10")));
}

#[test]
fn next_hops_of_backends_and_gateways_are_kept_resolved() {
    let compiled = compiled(
        &[],
        &AdminStates::default(),
        &mut Ids::new(Limits::default()),
    );
    let expected = [
        (2, ip("10.0.1.11")),
        (2, ip("10.0.1.12")),
        (2, ip("10.0.1.254")),
    ];
    assert_eq!(compiled.next_hops, BTreeSet::from(expected));
}

#[test]
fn vips_and_dedicated_nat_addresses_are_owned() {
    let compiled = compiled(
        &[],
        &AdminStates::default(),
        &mut Ids::new(Limits::default()),
    );
    let expected = [
        Prefix::host(ip("192.0.2.10")),
        Prefix::host(ip("192.0.2.100")),
    ];
    assert_eq!(compiled.owned, BTreeSet::from(expected));
    let port = &compiled.config.ports[0];
    assert_eq!(
        *port.nat4.addresses,
        [std::net::Ipv4Addr::new(192, 0, 2, 100)]
    );
    assert_eq!(
        port.nat6.addresses[0].to_string(),
        "2001:db8::1",
        "the port's own where the document has none"
    );
    assert_eq!(
        port.address4.map(|address| address.to_string()).as_deref(),
        Some("10.0.1.1")
    );
}

#[test]
fn health_and_admin_state_decide_together() {
    let mut ids = Ids::new(Limits::default());
    let mut admin = AdminStates::default();
    assert_eq!(
        states(&compiled(&[], &admin, &mut ids)),
        [BackendState::Active; 3]
    );
    let second = ids
        .backends
        .of(&BackendKey {
            pool: "web".into(),
            address: ip("10.0.1.12"),
            port: 8080,
        })
        .expect("a slot");
    assert_eq!(
        states(&compiled(&[second], &admin, &mut ids))[1],
        BackendState::Down
    );
    admin.set("web".into(), ip("10.0.1.12"), 8080, Admin::Drain);
    assert_eq!(
        states(&compiled(&[second], &admin, &mut ids))[1],
        BackendState::Draining
    );
    admin.set("web".into(), ip("10.0.1.11"), 0, Admin::Offline);
    assert_eq!(
        states(&compiled(&[], &admin, &mut ids))[0],
        BackendState::Offline
    );
}

#[test]
fn what_is_compiled_builds_and_a_health_flap_moves_no_epoch() {
    let mut ids = Ids::new(Limits::default());
    let admin = AdminStates::default();
    let first = march_tables::build(&compiled(&[], &admin, &mut ids).config, None).expect("builds");
    let flapped = march_tables::build(&compiled(&[0], &admin, &mut ids).config, Some(&first))
        .expect("builds");
    assert_eq!(first.epoch, flapped.epoch);
    assert_eq!(flapped.revision, 7);
    assert_eq!(flapped.services.len(), 1);
}

#[test]
fn every_backend_of_a_checked_pool_is_probed_on_its_port() {
    let compiled = compiled(
        &[],
        &AdminStates::default(),
        &mut Ids::new(Limits::default()),
    );
    assert_eq!(compiled.targets.len(), 3);
    assert!(
        compiled
            .targets
            .iter()
            .all(|target| target.port == 8080 && target.check.probe == Probe::Tcp)
    );
    assert!(compiled.checked_pools.contains("web"));
}

#[path = "tests/rules.rs"]
mod rules;
