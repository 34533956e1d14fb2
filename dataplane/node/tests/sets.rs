//! Address sets of a node with the real control daemon: fetched, changed, kept, damaged, fetched again.
//!
//! Needs root: the agent runs in a network namespace of its own, which goes with the test's process.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use march_proto::connect;
use march_proto::v1::set_load_request::Part;
use march_proto::v1::{self, SetMode};
use marchdp::agent::{Agent, Options};
use marchdp::engine::{IdleChoice, LcoreOptions};
use marchdp::ladder::Taking;
use marchdp::metrics::Snapshot;
use tokio::sync::{oneshot, watch};
use tonic::transport::Channel;

/// Set in the process that is inside the namespace.
const INSIDE: &str = "MARCHDP_TEST_SETS";

/// Far longer than anything takes; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(30);

/// Runs `body` in a fresh network namespace.
fn in_namespace<F: Future<Output = ()>>(name: &str, body: impl FnOnce() -> F) {
    if std::env::var(INSIDE).is_ok_and(|inside| inside == name) {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        return runtime.block_on(body());
    }
    let status = Command::new("unshare")
        .args(["--net", "--"])
        .arg(std::env::current_exe().expect("this test's own path"))
        .args(["--exact", name, "--nocapture", "--test-threads=1"])
        .env(INSIDE, name)
        .status()
        .expect("unshare starts; the tests need root");
    assert!(status.success(), "{name} failed inside its namespace");
}

/// The control daemon on its state.
struct Daemon {
    stop: watch::Sender<bool>,
    thread: std::thread::JoinHandle<Result<(), marchd::ServeError>>,
}

impl Daemon {
    fn start(directory: &Path) -> Self {
        let (stop, stopped) = watch::channel(false);
        let options = marchd::Options {
            socket: socket(directory),
            database: directory.join("marchd.db"),
            max_database_bytes: 1 << 30,
            metrics: None,
        };
        let thread = std::thread::spawn(move || {
            tokio::runtime::Runtime::new()
                .expect("a runtime")
                .block_on(marchd::serve(options, stopped))
        });
        Self { stop, thread }
    }

    fn stop(self) {
        self.stop.send_replace(true);
        let served = self.thread.join().expect("the daemon does not panic");
        served.expect("the daemon serves");
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("marchd.sock")
}

type Client = v1::control_client::ControlClient<Channel>;

async fn client(directory: &Path) -> Client {
    let socket = socket(directory);
    let deadline = Instant::now() + DEADLINE;
    loop {
        match connect::channel(&socket).await {
            Ok(channel) => return connect::control(channel),
            Err(error) => assert!(Instant::now() < deadline, "the daemon listens: {error}"),
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// The agent of a node that has no ports.
struct Node {
    stop: oneshot::Sender<()>,
    snapshot: Box<dyn Fn() -> Snapshot + Send>,
    thread: std::thread::JoinHandle<Vec<String>>,
}

impl Node {
    async fn start(directory: &Path) -> Self {
        let options = Options {
            node: "n1".to_owned(),
            socket: socket(directory),
            state_dir: directory.join("node"),
            taking: Taking::Guarded,
            tier_limit: Some(marchdp::ladder::Family::Socket),
            lcores: LcoreOptions {
                cpus: Vec::new(),
                idle: IdleChoice::Relax,
                flows4: 1_024,
                flows6: 1_024,
                sources: 1_024,
            },
            ssh_client: None,
        };
        std::fs::create_dir_all(&options.state_dir).expect("a directory");
        let (stop, stopped) = oneshot::channel();
        let (started, snapshot) = oneshot::channel();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Runtime::new().expect("a runtime");
            runtime.block_on(async {
                let agent = Agent::start(options).await.expect("the agent starts");
                let snapshot: Box<dyn Fn() -> Snapshot + Send> = Box::new(agent.snapshot());
                let _ = started.send(snapshot);
                let stop = async {
                    let _ = stopped.await;
                };
                agent.run(stop).await
            })
        });
        Self {
            stop,
            snapshot: snapshot.await.expect("the agent starts"),
            thread,
        }
    }

    /// Waits until the session stands.
    async fn connected(&self) {
        let deadline = Instant::now() + DEADLINE;
        while !(self.snapshot)().is_connected {
            assert!(Instant::now() < deadline, "the node does not connect");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until it runs a revision, and says so.
    async fn runs(&self, revision: u64) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let now = (self.snapshot)();
            if now.telemetry.revision == revision {
                return;
            }
            let running = now.telemetry.revision;
            assert!(
                Instant::now() < deadline,
                "revision {revision} does not run, {running} does; {:?}",
                now.troubles
            );
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn stop(self) {
        self.stop.send(()).expect("the agent runs");
        let left = self.thread.join().expect("the agent does not panic");
        assert_eq!(left, Vec::<String>::new());
    }
}

/// Changes a set and waits for the node.
async fn load(client: &mut Client, mode: SetMode, text: String) -> v1::ApplyResponse {
    let terms = v1::SetLoadTerms {
        name: "big".to_owned(),
        mode: mode.into(),
        wait_ms: 30_000,
        ..Default::default()
    };
    let parts = [Part::Terms(terms), Part::List(text.into_bytes())];
    let requests = parts.map(|part| v1::SetLoadRequest { part: Some(part) });
    let response = client.set_load(tokio_stream::iter(requests)).await;
    let response = response.expect("a sound list").into_inner();
    let applied = response.applied.expect("an answer");
    assert_eq!(
        applied.convergence(),
        v1::Convergence::Reached,
        "{:?}",
        applied.nodes
    );
    applied
}

fn hosts(count: u32) -> String {
    let host = |number| format!("{}\n", std::net::Ipv4Addr::from(0x0a00_0000 + number * 3));
    (0..count).map(host).collect()
}

fn chunks(directory: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(directory.join("node/chunks")).expect("chunks are kept");
    entries
        .map(|entry| entry.expect("an entry").path())
        .collect()
}

#[test]
fn a_set_is_fetched_kept_and_started_from() {
    in_namespace("a_set_is_fetched_kept_and_started_from", || async {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path();
        let daemon = Daemon::start(directory);
        let mut client = client(directory).await;
        let node = Node::start(directory).await;
        node.connected().await;
        let first = load(&mut client, SetMode::Replace, hosts(60_000)).await;
        assert_eq!((first.revision, first.nodes.len()), (1, 1));
        let kept = chunks(directory).len();
        assert!(kept > 40, "{kept}");
        load(&mut client, SetMode::Add, "10.0.0.1".to_owned()).await;
        let grown = chunks(directory).len() - kept;
        assert!(grown <= 5, "{grown} chunks for one prefix");
        drop(client);
        daemon.stop();
        node.stop();

        // Without the daemon.
        let node = Node::start(directory).await;
        node.runs(2).await;
        node.stop();
    });
}

#[test]
fn a_damaged_chunk_is_fetched_again_and_until_then_the_revision_before_runs() {
    const NAME: &str = "a_damaged_chunk_is_fetched_again_and_until_then_the_revision_before_runs";
    in_namespace(NAME, || async {
        let place = tempfile::tempdir().expect("a directory");
        let directory = place.path();
        let daemon = Daemon::start(directory);
        let mut operator = client(directory).await;
        let node = Node::start(directory).await;
        node.connected().await;
        load(&mut operator, SetMode::Replace, hosts(10_000)).await;
        let before = chunks(directory);
        load(&mut operator, SetMode::Add, "10.0.0.1".to_owned()).await;
        drop(operator);
        daemon.stop();
        node.stop();

        let mut new = chunks(directory);
        new.retain(|path| !before.contains(path));
        assert!((1..=5).contains(&new.len()), "{}", new.len());
        let whole = std::fs::read(&new[0]).expect("reads");
        std::fs::write(&new[0], &whole[..whole.len() / 2]).expect("writes");
        let node = Node::start(directory).await;
        node.runs(1).await;

        let daemon = Daemon::start(directory);
        node.runs(2).await;
        assert_eq!(std::fs::read(&new[0]).expect("reads"), whole);
        daemon.stop();
        node.stop();
    });
}
