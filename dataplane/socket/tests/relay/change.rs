//! Changes under load: what goes on, what ends, what is refused.

use core::net::{IpAddr, Ipv4Addr, SocketAddr};
use core::sync::atomic::{AtomicBool, Ordering};
use std::io;
use std::sync::Arc;

use march_socket::{Limits, ListenerFailure};
use march_tables::BackendState;
use march_wire::tuple::IpPrefix;
use tokio::net::{TcpListener, TcpStream};

use crate::world::*;

#[tokio::test]
async fn draining_keeps_connections_and_offline_resets_them() {
    let backends = [tcp_server(V4, b'a').await, tcp_server(V4, b'b').await];
    let vip = free_tcp(V4).await;
    let mut world = World::start(Limits::default(), config(vip, TCP, &backends)).await;
    let (mut client, name) = greeted(vip).await.expect("served");
    let index = usize::from(name - b'a');
    for state in [BackendState::Draining, BackendState::Down] {
        world.set_backend(index, state).await;
        assert!(echoes(&mut client).await, "{state:?} ends nothing");
        for _ in 0..20 {
            assert_ne!(
                greeted(vip).await.expect("served").1,
                name,
                "{state:?} takes nothing new"
            );
        }
    }
    world.set_backend(index, BackendState::Offline).await;
    let error = end_of(&mut client).await.expect_err("offline is now");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);

    world.set_backend(index, BackendState::Active).await;
    soon("it serves again", async {
        while greeted(vip).await.expect("served").1 != name {}
    })
    .await;
}

#[tokio::test]
async fn a_backend_that_is_gone_resets_its_connections_only() {
    let backends = [tcp_server(V4, b'a').await, tcp_server(V4, b'b').await];
    let vip = free_tcp(V4).await;
    let mut world = World::start(Limits::default(), config(vip, TCP, &backends)).await;
    let mut on_a = loop {
        if let (client, b'a') = greeted(vip).await.expect("served") {
            break client;
        }
    };
    let mut on_b = loop {
        if let (client, b'b') = greeted(vip).await.expect("served") {
            break client;
        }
    };
    let mut pools = world.config.pools.to_vec();
    pools[0].backends.remove(0);
    world.config.pools = pools.into();
    world.publish().await;
    assert!(end_of(&mut on_a).await.is_err());
    assert!(echoes(&mut on_b).await);
}

#[tokio::test]
async fn a_removed_service_refuses_new_clients_and_keeps_present_ones() {
    let backend = tcp_server(V4, b'a').await;
    let vip = free_tcp(V4).await;
    let mut world = World::start(Limits::default(), config(vip, TCP, &[backend])).await;
    let (mut client, _) = greeted(vip).await.expect("served");

    assert_eq!(world.set_services(Vec::new()).await.closed, 1);
    let refused = TcpStream::connect(vip).await.expect_err("nobody listens");
    assert_eq!(refused.kind(), io::ErrorKind::ConnectionRefused);
    assert!(echoes(&mut client).await);

    assert_eq!(
        world
            .set_services(vec![service("web", vip, TCP)])
            .await
            .opened,
        1
    );
    assert!(greeted(vip).await.is_ok());
    assert!(echoes(&mut client).await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_connection_is_refused_while_the_configuration_changes() {
    let backends = [tcp_server(V4, b'a').await, tcp_server(V4, b'b').await];
    let vip = free_tcp(V4).await;
    let side = free_tcp(V4).await;
    let mut world = World::start(Limits::default(), config(vip, TCP, &backends)).await;
    let stop = Arc::new(AtomicBool::new(false));
    let clients: Vec<_> = (0..4)
        .map(|_| {
            let stop = Arc::clone(&stop);
            tokio::spawn(async move {
                let mut served = 0u64;
                while !stop.load(Ordering::Relaxed) {
                    let (mut stream, _) = greeted(vip).await.expect("served throughout");
                    assert!(echoes(&mut stream).await);
                    served += 1;
                }
                served
            })
        })
        .collect();
    for round in 0..100 {
        let mut services = vec![service("web", vip, TCP)];
        if round % 2 == 0 {
            services.push(service("side", side, TCP));
        }
        let report = world.set_services(services).await;
        assert_eq!((report.kept, report.failures.len()), (1, 0));
        let state = if round % 3 == 0 {
            BackendState::Draining
        } else {
            BackendState::Active
        };
        world.set_backend(round % 2, BackendState::Active).await;
        world.set_backend(1 - round % 2, state).await;
    }
    let changes_done = world.service("web").accepted;
    eventually(&world, "served after the changes too", |now| {
        now.services
            .iter()
            .any(|web| &*web.name == "web" && web.accepted > changes_done)
    })
    .await;
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        assert!(client.await.expect("no client failed") > 0);
    }
}

#[tokio::test]
async fn a_prefix_and_a_port_range_listen_on_each() {
    let backend = tcp_server(V4, b'a').await;
    let first = free_tcp(IpAddr::V4(Ipv4Addr::new(127, 7, 7, 0)))
        .await
        .port();
    let mut wide = service("wide", SocketAddr::new(V4, first), TCP);
    wide.address = IpPrefix::new(IpAddr::V4(Ipv4Addr::new(127, 7, 7, 0)), 30).expect("a prefix");
    wide.last_port = first + 1;
    let mut config = config(SocketAddr::new(V4, first), TCP, &[backend]);
    config.services = vec![wide].into();
    let world = World::start(Limits::default(), config).await;
    assert_eq!(world.tier.read().listeners, 8);
    for last in 0..4 {
        for port in [first, first + 1] {
            let vip = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(127, 7, 7, last)), port);
            assert_eq!(greeted(vip).await.expect("served").1, b'a');
        }
    }
}

#[tokio::test]
async fn a_service_that_needs_too_many_listeners_is_named_and_the_others_run() {
    let backend = tcp_server(V4, b'a').await;
    let vip = free_tcp(V4).await;
    let mut wide = service("wide", SocketAddr::new(V6, 80), TCP);
    wide.address = IpPrefix::new("2001:db8::".parse().expect("an address"), 32).expect("a prefix");
    let mut world = World::start(
        Limits {
            listeners: 10,
            ..Limits::default()
        },
        config(vip, TCP, &[backend]),
    )
    .await;
    let report = world
        .set_services(vec![wide, service("web", vip, TCP)])
        .await;
    let [failure @ ListenerFailure::TooMany { .. }] = &report.failures[..] else {
        panic!("{:?}", report.failures);
    };
    let text = failure.to_string();
    assert!(text.contains("wide") && text.contains("10 of 10"), "{text}");
    assert!(greeted(vip).await.is_ok());
}

#[tokio::test]
async fn an_address_in_use_is_named_and_taken_when_it_is_free() {
    let backend = tcp_server(V4, b'a').await;
    let vip = free_tcp(V4).await;
    let taken = TcpListener::bind((V4, 0)).await.expect("a free port");
    let taken_address = taken.local_addr().expect("bound");
    let mut world = World::start(Limits::default(), config(vip, TCP, &[backend])).await;
    let services = vec![
        service("web", vip, TCP),
        service("late", taken_address, TCP),
    ];
    let report = world.set_services(services.clone()).await;
    assert_eq!(
        (report.kept, report.opened, report.failures.len()),
        (1, 0, 1)
    );
    let text = report.failures[0].to_string();
    assert!(
        text.contains("late") && text.contains(&taken_address.to_string()),
        "{text}"
    );
    assert!(greeted(vip).await.is_ok(), "the others run");

    drop(taken);
    assert_eq!(world.set_services(services).await.opened, 1);
    assert!(greeted(taken_address).await.is_ok());
}

#[tokio::test]
async fn a_vip_that_is_not_local_yet_can_be_listened_on() {
    let backend = tcp_server(V4, b'a').await;
    for (vip, protocol) in [
        ("192.0.2.77:8080", TCP),
        ("[2001:db8::77]:8080", TCP),
        ("192.0.2.77:8080", UDP),
        ("[2001:db8::77]:8080", UDP),
    ] {
        let vip = vip.parse().expect("an address");
        let world = World::start(Limits::default(), config(vip, protocol, &[backend])).await;
        assert_eq!(world.tier.read().listeners, 1);
    }
}

#[tokio::test]
async fn dropping_the_tier_closes_its_listeners_and_no_connection() {
    let backend = tcp_server(V4, b'a').await;
    let vip = free_tcp(V4).await;
    let world = World::start(Limits::default(), config(vip, TCP, &[backend])).await;
    let (mut client, _) = greeted(vip).await.expect("served");
    drop(world);
    soon("refusal", async {
        while TcpStream::connect(vip).await.is_ok() {}
    })
    .await;
    assert!(echoes(&mut client).await);
}
