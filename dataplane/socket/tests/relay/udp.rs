//! UDP: sessions, their ends and bounds.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;

use march_socket::Limits;
use march_tables::BackendState;
use march_wire::DropReason;

use crate::world::*;

#[tokio::test]
async fn echoes_in_every_family_combination() {
    for (vip_ip, backend_ip) in [(V4, V4), (V6, V6), (V4, V6), (V6, V4)] {
        let backend = udp_server(backend_ip, b'a').await;
        let vip = free_udp(vip_ip).await;
        let world = World::start(Limits::default(), config(vip, UDP, &[backend])).await;
        let client = udp_client(vip_ip, vip).await;
        assert_eq!(ask(&client, b"one").await, b"aone");
        assert_eq!(
            ask(&client, b"").await,
            b"a",
            "an empty datagram is a datagram"
        );
        let large = vec![3; 20_000];
        assert_eq!(ask(&client, &large).await[1..], large);
        let web = world.service("web");
        assert_eq!(
            (web.accepted, web.active),
            (1, 1),
            "one client, one session"
        );
        assert_eq!((web.bytes_in, web.bytes_out), (20_003, 20_006));
        assert!(web.drops.iter().all(|count| *count == 0), "{:?}", web.drops);
    }
}

#[tokio::test]
async fn each_client_hears_its_own_replies() {
    let backend = udp_server(V4, b'a').await;
    let vip = free_udp(V4).await;
    let world = World::start(Limits::default(), config(vip, UDP, &[backend])).await;
    let mut clients = Vec::new();
    for _ in 0..20 {
        clients.push(udp_client(V4, vip).await);
    }
    for _ in 0..3 {
        for (index, client) in clients.iter().enumerate() {
            let question = format!("client {index}");
            assert_eq!(
                ask(client, question.as_bytes()).await,
                format!("a{question}").as_bytes()
            );
        }
    }
    assert_eq!(world.service("web").accepted, 20);
}

#[tokio::test]
async fn a_silent_session_is_forgotten_and_a_new_one_begins() {
    let backend = udp_server(V4, b'a').await;
    let vip = free_udp(V4).await;
    let mut config = config(vip, UDP, &[backend]);
    let mut web = service("web", vip, UDP);
    web.timeouts.udp_ms = 100;
    config.services = vec![web].into();
    let world = World::start(Limits::default(), config).await;
    let client = udp_client(V4, vip).await;
    ask(&client, b"one").await;
    eventually(&world, "the session is over", |now| now.udp_sessions == 0).await;
    assert_eq!(world.service("web").active, 0);
    assert_eq!(ask(&client, b"two").await, b"atwo");
    assert!(world.service("web").accepted >= 2);
}

#[tokio::test]
async fn sessions_are_bounded() {
    let backend = udp_server(V4, b'a').await;
    let vip = free_udp(V4).await;
    let limits = Limits {
        udp_sessions: 2,
        ..Limits::default()
    };
    let world = World::start(limits, config(vip, UDP, &[backend])).await;
    let clients = [
        udp_client(V4, vip).await,
        udp_client(V4, vip).await,
        udp_client(V4, vip).await,
    ];
    ask(&clients[0], b"one").await;
    ask(&clients[1], b"two").await;
    clients[2].send(b"three").await.expect("sent");
    eventually(&world, "counted", |now| {
        now.drops[DropReason::TableFull as usize] == 1
    })
    .await;
    assert_eq!(world.tier.read().udp_sessions, 2);
    assert_eq!(ask(&clients[0], b"still").await, b"astill");
}

#[tokio::test]
async fn a_denied_client_is_dropped_and_counted() {
    let backend = udp_server(V4, b'a').await;
    let vip = free_udp(V4).await;
    let denied = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 98));
    let mut config = config(vip, UDP, &[backend]);
    config.rules = vec![deny(denied)].into();
    let world = World::start(Limits::default(), config).await;
    udp_client(denied, vip)
        .await
        .send(b"no")
        .await
        .expect("sent");
    eventually(&world, "counted", |now| {
        now.drops[DropReason::RuleDrop as usize] == 1
    })
    .await;
    let web = world.service("web");
    assert_eq!(
        (web.accepted, web.drops[DropReason::RuleDrop as usize]),
        (0, 1)
    );
    assert_eq!(ask(&udp_client(V4, vip).await, b"yes").await, b"ayes");
}

#[tokio::test]
async fn draining_keeps_sessions_and_offline_ends_them() {
    let backends = [udp_server(V4, b'a').await, udp_server(V4, b'b').await];
    let vip = free_udp(V4).await;
    let mut world = World::start(Limits::default(), config(vip, UDP, &backends)).await;
    let client = udp_client(V4, vip).await;
    let name = ask(&client, b"?").await[0];
    let index = usize::from(name - b'a');
    let other = if name == b'a' { b'b' } else { b'a' };

    world.set_backend(index, BackendState::Draining).await;
    assert_eq!(ask(&client, b"?").await[0], name, "the session goes on");
    for _ in 0..10 {
        assert_eq!(
            ask(&udp_client(V4, vip).await, b"?").await[0],
            other,
            "new clients avoid it"
        );
    }
    world.set_backend(index, BackendState::Offline).await;
    let slot = index;
    eventually(&world, "the session ends", |now| {
        now.backends[slot].active == 0
    })
    .await;
    assert_eq!(ask(&client, b"?").await[0], other);
}

#[tokio::test]
async fn nobody_listening_at_the_backend_is_counted() {
    let dead = free_udp(V4).await;
    let vip = free_udp(V4).await;
    let world = World::start(Limits::default(), config(vip, UDP, &[dead])).await;
    udp_client(V4, vip).await.send(b"?").await.expect("sent");
    eventually(&world, "counted", |now| now.backends[0].connect_errors > 0).await;
}

#[tokio::test]
async fn a_removed_service_keeps_its_sessions_until_the_drain_is_over() {
    let backend = udp_server(V4, b'a').await;
    let vip = free_udp(V4).await;
    let limits = Limits {
        udp_drain: Duration::from_hours(1),
        ..Limits::default()
    };
    let mut world = World::start(limits, config(vip, UDP, &[backend])).await;
    let client = udp_client(V4, vip).await;
    ask(&client, b"one").await;

    assert_eq!(world.set_services(Vec::new()).await.closed, 1);
    assert_eq!(world.tier.read().listeners, 0);
    assert_eq!(
        ask(&client, b"two").await,
        b"atwo",
        "the present session goes on"
    );
    udp_client(V4, vip).await.send(b"late").await.expect("sent");
    eventually(&world, "refused", |now| {
        now.drops[DropReason::NoService as usize] == 1
    })
    .await;

    // Back again: the same socket goes on, and so does the session.
    assert_eq!(
        world
            .set_services(vec![service("web", vip, UDP)])
            .await
            .kept,
        1
    );
    assert_eq!(ask(&client, b"three").await, b"athree");
    assert_eq!(ask(&udp_client(V4, vip).await, b"new").await, b"anew");
}

#[tokio::test]
async fn a_removed_service_gives_its_port_back_after_the_drain() {
    let backend = udp_server(V4, b'a').await;
    let vip = free_udp(V4).await;
    let limits = Limits {
        udp_drain: Duration::from_millis(50),
        ..Limits::default()
    };
    let mut world = World::start(limits, config(vip, UDP, &[backend])).await;
    ask(&udp_client(V4, vip).await, b"one").await;
    world.set_services(Vec::new()).await;
    soon("the port", async {
        while tokio::net::UdpSocket::bind(vip).await.is_err() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
    assert_eq!(world.tier.read().udp_sessions, 0);
    let report = world.set_services(vec![service("web", vip, UDP)]).await;
    assert_eq!((report.opened, report.failures.len()), (1, 0));
    assert_eq!(ask(&udp_client(V4, vip).await, b"two").await, b"atwo");
}
