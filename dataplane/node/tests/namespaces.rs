//! The parts of the agent that change a machine, against a real kernel, each in a network namespace of its own.
//!
//! Needs root. Every test makes a namespace by running itself again inside one (`unshare -n`), so nothing is left behind
//! whatever happens: the namespace goes with its last process.

use std::collections::BTreeSet;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use marchdp::kernel::state::RouteAction;
use marchdp::kernel::{Kernel, KernelState, Prefix, Resolver, sysctl};
use marchdp::last_good::{LastGood, Stored};
use marchdp::takeover::Takeover;
use marchdp::twin;

/// Set in the process that is inside the namespace.
const INSIDE: &str = "MARCHDP_TEST_NAMESPACE";

/// Runs `body` inside a fresh network namespace with a veth pair `left` - `right`, both up.
fn in_namespace<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        run(&["ip", "link", "set", "lo", "up"]);
        run(&[
            "ip", "link", "add", "left", "type", "veth", "peer", "name", "right",
        ]);
        for link in ["left", "right"] {
            run(&["ip", "link", "set", link, "up"]);
        }
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(body());
        return;
    }
    let this = std::env::current_exe().expect("this test's own path");
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(this)
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .status()
        .expect("unshare starts; the tests need root");
    assert!(status.success(), "{name} failed inside its namespace");
}

fn run(command: &[&str]) -> String {
    let output = Command::new(command[0])
        .args(&command[1..])
        .output()
        .expect("the command starts");
    assert!(
        output.status.success(),
        "{command:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8_lossy(&output.stdout).into_owned()
}

/// Waits until the mirror says so.
async fn until(kernel: &Kernel, what: &str, is_so: impl Fn(&KernelState) -> bool) {
    let deadline = Instant::now() + Duration::from_secs(10);
    let mut changes = kernel.mirror.changes();
    loop {
        if is_so(&kernel.mirror.read()) {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "the mirror does not see: {what}\n{:#?}",
            *kernel.mirror.read()
        );
        let _ = tokio::time::timeout(Duration::from_millis(100), changes.changed()).await;
    }
}

fn prefix(text: &str, len: u8) -> Prefix {
    Prefix::new(text.parse().expect("an address"), len)
}

#[test]
fn mirror_sees_changes() {
    in_namespace("mirror_sees_changes", || async {
        let kernel = Kernel::connect().await.expect("connects");
        let left = kernel
            .mirror
            .read()
            .link_named("left")
            .expect("the link was there before")
            .index;
        run(&["ip", "addr", "add", "192.0.2.1/24", "dev", "left"]);
        until(&kernel, "an address", |state| {
            state.is_local([192, 0, 2, 1].into())
        })
        .await;
        run(&["ip", "route", "add", "10.0.0.0/8", "via", "192.0.2.254"]);
        run(&["ip", "-6", "route", "add", "2001:db8::/32", "dev", "left"]);
        let has = |state: &KernelState, wanted: Prefix| {
            state.routes.keys().any(|key| key.prefix == wanted)
        };
        until(&kernel, "both routes", |state| {
            has(state, prefix("10.0.0.0", 8)) && has(state, prefix("2001:db8::", 32))
        })
        .await;
        run(&[
            "ip",
            "neigh",
            "add",
            "192.0.2.254",
            "lladdr",
            "02:00:00:00:00:99",
            "dev",
            "left",
        ]);
        until(&kernel, "a neighbour", |state| {
            let entry = state.neighbours.get(&(left, [192, 0, 2, 254].into()));
            entry.is_some_and(|entry| entry.mac == Some([2, 0, 0, 0, 0, 0x99]))
        })
        .await;
        run(&["ip", "link", "set", "left", "mtu", "1400"]);
        until(&kernel, "an MTU", |state| state.links[&left].mtu == 1400).await;
        // The kernel drops these IPv4 routes without a notification.
        run(&["ip", "link", "set", "left", "down"]);
        until(&kernel, "the routes of a link that went down", |state| {
            !has(state, prefix("10.0.0.0", 8))
        })
        .await;
        run(&["ip", "link", "del", "left"]);
        until(&kernel, "a link that is gone", |state| {
            !state.links.contains_key(&left)
        })
        .await;
    });
}

#[test]
fn mirror_takes_the_hops_of_a_multipath_route() {
    in_namespace("mirror_takes_the_hops_of_a_multipath_route", || async {
        run(&["ip", "addr", "add", "192.0.2.1/24", "dev", "left"]);
        run(&[
            "ip",
            "route",
            "add",
            "10.0.0.0/8",
            "nexthop",
            "via",
            "192.0.2.2",
            "nexthop",
            "via",
            "192.0.2.3",
        ]);
        let kernel = Kernel::connect().await.expect("connects");
        let state = kernel.mirror.read();
        let (_, route) = state.route_for([10, 1, 1, 1].into()).expect("a route");
        let RouteAction::Forward(hops) = &route.action else {
            panic!("{route:?}")
        };
        let gateways: Vec<String> = hops
            .iter()
            .filter_map(|hop| Some(hop.gateway?.to_string()))
            .collect();
        assert_eq!(gateways, ["192.0.2.2", "192.0.2.3"]);
    });
}

#[test]
fn resolver_makes_the_kernel_find_a_neighbour() {
    in_namespace("resolver_makes_the_kernel_find_a_neighbour", || async {
        let _peer = Peer::with_link("right", &["192.0.2.2/24", "2001:db8::2/64"]);
        run(&["ip", "addr", "add", "192.0.2.1/24", "dev", "left"]);
        run(&[
            "ip",
            "-6",
            "addr",
            "add",
            "2001:db8::1/64",
            "dev",
            "left",
            "nodad",
        ]);
        let kernel = Kernel::connect().await.expect("connects");
        let left = kernel
            .mirror
            .read()
            .link_named("left")
            .expect("a link")
            .index;
        let mut resolver = Resolver::new(kernel.nudges.clone());
        let wanted = [
            (left, "192.0.2.2".parse().expect("v4")),
            (left, "2001:db8::2".parse().expect("v6")),
        ];
        resolver.set_wanted(BTreeSet::from(wanted));
        let is_known = |state: &KernelState, key| {
            state
                .neighbours
                .get(&key)
                .is_some_and(|entry| entry.mac.is_some())
        };
        let deadline = Instant::now() + Duration::from_secs(10);
        loop {
            let known = wanted.map(|key| is_known(&kernel.mirror.read(), key));
            if known == [true, true] {
                break;
            }
            assert!(
                Instant::now() < deadline,
                "neighbours stay unknown: {known:?}"
            );
            resolver.tick(|_, _| false);
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    });
}

/// A namespace of its own for the other end of a link, held by a sleeping process.
struct Peer {
    holder: std::process::Child,
}

impl Peer {
    /// Moves `link` there and gives it `addresses`.
    fn with_link(link: &str, addresses: &[&str]) -> Self {
        let holder = Command::new("unshare")
            .args(["--net", "sleep", "300"])
            .spawn()
            .expect("starts");
        let peer = Self { holder };
        let own = std::fs::read_link("/proc/self/ns/net").expect("readable");
        let theirs = format!("/proc/{}/ns/net", peer.holder.id());
        let deadline = Instant::now() + Duration::from_secs(10);
        while std::fs::read_link(&theirs).is_ok_and(|other| other == own) {
            assert!(Instant::now() < deadline, "no namespace");
            std::thread::yield_now();
        }
        let pid = peer.holder.id().to_string();
        run(&["ip", "link", "set", link, "netns", &pid]);
        peer.run(&["ip", "link", "set", "lo", "up"]);
        for address in addresses {
            let family = if address.contains(':') { "-6" } else { "-4" };
            let mut command = vec!["ip", family, "addr", "add", address, "dev", link];
            command.extend(address.contains(':').then_some("nodad"));
            peer.run(&command);
        }
        peer.run(&["ip", "link", "set", link, "up"]);
        let off = [
            "ethtool", "-K", link, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
        ];
        peer.run(&off);
        peer
    }

    fn command(&self, command: &[&str]) -> Command {
        let mut inside = Command::new("nsenter");
        inside
            .args(["-t", &self.holder.id().to_string(), "-n"])
            .args(command);
        inside
    }

    fn run(&self, command: &[&str]) -> String {
        let output = self.command(command).output().expect("nsenter starts");
        let error = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success(), "{command:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        let _ = self.holder.kill();
        let _ = self.holder.wait();
    }
}

/// A process that ends with the value.
struct Running(std::process::Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn documents(tier: &str) -> String {
    format!(
        "apiVersion: marchproxy/v1
kind: Port
metadata: {{ name: wan0 }}
spec: {{ node: test, interface: left, tier: \"{tier}\" }}
---
apiVersion: marchproxy/v1
kind: Port
metadata: {{ name: lan0 }}
spec: {{ node: test, interface: inner, tier: \"{tier}\" }}
---
apiVersion: marchproxy/v1
kind: Service
metadata: {{ name: echo }}
spec: {{ address: 10.1.0.10, port: 80, protocol: tcp, pool: echo }}
---
apiVersion: marchproxy/v1
kind: Service
metadata: {{ name: echo6 }}
spec: {{ address: \"fd00:1::10\", port: 80, protocol: tcp, pool: echo6 }}
---
apiVersion: marchproxy/v1
kind: Pool
metadata: {{ name: echo }}
spec: {{ backends: [ {{ address: 10.2.0.11, port: 8080 }} ] }}
---
apiVersion: marchproxy/v1
kind: Pool
metadata: {{ name: echo6 }}
spec: {{ backends: [ {{ address: \"fd00:2::11\", port: 8080 }} ] }}
"
    )
}

/// What a daemon would have left on disk for this tier, with some more documents.
fn write_last_good(state_dir: &Path, tier: &str, more: &str) {
    let source = march_model::Source {
        name: "test.yaml".into(),
        text: documents(tier) + more,
    };
    let state = march_model::State::default()
        .plan(
            march_model::Batch::parse(&[source]),
            march_model::Others::Keep,
            march_model::Timestamp::EPOCH,
        )
        .expect("the documents are valid")
        .state;
    let stored = Stored {
        revision: 1,
        content_hash: state.hash().to_string(),
        documents: state
            .documents()
            .map(|document| document.canonical().to_owned())
            .collect(),
        admin_states: Vec::new(),
        contents: Vec::new(),
    };
    LastGood::new(state_dir).promote(&stored).expect("writes");
}

fn ask(client: &Peer, target: &str) -> Output {
    client
        .command(&[
            "socat",
            "-u",
            &format!("TCP:{target}:80,connect-timeout=2"),
            "-",
        ])
        .stdin(Stdio::null())
        .output()
        .expect("socat starts")
}

/// Asks until the answer comes.
fn ask_until_answered(client: &Peer, target: &str, tier: &str) {
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        let output = ask(client, target);
        if output.stdout == b"hello\n" {
            return;
        }
        assert!(
            Instant::now() < deadline,
            "{tier}: no answer from {target}: {output:?}"
        );
    }
}

/// A client behind `left`, and a backend that says hello behind `inner`.
fn client_and_backend() -> (Peer, Peer, Running) {
    run(&[
        "ip", "link", "add", "inner", "type", "veth", "peer", "name", "outer",
    ]);
    run(&["ip", "link", "set", "inner", "up"]);
    for link in ["left", "inner"] {
        run(&[
            "ethtool", "-K", link, "tx", "off", "tso", "off", "gso", "off", "gro", "off",
        ]);
    }
    for (link, v4, v6) in [
        ("left", "10.1.0.1/24", "fd00:1::1/64"),
        ("inner", "10.2.0.1/24", "fd00:2::1/64"),
    ] {
        run(&["ip", "addr", "add", v4, "dev", link]);
        run(&["ip", "-6", "addr", "add", v6, "dev", link, "nodad"]);
    }
    let client = Peer::with_link("right", &["10.1.0.2/24", "fd00:1::2/64"]);
    let backend = Peer::with_link("outer", &["10.2.0.11/24", "fd00:2::11/64"]);
    let listen = "TCP6-LISTEN:8080,ipv6only=0,reuseaddr,fork";
    let server = Running(
        backend
            .command(&["socat", listen, "EXEC:echo hello"])
            .spawn()
            .expect("starts"),
    );
    (client, backend, server)
}

/// The program, with what is in `directory` and without a daemon.
fn start_node(directory: &Path) -> Running {
    Running(
        Command::new(env!("CARGO_BIN_EXE_marchdp"))
            .args(["--node", "test", "--metrics-port", "0", "--idle", "relax"])
            .args(["--flows4", "4096", "--flows6", "4096"])
            .arg("--state-dir")
            .arg(directory)
            .arg("--run-dir")
            .arg(directory)
            .arg("--socket")
            .arg(directory.join("nobody.sock"))
            .spawn()
            .expect("marchdp starts"),
    )
}

/// The whole program, from last-good and without a daemon, on one tier.
fn carries_tcp_and_ping(tier: &str) {
    let (client, _backend, _server) = client_and_backend();
    let before = run(&["ip", "-br", "-4", "addr"]);
    let directory = tempfile::tempdir().expect("a directory");
    write_last_good(directory.path(), tier, "");
    let mut node = start_node(directory.path());
    ask_until_answered(&client, "10.1.0.10", tier);
    ask_until_answered(&client, "[fd00:1::10]", tier);
    client.run(&["ping", "-c", "2", "-W", "5", "10.1.0.1"]);
    client.run(&["ping", "-c", "2", "-W", "5", "fd00:1::1"]);
    client.run(&["ping", "-c", "2", "-W", "5", "10.1.0.10"]);
    run(&["kill", "-TERM", &node.0.id().to_string()]);
    assert!(
        node.0.wait().expect("a child").success(),
        "{tier}: marchdp ends orderly"
    );
    assert_eq!(
        run(&["ip", "-br", "-4", "addr"]),
        before,
        "{tier}: everything is given back"
    );
    assert!(
        !run(&["ip", "route"]).contains("blackhole"),
        "{tier}: no route is left behind"
    );
}

#[test]
fn af_xdp_carries_tcp_and_ping() {
    in_namespace("af_xdp_carries_tcp_and_ping", || async {
        carries_tcp_and_ping("af_xdp");
    });
}

#[test]
fn dpdk_carries_tcp_and_ping_through_its_twins() {
    in_namespace("dpdk_carries_tcp_and_ping_through_its_twins", || async {
        carries_tcp_and_ping("dpdk(net_af_packet)");
    });
}

#[test]
fn socket_carries_tcp_and_ping() {
    in_namespace("socket_carries_tcp_and_ping", || async {
        carries_tcp_and_ping("socket");
    });
}

/// A rule that ends without anybody saying so: what it refused is served from then on.
#[test]
fn a_rule_ends_by_itself() {
    in_namespace("a_rule_ends_by_itself", || async {
        let (client, _backend, _server) = client_and_backend();
        let directory = tempfile::tempdir().expect("a directory");
        let end = march_model::Timestamp::from(SystemTime::now() + Duration::from_secs(15));
        let rule = format!(
            "---\napiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: not-yet }}\n\
             spec: {{ priority: 1, action: drop, expiresAt: \"{end}\" }}\n"
        );
        write_last_good(directory.path(), "socket", &rule);
        let _node = start_node(directory.path());
        let deadline = Instant::now() + Duration::from_secs(60);
        let mut refusals = 0;
        loop {
            let output = ask(&client, "10.1.0.10");
            let now = march_model::Timestamp::from(SystemTime::now());
            if output.stdout == b"hello\n" {
                assert!(now >= end, "served at {now}, while the rule still held");
                break;
            }
            refusals += u32::from(output.status.success());
            assert!(Instant::now() < deadline, "not served: {output:?}");
        }
        if refusals == 0 {
            println!("SKIPPED: the node started too late to be seen refusing");
        }
    });
}

fn shown() -> String {
    let mut text = run(&["ip", "-br", "addr", "show", "dev", "left"]);
    text += &run(&["ip", "route", "show"]);
    text += &run(&["ip", "-6", "route", "show", "dev", "left"]);
    text += &run(&["ip", "-br", "link", "show", "dev", "left"]);
    text += &sysctl::read("/proc/sys/net/ipv4/conf/left/forwarding").expect("readable");
    text += &sysctl::read("/proc/sys/net/ipv6/conf/left/disable_ipv6").expect("readable");
    text += &run(&["nft", "list", "ruleset"]);
    text
}

/// Takes everything that can be taken of `left`.
async fn take_everything(state_dir: &Path) -> (Kernel, Takeover, twin::Tap) {
    let kernel = Kernel::connect().await.expect("connects");
    let link = kernel
        .mirror
        .read()
        .link_named("left")
        .expect("a link")
        .clone();
    let mut takeover = Takeover::open(state_dir, kernel.handle.clone()).expect("opens");
    takeover.stop_forwarding("left").expect("writes");
    takeover
        .hear_all_multicast("left", link.index)
        .await
        .expect("sets");
    let carried = takeover
        .take_addresses("left", link.index)
        .await
        .expect("takes");
    takeover
        .silence("left", link.index)
        .await
        .expect("silences");
    let (tap, index) = twin::create(&kernel.handle, "left", link.mac, link.mtu)
        .await
        .expect("makes a twin");
    takeover.put_on(&carried, index).await.expect("moves");
    takeover
        .set_blackholes(&BTreeSet::from([prefix("203.0.113.10", 32)]))
        .await
        .expect("adds");
    (kernel, takeover, tap)
}

fn configure_left() {
    run(&["ip", "addr", "add", "192.0.2.1/24", "dev", "left"]);
    run(&["ip", "addr", "add", "192.0.2.7/24", "dev", "left"]);
    run(&[
        "ip",
        "-6",
        "addr",
        "add",
        "2001:db8::1/64",
        "dev",
        "left",
        "nodad",
    ]);
    run(&[
        "ip",
        "route",
        "add",
        "10.0.0.0/8",
        "via",
        "192.0.2.254",
        "metric",
        "50",
    ]);
    run(&["ip", "route", "add", "default", "via", "192.0.2.254"]);
    run(&[
        "ip",
        "-6",
        "route",
        "add",
        "2001:db8:1::/48",
        "via",
        "2001:db8::fe",
    ]);
    sysctl::write("/proc/sys/net/ipv4/conf/left/forwarding", "1").expect("writable");
    // Until duplicate address detection of the link-local address is over, its flags differ.
    let deadline = Instant::now() + Duration::from_secs(10);
    while run(&["ip", "-6", "addr", "show", "tentative"]).contains("inet6") {
        assert!(Instant::now() < deadline, "addresses stay tentative");
        std::thread::sleep(Duration::from_millis(50));
    }
}

#[test]
fn takeover_moves_everything_to_the_twin_and_gives_everything_back() {
    in_namespace(
        "takeover_moves_everything_to_the_twin_and_gives_everything_back",
        || async {
            configure_left();
            let before = shown();
            let directory = tempfile::tempdir().expect("a directory");
            let (_kernel, mut takeover, tap) = take_everything(directory.path()).await;
            let on_twin = run(&["ip", "-br", "addr", "show", "dev", "mp-left"]);
            for address in ["192.0.2.1/24", "192.0.2.7/24", "2001:db8::1/64"] {
                assert!(
                    on_twin.contains(address),
                    "{address} is not on the twin: {on_twin}"
                );
            }
            let routes = run(&["ip", "route"]);
            assert!(
                routes.contains("10.0.0.0/8 via 192.0.2.254 dev mp-left"),
                "{routes}"
            );
            assert!(routes.contains("blackhole 203.0.113.10"), "{routes}");
            assert!(
                run(&["ip", "-6", "route"])
                    .contains("2001:db8:1::/48 via 2001:db8::fe dev mp-left")
            );
            assert!(run(&["nft", "list", "ruleset"]).contains("policy drop"));
            assert_ne!(shown(), before);
            drop(tap);
            assert_eq!(takeover.give_back().await, Vec::<String>::new());
            assert_eq!(takeover.outstanding(), 0);
            assert_eq!(shown(), before);
            assert_eq!(
                takeover.give_back().await,
                Vec::<String>::new(),
                "giving back twice is harmless"
            );
        },
    );
}

#[test]
fn takeover_is_undone_after_a_kill() {
    const NAME: &str = "takeover_is_undone_after_a_kill";
    const VICTIM: &str = "MARCHDP_TEST_VICTIM";
    if let Ok(directory) = std::env::var(VICTIM) {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("a runtime");
        runtime.block_on(async {
            let _taken = take_everything(Path::new(&directory)).await;
            std::fs::write(Path::new(&directory).join("taken"), b"").expect("writes");
            std::future::pending::<()>().await;
        });
    }
    in_namespace(NAME, || async {
        configure_left();
        let before = shown();
        let directory = tempfile::tempdir().expect("a directory");
        let mut victim = Command::new(std::env::current_exe().expect("own path"))
            .args(["--exact", NAME, "--nocapture", "--test-threads=1"])
            .env(VICTIM, directory.path())
            .spawn()
            .expect("starts");
        let deadline = Instant::now() + Duration::from_secs(30);
        while !directory.path().join("taken").exists() {
            assert!(Instant::now() < deadline, "nothing was taken");
            assert!(
                victim.try_wait().expect("a child").is_none(),
                "the victim ended by itself"
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        victim.kill().expect("kills");
        victim.wait().expect("ended");
        assert_ne!(shown(), before, "the kill gives nothing back");
        let kernel = Kernel::connect().await.expect("connects");
        let mut next = Takeover::open(directory.path(), kernel.handle.clone()).expect("opens");
        assert!(next.outstanding() > 0);
        assert_eq!(next.give_back().await, Vec::<String>::new());
        assert_eq!(shown(), before);
    });
}

#[test]
fn a_state_directory_in_use_is_left_alone_whatever_the_node_is_called() {
    use rustix::fs::{FlockOperation, flock};
    let directory = tempfile::tempdir().expect("a directory");
    let lock = std::fs::File::create(directory.path().join("lock")).expect("a file");
    flock(&lock, FlockOperation::NonBlockingLockExclusive).expect("locks");
    let output = Command::new(env!("CARGO_BIN_EXE_marchdp"))
        .args(["--detach", "--node", "other", "--state-dir"])
        .arg(directory.path())
        .arg("--run-dir")
        .arg(directory.path())
        .output()
        .expect("marchdp starts");
    assert!(!output.status.success());
    let log = String::from_utf8_lossy(&output.stderr);
    assert!(log.contains("another marchdp runs on this state"), "{log}");
}
