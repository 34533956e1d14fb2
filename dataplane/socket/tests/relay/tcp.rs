//! TCP: relaying, ends, refusals, bounds.

use core::net::{IpAddr, Ipv4Addr};
use core::time::Duration;
use std::io;

use march_socket::Limits;
use march_tables::{Affinity, BackendState};
use march_wire::DropReason;
use march_wire::tuple::FiveTuple;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::world::*;

async fn one_backend(vip_ip: IpAddr, backend_ip: IpAddr) -> (World, std::net::SocketAddr) {
    let backend = tcp_server(backend_ip, b'a').await;
    let vip = free_tcp(vip_ip).await;
    (
        World::start(Limits::default(), config(vip, TCP, &[backend])).await,
        vip,
    )
}

/// A world whose backend the test plays itself, with one connection through it.
async fn by_hand() -> (World, TcpStream, TcpStream) {
    let (listener, backend) = manual_server(V4).await;
    let vip = free_tcp(V4).await;
    let world = World::start(Limits::default(), config(vip, TCP, &[backend])).await;
    let client = soon("connect", TcpStream::connect(vip))
        .await
        .expect("the VIP accepts");
    let (server, _) = soon("accept", listener.accept())
        .await
        .expect("the tier connects");
    (world, client, server)
}

#[tokio::test]
async fn echoes_in_every_family_combination() {
    for (vip_ip, backend_ip) in [(V4, V4), (V6, V6), (V4, V6), (V6, V4)] {
        let (world, vip) = one_backend(vip_ip, backend_ip).await;
        let (mut client, greeting) = greeted(vip).await.expect("served");
        assert_eq!(greeting, b'a');
        assert!(echoes(&mut client).await);
        client.shutdown().await.expect("FIN");
        assert_eq!(
            end_of(&mut client).await.expect("FIN from the backend"),
            b""
        );
        eventually(&world, "the connection is forgotten", |now| {
            now.connections == 0
        })
        .await;
        let web = world.service("web");
        assert_eq!((web.accepted, web.active), (1, 0));
        assert_eq!(
            (web.bytes_in, web.bytes_out),
            (4, 5),
            "four echoed, one greeting"
        );
        let backend = &world.tier.read().backends[0];
        assert_eq!((backend.accepted, backend.active), (1, 0));
        assert_eq!((backend.bytes_in, backend.bytes_out), (4, 5));
        assert_eq!(backend.connect_errors, 0);
    }
}

#[tokio::test]
async fn half_close_lets_the_other_direction_finish() {
    for client_first in [true, false] {
        let (_world, client, server) = by_hand().await;
        let (mut first, mut second) = if client_first {
            (client, server)
        } else {
            (server, client)
        };
        first.write_all(b"question").await.expect("relayed");
        first.shutdown().await.expect("FIN");
        assert_eq!(
            end_of(&mut second).await.expect("FIN, not RST"),
            b"question"
        );
        // Long after the FIN, and more than fits in any buffer on the way.
        let answer = vec![7; 8 << 20];
        let writer = tokio::spawn(async move {
            second.write_all(&answer).await.expect("relayed");
            second.shutdown().await.expect("FIN");
            second
        });
        let received = end_of(&mut first).await.expect("FIN, not RST");
        assert_eq!(received.len(), 8 << 20);
        assert!(received.iter().all(|byte| *byte == 7));
        drop(writer.await.expect("wrote"));
    }
}

/// Byte `index` of a stream that looks different at every position (the period is beyond 100 MB).
fn stream_byte(index: usize, salt: usize) -> u8 {
    let mixed = (index / 251)
        .wrapping_mul(0x9e37_79b1)
        .wrapping_add(index * 31 + salt);
    mixed.to_le_bytes()[1]
}

async fn send_stream(mut writer: impl AsyncWriteExt + Unpin, len: usize, salt: usize) {
    let mut sent = 0;
    while sent < len {
        let chunk: Vec<u8> = (sent..len.min(sent + 65_521))
            .map(|index| stream_byte(index, salt))
            .collect();
        writer.write_all(&chunk).await.expect("relayed");
        sent += chunk.len();
    }
    writer.shutdown().await.expect("FIN");
}

async fn check_stream(mut reader: impl AsyncReadExt + Unpin, len: usize, salt: usize) {
    let mut buffer = vec![0; 64 << 10];
    let mut received = 0;
    loop {
        let bytes = reader.read(&mut buffer).await.expect("no reset");
        if bytes == 0 {
            break;
        }
        for (offset, byte) in buffer[..bytes].iter().enumerate() {
            assert_eq!(
                *byte,
                stream_byte(received + offset, salt),
                "at {}",
                received + offset
            );
        }
        received += bytes;
    }
    assert_eq!(received, len);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_megabytes_each_way_arrive_as_they_were() {
    const LEN: usize = 100 << 20;
    let (world, client, server) = by_hand().await;
    let (client_reader, client_writer) = client.into_split();
    let (server_reader, server_writer) = server.into_split();
    let tasks = [
        tokio::spawn(send_stream(client_writer, LEN, 1)),
        tokio::spawn(send_stream(server_writer, LEN, 2)),
        tokio::spawn(check_stream(server_reader, LEN, 1)),
        tokio::spawn(check_stream(client_reader, LEN, 2)),
    ];
    for task in tasks {
        soon("the transfer", task).await.expect("identical");
    }
    eventually(&world, "the connection is forgotten", |now| {
        now.connections == 0
    })
    .await;
    let web = world.service("web");
    assert_eq!((web.bytes_in, web.bytes_out), (LEN as u64, LEN as u64));
}

#[tokio::test]
async fn a_reader_that_stops_stops_the_writer() {
    const FAR_TOO_MUCH: u64 = 256 << 20;
    let (world, mut client, mut server) = by_hand().await;
    let chunk = vec![1; 1 << 20];
    let mut written = 0u64;
    // Nobody reads: the write must stall once the buffers on the way are full.
    let stalled = soon("the stall", async {
        while written < FAR_TOO_MUCH {
            let patience = Duration::from_millis(300);
            match tokio::time::timeout(patience, client.write(&chunk)).await {
                Ok(bytes) => written += bytes.expect("relayed") as u64,
                Err(_) => return true,
            }
        }
        false
    })
    .await;
    assert!(stalled, "{written} bytes taken although nobody reads");
    assert!(world.service("web").bytes_in <= written);
    client.shutdown().await.expect("FIN");
    assert_eq!(
        end_of(&mut server).await.expect("all of it").len() as u64,
        written
    );
}

#[tokio::test]
async fn a_reset_on_one_side_is_a_reset_on_the_other() {
    for client_resets in [true, false] {
        let (world, client, server) = by_hand().await;
        let (one, mut other) = if client_resets {
            (client, server)
        } else {
            (server, client)
        };
        one.set_zero_linger().expect("option");
        drop(one);
        let error = end_of(&mut other)
            .await
            .expect_err("a FIN would look like a whole answer");
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        eventually(&world, "the connection is forgotten", |now| {
            now.connections == 0
        })
        .await;
    }
}

#[tokio::test]
async fn a_dead_backend_is_passed_over() {
    let live = tcp_server(V4, b'a').await;
    let dead = free_tcp(V4).await;
    let vip = free_tcp(V4).await;
    let world = World::start(Limits::default(), config(vip, TCP, &[dead, live])).await;
    for _ in 0..40 {
        let (_, greeting) = greeted(vip).await.expect("served by the live one");
        assert_eq!(greeting, b'a');
    }
    let reading = world.tier.read();
    assert!(
        reading.backends[0].connect_errors > 0,
        "40 clients and none was sent to the dead one"
    );
    assert_eq!(reading.backends[1].accepted, 40);
    assert_eq!(world.drops(DropReason::NoBackend), 0);
}

#[tokio::test]
async fn a_backend_that_does_not_answer_is_passed_over_in_time() {
    let live = tcp_server(V4, b'a').await;
    // A full accept queue: the kernel ignores further connection requests.
    let silent = TcpSocket::new_v4().expect("socket");
    silent
        .bind((Ipv4Addr::LOCALHOST, 0).into())
        .expect("free port");
    let silent: TcpListener = silent.listen(1).expect("listens");
    let silent_address = silent.local_addr().expect("bound");
    let mut fill = Vec::new();
    for _ in 0..8 {
        let wait = Duration::from_millis(100);
        if let Ok(Ok(stream)) = tokio::time::timeout(wait, TcpStream::connect(silent_address)).await
        {
            fill.push(stream);
        }
    }
    let vip = free_tcp(V4).await;
    let limits = Limits {
        connect_timeout: Duration::from_millis(50),
        ..Limits::default()
    };
    let world = World::start(limits, config(vip, TCP, &[silent_address, live])).await;
    for _ in 0..40 {
        assert_eq!(greeted(vip).await.expect("served by the live one").1, b'a');
    }
    assert!(world.tier.read().backends[0].connect_errors > 0);
}

#[tokio::test]
async fn no_backend_left_is_a_reset_and_a_reason() {
    let dead = free_tcp(V4).await;
    let vip = free_tcp(V4).await;
    let mut world = World::start(Limits::default(), config(vip, TCP, &[dead])).await;
    assert!(greeted(vip).await.is_err());
    assert_eq!(world.drops(DropReason::NoBackend), 1);
    assert_eq!(
        world.tier.read().backends[0].connect_errors,
        1,
        "tried once, not three times"
    );

    world.set_backend(0, BackendState::Down).await;
    assert!(greeted(vip).await.is_err());
    assert_eq!(
        world.service("web").drops[DropReason::NoBackend as usize],
        2
    );
    assert_eq!(
        world.tier.read().backends[0].connect_errors,
        1,
        "not tried at all"
    );
}

#[tokio::test]
async fn a_denied_client_is_reset_and_counted() {
    let (mut world, vip) = one_backend(V4, V4).await;
    let denied = IpAddr::V4(Ipv4Addr::new(127, 0, 0, 99));
    world.config.rules = vec![deny(denied)].into();
    world.publish().await;

    let socket = TcpSocket::new_v4().expect("socket");
    socket.bind((denied, 0).into()).expect("loopback");
    let outcome = soon("refusal", async {
        let mut stream = socket.connect(vip).await?;
        stream.read_u8().await
    });
    let error = outcome.await.expect_err("the rule says drop");
    assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
    assert!(greeted(vip).await.is_ok(), "others are served");
    eventually(&world, "counted", |now| {
        now.drops[DropReason::RuleDrop as usize] == 1
    })
    .await;
    let web = world.service("web");
    assert_eq!(web.drops[DropReason::RuleDrop as usize], 1);
    assert_eq!(web.accepted, 1);
    assert_eq!(world.tier.read().backends[0].accepted, 1);
}

#[tokio::test]
async fn connections_are_bounded() {
    let backend = tcp_server(V4, b'a').await;
    let vip = free_tcp(V4).await;
    let limits = Limits {
        connections: 2,
        ..Limits::default()
    };
    let world = World::start(limits, config(vip, TCP, &[backend])).await;
    let first = greeted(vip).await.expect("one");
    let _second = greeted(vip).await.expect("two");
    assert!(greeted(vip).await.is_err(), "three");
    assert_eq!(world.drops(DropReason::TableFull), 1);
    drop(first);
    eventually(&world, "a place is free", |now| now.connections == 1).await;
    assert!(greeted(vip).await.is_ok());
}

#[tokio::test]
async fn a_silent_connection_ends_after_the_services_timeout() {
    let backend = tcp_server(V4, b'a').await;
    let vip = free_tcp(V4).await;
    let mut config = config(vip, TCP, &[backend]);
    let mut web = service("web", vip, TCP);
    web.timeouts.established_ms = 200;
    config.services = vec![web].into();
    let _world = World::start(Limits::default(), config).await;
    let (mut client, _) = greeted(vip).await.expect("served");
    assert!(
        end_of(&mut client).await.is_err(),
        "reset, so that nobody takes it for the end"
    );
}

#[tokio::test]
async fn the_backend_is_the_one_that_the_lcores_would_choose() {
    let names = b"abcdefgh";
    let mut backends = Vec::new();
    for name in names {
        backends.push(tcp_server(V4, *name).await);
    }
    let vip = free_tcp(V4).await;
    let world = World::start(Limits::default(), config(vip, TCP, &backends)).await;
    let mut seen = std::collections::BTreeSet::new();
    for _ in 0..64 {
        let (client, greeting) = greeted(vip).await.expect("served");
        let tuple = FiveTuple {
            src: Ipv4Addr::LOCALHOST,
            dst: Ipv4Addr::LOCALHOST,
            src_port: client.local_addr().expect("bound").port(),
            dst_port: vip.port(),
            protocol: TCP,
        };
        let hash = Affinity::FiveTuple.hash(&tuple);
        let slot = world.generation.pools[0]
            .choose(hash, &mut 0)
            .expect("all are active");
        assert_eq!(greeting, names[usize::from(slot)]);
        seen.insert(greeting);
    }
    assert!(seen.len() > 4, "64 clients over 8 backends: {seen:?}");
}

#[tokio::test]
async fn source_affinity_keeps_a_client_on_one_backend() {
    let backends = [
        tcp_server(V4, b'a').await,
        tcp_server(V4, b'b').await,
        tcp_server(V4, b'c').await,
    ];
    let vip = free_tcp(V4).await;
    let mut config = config(vip, TCP, &backends);
    let mut web = service("web", vip, TCP);
    web.affinity = Affinity::SourceIp;
    config.services = vec![web].into();
    let _world = World::start(Limits::default(), config).await;
    let first = greeted(vip).await.expect("served").1;
    for _ in 0..20 {
        assert_eq!(greeted(vip).await.expect("served").1, first);
    }
}
