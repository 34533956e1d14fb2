//! What the tests stand on: configurations, backends that say who they are, and waiting for a condition.

use core::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use core::time::Duration;
use std::sync::Arc;

use march_socket::{Limits, PublishReport, ServiceReading, SocketTier};
use march_tables::{
    Action, BackendState, Config, Generation, PoolBackend, PoolConfig, Rule, Service, build,
};
use march_wire::DropReason;
use march_wire::tuple::IpPrefix;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};

pub const V4: IpAddr = IpAddr::V4(Ipv4Addr::LOCALHOST);
pub const V6: IpAddr = IpAddr::V6(Ipv6Addr::LOCALHOST);
pub const TCP: u8 = 6;
pub const UDP: u8 = 17;

/// Long enough that reaching it means failure, on any machine.
const DEADLINE: Duration = Duration::from_mins(1);

/// Fails the test instead of waiting for ever.
pub async fn soon<T>(what: &str, future: impl Future<Output = T>) -> T {
    let outcome = tokio::time::timeout(DEADLINE, future).await;
    outcome.unwrap_or_else(|_| panic!("{what}: nothing within {DEADLINE:?}"))
}

/// Waits until the tier's reading satisfies `is_met`.
pub async fn eventually(
    world: &World,
    what: &str,
    is_met: impl Fn(&march_socket::TierReading) -> bool,
) {
    soon(what, async {
        loop {
            if is_met(&world.tier.read()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    })
    .await;
}

/// A configuration, the generation that it became, and the tier that runs it.
pub struct World {
    pub config: Config,
    pub generation: Arc<Generation>,
    pub tier: SocketTier,
}

impl World {
    /// A tier that runs `config`; every listener must open.
    pub async fn start(limits: Limits, config: Config) -> Self {
        let empty = Arc::new(Generation::empty());
        let tier = SocketTier::new(limits, Arc::clone(&empty));
        let mut world = Self {
            config,
            generation: empty,
            tier,
        };
        let report = world.publish().await;
        assert!(report.failures.is_empty(), "{:?}", report.failures);
        world
    }

    /// Compiles and publishes the configuration as it is now.
    pub async fn publish(&mut self) -> PublishReport {
        let next = build(&self.config, Some(&self.generation)).expect("the configuration compiles");
        self.generation = Arc::new(next);
        self.tier.publish(Arc::clone(&self.generation)).await
    }

    /// Changes one backend of the first pool and publishes.
    pub async fn set_backend(&mut self, index: usize, state: BackendState) {
        let mut pools = self.config.pools.to_vec();
        pools[0].backends[index].state = state;
        self.config.pools = pools.into();
        let report = self.publish().await;
        assert!(report.failures.is_empty(), "{:?}", report.failures);
    }

    /// Changes the services and publishes.
    pub async fn set_services(&mut self, services: Vec<Service>) -> PublishReport {
        self.config.services = services.into();
        self.publish().await
    }

    /// The reading of the service called `name`.
    pub fn service(&self, name: &str) -> ServiceReading {
        let reading = self.tier.read();
        let found = reading
            .services
            .into_iter()
            .find(|service| &*service.name == name);
        found.expect("the service is in the running generation")
    }

    /// How often `reason` was counted over all services.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.tier.read().drops[reason as usize]
    }
}

/// One service called `web` at `vip` in front of `backends`.
pub fn config(vip: SocketAddr, protocol: u8, backends: &[SocketAddr]) -> Config {
    Config {
        services: vec![service("web", vip, protocol)].into(),
        pools: vec![pool(backends)].into(),
        ..Config::default()
    }
}

pub fn service(name: &str, vip: SocketAddr, protocol: u8) -> Service {
    let width = if vip.is_ipv4() { 32 } else { 128 };
    Service {
        name: name.into(),
        address: IpPrefix::new(vip.ip(), width).expect("a host prefix"),
        protocol,
        first_port: vip.port(),
        last_port: vip.port(),
        pool: 0,
        mode: march_tables::Mode::default(),
        affinity: march_tables::Affinity::default(),
        timeouts: march_tables::Timeouts::default(),
        ..Service::vacant()
    }
}

pub fn pool(backends: &[SocketAddr]) -> PoolConfig {
    let backends = (0..).zip(backends).map(|(slot, address)| PoolBackend {
        slot,
        address: address.ip(),
        port: address.port(),
        weight: 1,
        state: BackendState::Active,
    });
    PoolConfig {
        name: "pool".into(),
        backends: backends.collect(),
        ..PoolConfig::default()
    }
}

/// A rule that drops everything from `source`.
pub fn deny(source: IpAddr) -> Rule {
    Rule {
        name: "deny".into(),
        priority: 10,
        sources: vec![IpPrefix::new(source, 32).expect("a host prefix")],
        destinations: Vec::new(),
        source_ports: Vec::new(),
        ports: Vec::new(),
        protocol: None,
        action: Action::Drop,
        ..Rule::vacant()
    }
}

/// An address on `ip` that nothing listens on now. The kernel does not give the same port out again soon.
pub async fn free_tcp(ip: IpAddr) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
    listener.local_addr().expect("bound")
}

pub async fn free_udp(ip: IpAddr) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.expect("a free port");
    socket.local_addr().expect("bound")
}

/// A TCP server that says `greeting`, then echoes until FIN.
pub async fn tcp_server(ip: IpAddr, greeting: u8) -> SocketAddr {
    let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                stream.write_all(&[greeting]).await?;
                let (mut reader, mut writer) = stream.split();
                tokio::io::copy(&mut reader, &mut writer).await?;
                writer.shutdown().await
            });
        }
    });
    address
}

/// A UDP server that answers each datagram with `greeting` and the datagram.
pub async fn udp_server(ip: IpAddr, greeting: u8) -> SocketAddr {
    let socket = UdpSocket::bind((ip, 0)).await.expect("a free port");
    let address = socket.local_addr().expect("bound");
    tokio::spawn(async move {
        let mut buffer = vec![0; 65_536];
        buffer[0] = greeting;
        while let Ok((bytes, client)) = socket.recv_from(&mut buffer[1..]).await {
            if socket.send_to(&buffer[..=bytes], client).await.is_err() {
                return;
            }
        }
    });
    address
}

/// A listener whose connections the test takes itself.
pub async fn manual_server(ip: IpAddr) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind((ip, 0)).await.expect("a free port");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// Connects and reads the greeting of the backend that was chosen.
pub async fn greeted(vip: SocketAddr) -> std::io::Result<(TcpStream, u8)> {
    soon("greeting", async {
        let mut stream = TcpStream::connect(vip).await?;
        let mut greeting = [0];
        stream.read_exact(&mut greeting).await?;
        Ok((stream, greeting[0]))
    })
    .await
}

/// Whether bytes still go to the server of [`tcp_server`] and back.
pub async fn echoes(stream: &mut TcpStream) -> bool {
    soon("echo", async {
        let mut answer = [0; 4];
        stream.write_all(b"ping").await.is_ok()
            && stream.read_exact(&mut answer).await.is_ok()
            && answer == *b"ping"
    })
    .await
}

/// Reads until the connection ends; the error if it ended by a reset.
pub async fn end_of(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    soon("end of the connection", async {
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await?;
        Ok(rest)
    })
    .await
}

/// A UDP client that only hears the VIP.
pub async fn udp_client(source: IpAddr, vip: SocketAddr) -> UdpSocket {
    let socket = UdpSocket::bind((source, 0)).await.expect("a free port");
    socket.connect(vip).await.expect("loopback");
    socket
}

/// Sends until an answer comes (a datagram may be lost while listeners change) and returns it.
pub async fn ask(client: &UdpSocket, question: &[u8]) -> Vec<u8> {
    soon("answer", async {
        let mut answer = vec![0; 65_536];
        loop {
            // An error is the ICMP answer to an earlier datagram.
            let _ = client.send(question).await;
            let wait = Duration::from_millis(500);
            if let Ok(Ok(bytes)) = tokio::time::timeout(wait, client.recv(&mut answer)).await {
                answer.truncate(bytes);
                return answer;
            }
        }
    })
    .await
}
