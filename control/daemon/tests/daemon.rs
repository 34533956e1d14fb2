//! The real `marchd` process with nodes and operators on its socket.

mod support;

use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use march_model::State;
use march_proto::v1::{self, daemon_message::Message};
use march_proto::{connect, status};
use support::{Node, Push, eventually, rule, service};
use tonic::Code;
use tonic::transport::Channel;

type Client = v1::control_client::ControlClient<Channel>;

struct Daemon {
    directory: tempfile::TempDir,
    child: Child,
}

impl Daemon {
    async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let child = Self::spawn(&directory);
        let daemon = Self { directory, child };
        daemon.client().await;
        daemon
    }

    fn spawn(directory: &tempfile::TempDir) -> Child {
        Self::spawn_with(directory, "off", Stdio::null())
    }

    fn spawn_with(directory: &tempfile::TempDir, metrics: &str, stderr: Stdio) -> Child {
        Command::new(env!("CARGO_BIN_EXE_marchd"))
            .arg("--socket")
            .arg(directory.path().join("run/marchd.sock"))
            .arg("--state-dir")
            .arg(directory.path().join("state"))
            .args(["--metrics", metrics])
            .stderr(stderr)
            .spawn()
            .unwrap()
    }

    fn socket(&self) -> PathBuf {
        self.directory.path().join("run/marchd.sock")
    }

    async fn client(&self) -> Client {
        let socket = self.socket();
        let channel = eventually("the daemon listens", || async {
            connect::channel(&socket).await.ok()
        });
        connect::control(channel.await)
    }

    async fn kill_and_start_again(&mut self) {
        self.child.kill().unwrap();
        self.child.wait().unwrap();
        self.child = Self::spawn(&self.directory);
        self.client().await;
    }

    fn terminate(&mut self) -> std::process::ExitStatus {
        let pid = i32::try_from(self.child.id())
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .unwrap();
        rustix::process::kill_process(pid, rustix::process::Signal::TERM).unwrap();
        self.child.wait().unwrap()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn files(text: &str) -> Vec<v1::SourceFile> {
    vec![v1::SourceFile {
        name: "t.yaml".to_owned(),
        text: text.to_owned(),
    }]
}

async fn apply(client: &mut Client, text: &str, wait_ms: u32) -> v1::ApplyResponse {
    let request = v1::ApplyRequest {
        files: files(text),
        wait_ms,
        ..Default::default()
    };
    client.apply(request).await.unwrap().into_inner()
}

#[tokio::test]
async fn a_node_gets_a_snapshot_then_deltas_and_nothing_when_it_is_current() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let first = apply(&mut client, &(rule("a", 1) + &rule("b", 2)), 1_000).await;
    assert_eq!(
        (first.revision, first.outcome()),
        (1, v1::Outcome::Committed)
    );
    assert_eq!(
        (first.nodes.len(), first.convergence()),
        (0, v1::Convergence::Reached),
        "0 nodes is success"
    );

    let nothing = State::default();
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &nothing)).await;
    assert_eq!(
        node.push().await,
        Push::Snapshot {
            revision: 1,
            documents: 2
        }
    );
    node.ack(1).await;

    let second = apply(&mut client, &(rule("a", 9) + &rule("c", 3)), 0).await;
    assert_eq!(second.revision, 2);
    assert_eq!(
        node.push().await,
        Push::Delta {
            from: 1,
            to: 2,
            upserts: 2,
            deletes: 0
        }
    );
    assert_eq!(node.held.hash().to_string(), second.hash);
    node.ack(2).await;

    let unchanged = apply(&mut client, &rule("a", 9), 20_000).await;
    assert_eq!(
        (unchanged.revision, unchanged.outcome()),
        (2, v1::Outcome::Unchanged)
    );
    assert_eq!(unchanged.convergence(), v1::Convergence::Reached);
    let reference = v1::DocumentRef {
        kind: "Rule".to_owned(),
        name: "b".to_owned(),
    };
    let request = v1::DeleteRequest {
        documents: vec![reference],
        ..Default::default()
    };
    client.delete(request).await.unwrap();
    // The next push is the deletion: the unchanged apply pushed nothing.
    assert_eq!(
        node.push().await,
        Push::Delta {
            from: 2,
            to: 3,
            upserts: 0,
            deletes: 1
        }
    );
    node.ack(3).await;

    let held = node.held.clone();
    drop(node);
    let mut again = Node::connect(&daemon.socket(), "n1", (3, &held)).await;
    let Message::Current(current) = again.next().await.unwrap() else {
        panic!("a push")
    };
    assert_eq!(
        (current.revision, current.hash),
        (3, held.hash().to_string())
    );
    apply(&mut client, &rule("a", 10), 0).await;
    assert_eq!(
        again.push().await,
        Push::Delta {
            from: 3,
            to: 4,
            upserts: 1,
            deletes: 0
        }
    );

    // A node that claims the number but has other content is set right.
    let mut other = Node::connect(&daemon.socket(), "n2", (4, &held)).await;
    assert_eq!(
        other.push().await,
        Push::Snapshot {
            revision: 4,
            documents: 2
        }
    );
}

#[tokio::test]
async fn a_refusal_names_the_field_and_the_next_push_is_a_snapshot() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let mut good = Node::connect(&daemon.socket(), "good", (0, &State::default())).await;
    let mut bad = Node::connect(&daemon.socket(), "bad", (0, &State::default())).await;
    for node in [&mut good, &mut bad] {
        let Message::Current(current) = node.next().await.unwrap() else {
            panic!("a push")
        };
        assert_eq!(
            current.revision, 0,
            "nothing was ever applied, nothing is pushed"
        );
    }
    let applying =
        tokio::spawn(async move { (apply(&mut client, &rule("a", 1), 20_000).await, client) });
    good.push().await;
    bad.push().await;
    good.ack(1).await;
    bad.nack(1, "Rule/a", "spec.priority", "no room for it")
        .await;
    let (response, mut client) = applying.await.unwrap();
    assert_eq!(response.convergence(), v1::Convergence::Missed);
    let states: Vec<_> = response
        .nodes
        .iter()
        .map(|node| (node.node.as_str(), node.state()))
        .collect();
    assert_eq!(
        states,
        [
            ("bad", v1::NodeState::Refused),
            ("good", v1::NodeState::Running)
        ]
    );
    assert_eq!(response.nodes[0].errors[0].path, "spec.priority");
    assert!(response.nodes[1].commit_to_ack_us > 0);
    assert_eq!(response.nodes[1].timings.unwrap().running_us, 4);

    apply(&mut client, &rule("a", 2), 0).await;
    assert_eq!(
        good.push().await,
        Push::Delta {
            from: 1,
            to: 2,
            upserts: 1,
            deletes: 0
        }
    );
    assert_eq!(
        bad.push().await,
        Push::Snapshot {
            revision: 2,
            documents: 1
        }
    );
    bad.ack(2).await;
    let converged = eventually("bad runs revision 2", || {
        let mut client = client.clone();
        async move {
            let request = v1::NodesRequest {
                node: "bad".to_owned(),
            };
            let status = client
                .nodes(request)
                .await
                .unwrap()
                .into_inner()
                .nodes
                .remove(0);
            (status.state() == v1::NodeState::Running).then_some(status)
        }
    });
    assert!(converged.await.errors.is_empty());
}

#[tokio::test]
async fn a_slow_node_delays_nobody_and_skips_revisions() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let mut slow = Node::connect(&daemon.socket(), "slow", (0, &State::default())).await;
    let mut fast = Node::connect(&daemon.socket(), "fast", (0, &State::default())).await;
    slow.next().await.unwrap();
    fast.next().await.unwrap();
    for priority in 1..=20 {
        let response = apply(&mut client, &rule("a", priority), 0).await;
        fast.push().await;
        fast.ack(response.revision).await;
    }
    assert_eq!(
        slow.push().await,
        Push::Snapshot {
            revision: 1,
            documents: 1
        }
    );
    // One more revision, waited for: the fast node is done, the slow one is pending when time is over.
    let applying =
        tokio::spawn(async move { (apply(&mut client, &rule("b", 1), 300).await, client) });
    fast.push().await;
    fast.ack(21).await;
    let (response, _client) = applying.await.unwrap();
    let states: Vec<_> = response.nodes.iter().map(v1::NodeResult::state).collect();
    assert_eq!(states, [v1::NodeState::Running, v1::NodeState::Pending]);
    slow.ack(1).await;
    assert_eq!(
        slow.push().await,
        Push::Delta {
            from: 1,
            to: 21,
            upserts: 2,
            deletes: 0
        }
    );
    slow.ack(21).await;
}

#[tokio::test]
async fn a_new_session_replaces_the_old_one() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    apply(&mut client, &rule("a", 1), 0).await;
    let mut old = Node::connect(&daemon.socket(), "n1", (0, &State::default())).await;
    old.push().await;
    let mut new = Node::connect(&daemon.socket(), "n1", (0, &State::default())).await;
    new.push().await;
    assert_eq!(old.next().await.unwrap_err().code(), Code::Aborted);
    new.ack(1).await;
    let response = apply(&mut client, &rule("a", 1), 20_000).await;
    assert_eq!(
        (response.nodes.len(), response.convergence()),
        (1, v1::Convergence::Reached)
    );
    // An answer that nobody asked for ends the session.
    new.ack(7).await;
    assert_eq!(new.next().await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn killed_and_started_again_it_pushes_nothing_new() {
    let mut daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &State::default())).await;
    node.next().await.unwrap();
    apply(&mut client, &service("web", "192.0.2.10", "10.0.0.1"), 0).await;
    node.push().await;
    node.ack(1).await;
    let admin = v1::BackendAdmin {
        pool: "web".to_owned(),
        address: "10.0.0.1".to_owned(),
        port: 0,
        state: v1::AdminState::Drain.into(),
    };
    let request = v1::SetBackendStateRequest {
        backend: Some(admin.clone()),
    };
    let before = client
        .set_backend_state(request)
        .await
        .unwrap()
        .into_inner()
        .before;
    assert_eq!(
        (before[0].port, before[0].state()),
        (8080, v1::AdminState::Enabled)
    );
    let Message::BackendAdmins(admins) = node.next().await.unwrap() else {
        panic!("admin states")
    };
    let drained = v1::BackendAdmin {
        port: 8080,
        ..admin
    };
    assert_eq!(admins.states, std::slice::from_ref(&drained));

    daemon.kill_and_start_again().await;
    let held = node.held.clone();
    node.next().await.unwrap_err();
    let mut node = Node::connect(&daemon.socket(), "n1", (1, &held)).await;
    let Message::Current(current) = node.next().await.unwrap() else {
        panic!("a push")
    };
    assert_eq!(current.backend_admins, [drained]);
    let mut client = daemon.client().await;
    let response = apply(
        &mut client,
        &service("web", "192.0.2.10", "10.0.0.1"),
        20_000,
    )
    .await;
    assert_eq!(
        (response.revision, response.outcome()),
        (1, v1::Outcome::Unchanged)
    );
    assert_eq!(response.convergence(), v1::Convergence::Reached);
}

#[tokio::test]
async fn sigterm_ends_sessions_and_removes_the_socket() {
    let mut daemon = Daemon::start().await;
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &State::default())).await;
    node.next().await.unwrap();
    let mut client = daemon.client().await;
    let mut watch = client
        .watch_drops(v1::WatchDropsRequest::default())
        .await
        .unwrap()
        .into_inner();
    apply(&mut client, &rule("a", 1), 0).await;
    node.push().await;
    let exit = tokio::task::spawn_blocking(move || (daemon.terminate(), daemon));
    assert_eq!(node.next().await.unwrap_err().code(), Code::Unavailable);
    assert!(matches!(watch.message().await, Ok(None) | Err(_)));
    drop((node, watch, client));
    let (status, daemon) = exit.await.unwrap();
    assert!(status.success(), "{status}");
    assert!(!daemon.socket().exists());
    let journal = std::fs::metadata(daemon.directory.path().join("state/marchd.db-wal"));
    assert!(
        journal.map_or(0, |journal| journal.len()) == 0,
        "all is in the main file"
    );
}

#[tokio::test]
async fn conflicts_dry_runs_and_rollbacks() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    apply(&mut client, &rule("a", 1), 0).await;
    apply(&mut client, &rule("a", 2), 0).await;
    let late = v1::ApplyRequest {
        files: files(&rule("a", 3)),
        base_revision: 1,
        ..Default::default()
    };
    assert_eq!(client.apply(late).await.unwrap_err().code(), Code::Aborted);

    let mut dry = v1::ApplyRequest {
        files: files(&rule("b", 3)),
        ..Default::default()
    };
    dry.set_dry_run(v1::DryRun::OnlyCheck);
    dry.set_prune(v1::Prune::DeleteOthers);
    let checked = client.apply(dry).await.unwrap().into_inner();
    assert_eq!(
        (checked.revision, checked.outcome()),
        (2, v1::Outcome::Checked)
    );
    let kinds: Vec<_> = checked.changes.iter().map(v1::Change::change).collect();
    assert_eq!(kinds, [v1::ChangeKind::Removed, v1::ChangeKind::Added]);

    let back = v1::RollbackRequest {
        revision: 1,
        ..Default::default()
    };
    let back = client.rollback(back).await.unwrap().into_inner();
    assert_eq!(back.revision, 3);
    let history = client
        .history(v1::HistoryRequest::default())
        .await
        .unwrap()
        .into_inner()
        .revisions;
    assert_eq!(history[0].hash, history[2].hash);
    assert_eq!(
        (history[0].comment.as_str(), history[0].author.as_str()),
        ("rollback to revision 1", "root")
    );

    let wrong = v1::ApplyRequest {
        files: files(&service("web", "192.0.2.10", "192.0.2.10")),
        ..Default::default()
    };
    let refused = client.apply(wrong).await.unwrap_err();
    assert_eq!(refused.code(), Code::InvalidArgument);
    let errors = status::errors_of(&refused);
    assert_eq!((errors[0].file.as_str(), errors[0].line), ("t.yaml", 9));
    assert_eq!(errors[0].path, "spec.backends[0].address");

    apply(&mut client, &service("web", "192.0.2.10", "10.0.0.1"), 0).await;
    let pool = v1::DocumentRef {
        kind: "Pool".to_owned(),
        name: "web".to_owned(),
    };
    let used = v1::DeleteRequest {
        documents: vec![pool],
        ..Default::default()
    };
    assert_eq!(
        client.delete(used).await.unwrap_err().code(),
        Code::FailedPrecondition
    );
}

#[tokio::test]
async fn questions_are_answered_by_the_node_or_in_time() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let question = |node: &str, deadline_ms| v1::ExplainRequest {
        node: node.to_owned(),
        query: Some(v1::ExplainQuery::default()),
        deadline_ms,
        ..Default::default()
    };
    let absent = client.explain(question("", 0)).await.unwrap_err();
    assert_eq!(
        (absent.code(), absent.message()),
        (Code::Unavailable, "no node is connected")
    );
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &State::default())).await;
    node.next().await.unwrap();
    let silent = client.explain(question("n1", 50)).await.unwrap_err();
    assert_eq!(silent.code(), Code::Unavailable);
    let Message::Query(_) = node.next().await.unwrap() else {
        panic!("a query")
    };
    let asking = tokio::spawn(async move { client.explain(question("", 10_000)).await });
    let Message::Query(query) = node.next().await.unwrap() else {
        panic!("a query")
    };
    let explanation = v1::Explanation {
        verdict: "drop".to_owned(),
        reason: "no_service".to_owned(),
        ..Default::default()
    };
    node.reply(
        query.id,
        v1::query_reply::Reply::Explanation(explanation.clone()),
    )
    .await;
    assert_eq!(
        asking.await.unwrap().unwrap().into_inner().explanation,
        Some(explanation)
    );
}

#[tokio::test]
async fn questions_with_documents_take_turns() {
    let daemon = Daemon::start().await;
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &State::default())).await;
    node.next().await.unwrap();
    let mut asking = Vec::new();
    for _ in 0..2 {
        let mut client = daemon.client().await;
        let request = v1::ExplainRequest {
            query: Some(v1::ExplainQuery::default()),
            deadline_ms: 10_000,
            files: vec![v1::SourceFile {
                name: "a.yaml".to_owned(),
                text: rule("a", 1),
            }],
            ..Default::default()
        };
        asking.push(tokio::spawn(async move { client.explain(request).await }));
    }
    let answer = || v1::query_reply::Reply::Explanation(v1::Explanation::default());
    let Message::Query(first) = node.next().await.unwrap() else {
        panic!("a query")
    };
    // Others go on meanwhile, and the second question with documents is not among what the node is asked.
    for _ in 0..20 {
        let mut client = daemon.client().await;
        let plain = v1::ExplainRequest {
            query: Some(v1::ExplainQuery::default()),
            deadline_ms: 10_000,
            ..Default::default()
        };
        let plain = tokio::spawn(async move { client.explain(plain).await });
        let Message::Query(between) = node.next().await.unwrap() else {
            panic!("a query")
        };
        let Some(v1::query::Query::Explain(explain)) = &between.query else {
            panic!("a packet to explain")
        };
        assert_eq!(explain.candidate, None, "the second waits for its turn");
        node.reply(between.id, answer()).await;
        plain.await.unwrap().unwrap();
    }
    node.reply(first.id, answer()).await;
    let Message::Query(second) = node.next().await.unwrap() else {
        panic!("a query")
    };
    node.reply(second.id, answer()).await;
    for asked in asking {
        asked.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn drops_are_watched_as_differences() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &State::default())).await;
    node.next().await.unwrap();
    let drops = |land, runt| v1::Telemetry {
        drops: vec![
            v1::DropTelemetry {
                port: "p".to_owned(),
                reason: "land".to_owned(),
                packets: land,
            },
            v1::DropTelemetry {
                port: "p".to_owned(),
                reason: "runt".to_owned(),
                packets: runt,
            },
        ],
        ..Default::default()
    };
    let mut watch = client
        .watch_drops(v1::WatchDropsRequest::default())
        .await
        .unwrap()
        .into_inner();
    node.telemetry(drops(5, 1)).await;
    let first = watch.message().await.unwrap().unwrap();
    assert_eq!((first.totals.len(), first.since_last.len()), (2, 0));
    node.telemetry(drops(7, 1)).await;
    let second = watch.message().await.unwrap().unwrap();
    assert_eq!(
        second.since_last,
        [v1::DropTelemetry {
            port: "p".to_owned(),
            reason: "land".to_owned(),
            packets: 2
        }]
    );
    let mut late = client
        .watch_drops(v1::WatchDropsRequest::default())
        .await
        .unwrap()
        .into_inner();
    assert_eq!(late.message().await.unwrap().unwrap().totals[0].packets, 7);
    let missing = v1::NodesRequest {
        node: "n9".to_owned(),
    };
    assert_eq!(
        client.nodes(missing).await.unwrap_err().code(),
        Code::NotFound
    );
}

/// A peer that does not close its connection cannot keep the daemon from stopping.
#[tokio::test]
async fn a_peer_that_hangs_on_does_not_stop_the_stop() {
    let mut daemon = Daemon::start().await;
    let _client = daemon.client().await;
    // This test's runtime has one thread, and it stands still here: nobody answers the daemon's farewell.
    assert!(daemon.terminate().success());
}

/// A peer that is neither root nor in the group is refused by the daemon, even where the file's mode lets it in.
#[tokio::test]
async fn strangers_are_refused() {
    let daemon = Daemon::start().await;
    let mode = std::fs::metadata(daemon.socket())
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o660);
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: acting as another user needs root");
        return;
    }
    for path in [
        daemon.directory.path().to_owned(),
        daemon.directory.path().join("run"),
        daemon.socket(),
    ] {
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o777)).unwrap();
    }
    // The test's own binary runs the other half as `nobody`; where it was built, only root may get to.
    let copy = daemon.directory.path().join("stranger");
    std::fs::copy(std::env::current_exe().unwrap(), &copy).unwrap();
    let child = Command::new(&copy)
        .args(["--exact", "stranger_asks", "--nocapture"])
        .env("MARCHD_STRANGER_SOCKET", daemon.socket())
        .uid(65_534)
        .gid(65_534)
        .output()
        .unwrap();
    let output = String::from_utf8_lossy(&child.stdout).into_owned();
    assert!(
        output.contains("refused: PermissionDenied user nobody is neither root nor in the group"),
        "{output}"
    );
}

/// The half of `strangers_are_refused` that runs as another user.
#[tokio::test]
async fn stranger_asks() {
    let Ok(socket) = std::env::var("MARCHD_STRANGER_SOCKET") else {
        return;
    };
    let channel = connect::channel(socket.as_ref()).await.unwrap();
    let refused = connect::control(channel)
        .info(v1::InfoRequest {})
        .await
        .unwrap_err();
    println!("refused: {:?} {}", refused.code(), refused.message());
}

/// One HTTP request, whole answer.
fn http_get(address: std::net::SocketAddr, path: &str) -> Option<String> {
    use std::io::{Read, Write};
    let mut stream = std::net::TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[tokio::test]
async fn health_and_metrics_are_served_on_loopback_only_and_logs_are_json() {
    let directory = tempfile::tempdir().unwrap();
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    let child = Daemon::spawn_with(&directory, &address.to_string(), Stdio::piped());
    let mut daemon = Daemon { directory, child };
    let mut client = daemon.client().await;
    apply(&mut client, &rule("a", 1), 0).await;
    let health = eventually("health is served", || async {
        http_get(address, "/healthz")
    })
    .await;
    assert!(
        health.starts_with("HTTP/1.1 200 OK\r\n") && health.ends_with("\r\n\r\nok\n"),
        "{health}"
    );
    let metrics = http_get(address, "/metrics").unwrap();
    assert!(
        metrics.contains("\nmarchproxy_head_revision 1\n"),
        "{metrics}"
    );
    assert!(
        metrics.contains("\nmarchproxy_nodes{state=\"running\"} 0\n"),
        "{metrics}"
    );
    assert!(
        http_get(address, "/other")
            .unwrap()
            .starts_with("HTTP/1.1 404 ")
    );
    drop(client);
    let mut logs = daemon.child.stderr.take().unwrap();
    assert!(daemon.terminate().success());
    let mut text = String::new();
    std::io::Read::read_to_string(&mut logs, &mut text).unwrap();
    let events = [
        "daemon.started",
        "revision.committed",
        "daemon.stopping",
        "daemon.stopped",
    ];
    let mut lines = text.lines();
    for event in events {
        let field = format!("\"event\":\"{event}\"");
        let line = lines.find(|line| line.contains(&field));
        assert!(
            line.is_some_and(|line| line.starts_with('{') && line.ends_with('}')),
            "{event} in {text}"
        );
    }

    let open = Daemon::spawn_with(&tempfile::tempdir().unwrap(), "0.0.0.0:0", Stdio::null())
        .wait()
        .unwrap();
    assert!(!open.success(), "metrics on every address are refused");
}

#[tokio::test]
async fn a_second_daemon_does_not_take_over() {
    let daemon = Daemon::start().await;
    let second = Daemon::spawn(&daemon.directory).wait().unwrap();
    assert!(!second.success());
    daemon
        .client()
        .await
        .info(v1::InfoRequest {})
        .await
        .unwrap();
}
