//! The real `marchctl` against the real daemon: output, errors and every exit code.

mod lab;

use std::process::Command;

use lab::support::{Push, eventually, rule, service};
use lab::{Lab, marchctl};
use march_proto::v1::{self, daemon_message::Message};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exit_codes_are_as_documented() {
    let lab = Lab::start().await;
    let good = lab.file(
        "good.yaml",
        &(rule("a", 1) + &service("web", "192.0.2.10", "10.0.0.1")),
    );
    let other = lab.file("other.yaml", &rule("a", 2));
    let broken = lab.file("broken.yaml", "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: { name: a }\nspec: { priority: x, acton: drop }\n");
    let large = lab.directory.path().join("large.yaml");
    std::fs::File::create(&large)
        .unwrap()
        .set_len(100 << 20)
        .unwrap();
    let large = large.display().to_string();
    let nowhere = lab.directory.path().join("none").display().to_string();
    let table: &[(i32, &[&str])] = &[
        (7, &["get", "ports", "--socket", "/nonexistent/marchd.sock"]),
        (0, &["get", "all"]),
        (1, &["diff", "-f", &good]),
        (0, &["apply", "-f", &good, "--comment", "first"]),
        (0, &["diff", "-f", &good]),
        (0, &["apply", "-f", &good]),
        (0, &["apply", "-f", &other, "--dry-run"]),
        (1, &["diff", "-f", &other]),
        (2, &["apply"]),
        (2, &["frobnicate"]),
        (2, &["get", "frobs"]),
        (2, &["apply", "-f", &good, "--wait", "--no-wait"]),
        (2, &["explain", "10.0.0.1:80"]),
        (2, &["delete", "node", "n1"]),
        (3, &["apply", "-f", &broken]),
        (3, &["diff", "-f", &broken]),
        (3, &["apply", "-f", &large]),
        (3, &["apply", "-f", "/nonexistent.yaml"]),
        (3, &["apply", "-f", &nowhere]),
        (4, &["get", "rule", "nope"]),
        (4, &["describe", "service", "nope"]),
        (4, &["delete", "rule", "nope"]),
        (4, &["get", "node", "nope"]),
        (4, &["history", "--revision", "99"]),
        (4, &["rollback", "99"]),
        (4, &["backend", "drain", "web", "10.9.9.9"]),
        (5, &["apply", "-f", &other, "--base", "77"]),
        (5, &["delete", "pool", "web"]),
        (7, &["explain", "203.0.113.9:4000", "192.0.2.10:80"]),
        (0, &["delete", "rule", "a"]),
        (0, &["rollback", "1"]),
        (0, &["history"]),
        (0, &["drops"]),
        (0, &["version"]),
        (0, &["completion", "bash"]),
        (0, &["doctor"]),
    ];
    for (code, args) in table {
        let run = lab.expect(*code, args).await;
        if *code > 1 {
            assert!(
                run.stdout.is_empty(),
                "{args:?}: data beside a failure: {run:#?}"
            );
            assert!(!run.stderr.is_empty(), "{args:?}: a failure without a word");
        } else {
            assert!(run.stderr.is_empty(), "{args:?}: {run:#?}");
        }
        assert!(
            !run.stdout.contains('\x1b'),
            "{args:?}: colour without a terminal"
        );
    }
    let stats = lab.expect(0, &["stats"]).await;
    assert_eq!(
        (stats.stdout.as_str(), stats.stderr.as_str()),
        ("", "no node ever connected\n")
    );
    // The doctor's findings are data also where the daemon is not reached.
    let run = lab
        .expect(7, &["doctor", "--socket", "/nonexistent/marchd.sock"])
        .await;
    assert!(run.stdout.contains("fix: start marchd"), "{run:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_without_permission_is_denied() {
    use std::os::unix::fs::PermissionsExt;
    use std::os::unix::process::CommandExt;
    let lab = Lab::start().await;
    if !rustix::process::getuid().is_root() {
        eprintln!("SKIPPED: acting as another user needs root");
        return;
    }
    std::fs::set_permissions(lab.directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    // The target directory may be where only root gets to, such as in root's home.
    let marchctl = lab.directory.path().join("marchctl");
    std::fs::copy(env!("CARGO_BIN_EXE_marchctl"), &marchctl).unwrap();
    let as_nobody = |mode| {
        std::fs::set_permissions(lab.socket(), std::fs::Permissions::from_mode(mode)).unwrap();
        let mut command = Command::new(&marchctl);
        command
            .env("MARCHPROXY_SOCKET", lab.socket())
            .args(["get", "all"])
            .uid(65_534)
            .gid(65_534);
        tokio::task::spawn_blocking(move || command.output().unwrap())
    };
    // First the file's mode refuses, then, with that out of the way, the daemon.
    for (mode, words) in [
        (0o660, "permission denied"),
        (0o666, "neither root nor in the group"),
    ] {
        let output = as_nobody(mode).await.unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(6), "{stderr}");
        assert!(stderr.contains(words), "{stderr}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_error_has_its_file_and_line() {
    let lab = Lab::start().await;
    let directory = lab.directory.path().join("set");
    std::fs::create_dir(&directory).unwrap();
    std::fs::write(
        directory.join("a.yaml"),
        service("web", "192.0.2.10", "10.0.0.1"),
    )
    .unwrap();
    std::fs::write(
        directory.join("b.yaml"),
        service("api", "192.0.2.10", "192.0.2.10"),
    )
    .unwrap();
    std::fs::write(
        directory.join("c.json"),
        r#"{"apiVersion": "marchproxy/v1", "kind": "Rule",
 "metadata": {"name": "r"}, "spec": {"priority": 1, "acton": "drop"}}"#,
    )
    .unwrap();
    let run = lab
        .expect(3, &["apply", "-f", directory.to_str().unwrap()])
        .await;
    let place = directory.display();
    let lines: Vec<&str> = run.stderr.lines().collect();
    assert_eq!(
        lines,
        [
            format!(
                "{place}/a.yaml:4:18: Service/web: spec.address: tcp 192.0.2.10 port 80 is used twice, by Service/api and by Service/web"
            ),
            format!(
                "{place}/b.yaml:9:32: Pool/api: spec.backends[0].address: backend 192.0.2.10:8080 is the address of Service/api: the service would send to itself"
            ),
            format!("{place}/c.json:2:37: Rule/r: spec.action: the field `action` is missing"),
            format!(
                "{place}/c.json:2:53: Rule/r: spec.acton: there is no field `acton` here (did you mean `action`?); the fields are priority, expiresAt, match, action, redirect, mark, mirror, rateLimit, sourceNat"
            ),
            "marchctl: 4 errors, nothing was changed".to_owned(),
        ]
    );
    assert!(lab.expect(0, &["get", "all"]).await.stdout.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_errors_come_at_once() {
    let lab = Lab::start().await;
    let text: String = (0..3_000)
        .map(|number| service(&format!("s{number}"), "0.0.0.0/33", "10.0.0.1"))
        .collect();
    let run = marchctl(&lab.socket(), &["apply", "-f", "-"], &text).await;
    assert_eq!(run.code, 3, "{:.400}", run.stderr);
    let last = run.stderr.lines().last().unwrap_or_default();
    assert_eq!(last, "marchctl: 3000 errors, nothing was changed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn apply_shows_changes_and_reads_back_what_get_wrote() {
    let lab = Lab::start().await;
    let text = rule("a", 1) + &service("web", "192.0.2.10", "10.0.0.1");
    let run = marchctl(&lab.socket(), &["apply", "-f", "-"], &text).await;
    assert_eq!(run.code, 0, "{run:#?}");
    assert!(
        run.stdout
            .starts_with("+ Service/web\n+ Pool/web\n+ Rule/a\nrevision 1 ("),
        "{run:#?}"
    );
    assert!(
        run.stdout
            .ends_with("committed: 3 added, 0 changed, 0 removed\n0 nodes connected\n"),
        "{run:#?}"
    );

    for format in ["json", "yaml"] {
        let written = lab.expect(0, &["get", "all", "-o", format]).await.stdout;
        let back = marchctl(&lab.socket(), &["apply", "-f", "-", "--prune"], &written).await;
        assert!(
            back.stdout
                .starts_with("nothing to change, revision 1 stays"),
            "{format}: {back:#?}\n{written}"
        );
    }
    let pruned = marchctl(
        &lab.socket(),
        &["apply", "-f", "-", "--prune", "-o", "name"],
        &rule("a", 2),
    )
    .await;
    assert_eq!(pruned.stdout, "Service/web\nPool/web\nRule/a\n");
    let changes = lab.expect(0, &["history", "--revision", "2"]).await.stdout;
    assert!(
        changes.contains("- Service/web\n- Pool/web\n~ Rule/a\n    spec.priority: 1 -> 2\n"),
        "{changes}"
    );
    let old = lab
        .expect(0, &["get", "all", "--revision", "1", "-o", "name"])
        .await
        .stdout;
    assert_eq!(old, "Service/web\nPool/web\nRule/a\n");
    let run = marchctl(
        &lab.socket(),
        &["diff", "-f", "-", "-o", "json"],
        &rule("a", 3),
    )
    .await;
    let diff: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(diff["changes"][0]["change"], "changed");
    assert_eq!(diff["changes"][0]["fields"][0]["after"], "3");
    let port = "apiVersion: marchproxy/v1\nkind: Port\nmetadata: { name: p }\nspec: { node: n, interface: e, nat: { ports: 30000-40000 } }\n";
    let warned = marchctl(&lab.socket(), &["apply", "-f", "-"], port).await;
    assert_eq!(warned.code, 0);
    assert!(
        warned.stderr.starts_with("warning: <stdin>:4:"),
        "{warned:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_refuses_makes_exit_8_with_the_field() {
    let lab = Lab::start().await;
    let mut node = lab.node("edge1").await;
    node.next().await.unwrap();
    let file = lab.file("a.yaml", &service("web", "192.0.2.10", "10.0.0.1"));
    let args = ["apply", "-f", &file];
    let (run, ()) = tokio::join!(lab.run(&args), async {
        assert_eq!(
            node.push().await,
            Push::Snapshot {
                revision: 1,
                documents: 2
            }
        );
        node.nack(
            1,
            "Service/web",
            "spec.port",
            "another program listens there",
        )
        .await;
    });
    assert_eq!(run.code, 8, "{run:#?}");
    assert!(run.stdout.contains("node edge1 refused, runs revision 0\n    Service/web: spec.port: another program listens there\n0 of 1 nodes run it\n"), "{run:#?}");
    assert!(
        run.stderr
            .contains("revision 1 is committed, but not every node runs it"),
        "{run:#?}"
    );
    let doctor = lab.expect(8, &["doctor"]).await.stdout;
    assert!(doctor.contains("edge1 refused revision 1"), "{doctor}");
    lab.expect(
        0,
        &[
            "apply",
            "-f",
            &lab.file("b.yaml", &rule("b", 1)),
            "--no-wait",
        ],
    )
    .await;
    node.push().await;
    node.ack(2).await;
    let run = lab.expect(0, &["apply", "-f", &file]).await;
    assert!(run.stdout.ends_with("1 of 1 nodes run it\n"), "{run:#?}");
    // A node that says nothing in time.
    let late = lab.file("c.yaml", &rule("c", 1));
    let run = lab
        .expect(8, &["apply", "-f", &late, "--timeout", "200ms"])
        .await;
    assert!(
        run.stdout.contains("node edge1 pending, runs revision 2"),
        "{run:#?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_database_changes_nothing_and_says_so() {
    let lab = Lab::start_with_space(256 << 10).await;
    let mut node = lab.node("edge1").await;
    node.next().await.unwrap();
    let mut applied = 0;
    let failed = loop {
        let rules: String = (0..200).map(|i| rule(&format!("r{i}"), applied)).collect();
        let run = marchctl(&lab.socket(), &["apply", "-f", "-", "--no-wait"], &rules).await;
        if run.code != 0 {
            break run;
        }
        applied += 1;
        node.push().await;
        node.ack(applied.into()).await;
        assert!(applied < 1_000, "never full");
    };
    assert_eq!(failed.code, 7, "{failed:#?}");
    assert!(
        failed
            .stderr
            .contains("marchd.db: nothing was changed; free space and try again"),
        "{failed:#?}"
    );
    let history = lab
        .expect(0, &["history", "--limit", "1", "-o", "name"])
        .await;
    assert_eq!(history.stdout, format!("{applied}\n"));
    let nodes = lab.expect(0, &["get", "nodes", "-o", "json"]).await.stdout;
    assert!(
        nodes.contains(&format!("\"headRevision\": {applied}")),
        "{nodes}"
    );
}

fn telemetry() -> v1::Telemetry {
    let reason = v1::TierReason {
        tier: "dpdk".to_owned(),
        why: "no hugepages are reserved".to_owned(),
    };
    v1::Telemetry {
        ports: vec![v1::PortTelemetry {
            name: "lan0".to_owned(),
            interface: "eth1".to_owned(),
            tier: "af_xdp".to_owned(),
            mode: "copy".to_owned(),
            reasons: vec![reason],
            state: "up".to_owned(),
            rx_packets: 1234,
            ..Default::default()
        }],
        services: vec![v1::ServiceTelemetry {
            name: "web".to_owned(),
            active_flows: 42,
            ..Default::default()
        }],
        backends: vec![v1::BackendTelemetry {
            pool: "web".to_owned(),
            address: "10.0.0.1".to_owned(),
            port: 8080,
            health: "down".to_owned(),
            health_detail: "connection refused".to_owned(),
            ..Default::default()
        }],
        drops: vec![v1::DropTelemetry {
            port: "lan0".to_owned(),
            reason: "land".to_owned(),
            packets: 3,
        }],
        flows: Some(v1::FlowTelemetry {
            live: 42,
            capacity: 1000,
            embryonic: 40,
            embryonic_capacity: 64,
            flood_mode: 1,
            ..Default::default()
        }),
        generation: 7,
        ..Default::default()
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_nodes_say_is_shown() {
    let lab = Lab::start().await;
    let port = "apiVersion: marchproxy/v1\nkind: Port\nmetadata: { name: lan0 }\nspec: { node: edge1, interface: eth1 }\n---\n";
    let file = lab.file(
        "a.yaml",
        &(port.to_owned() + &service("web", "192.0.2.10", "10.0.0.1")),
    );
    lab.expect(0, &["apply", "-f", &file]).await;
    let mut node = lab.node("edge1").await;
    node.push().await;
    node.ack(1).await;
    node.telemetry(telemetry()).await;
    let ports = eventually("telemetry is shown", || async {
        let run = lab.expect(0, &["get", "ports"]).await;
        run.stdout.contains("af_xdp").then_some(run.stdout)
    });
    let lines: Vec<String> = ports.await.lines().map(str::to_owned).collect();
    let cells: Vec<&str> = lines[1]
        .split("  ")
        .map(str::trim)
        .filter(|cell| !cell.is_empty())
        .collect();
    assert_eq!(
        cells,
        [
            "lan0",
            "edge1",
            "eth1",
            "auto",
            "af_xdp",
            "up",
            "dpdk: no hugepages are reserved"
        ]
    );
    for (args, words) in [
        (&["get", "services"][..], "42"),
        (&["get", "ports", "-o", "wide"], "1234"),
        (&["get", "nodes"], "lan0=af_xdp"),
        (&["get", "nodes", "-o", "json"], "\"state\": \"running\""),
        (&["get", "backends", "-o", "wide"], "connection refused"),
        (&["get", "pools"], "edge1: 0"),
        (&["stats"], "flows: 42 live of 1000"),
        (&["stats"], "handshakes: 40 of 64, 0 made room, flood mode"),
        (
            &["drops", "-o", "wide"],
            "Source and destination address are the same",
        ),
        (&["drops", "-o", "name"], "land"),
        (
            &["describe", "port", "lan0"],
            "why: \"no hugepages are reserved\"",
        ),
        (&["describe", "node", "edge1"], "generation: 7"),
        (
            &["describe", "service", "web", "-o", "json"],
            "\"activeFlows\": 42",
        ),
        (
            &["doctor"],
            "for a higher tier: dpdk: no hugepages are reserved",
        ),
    ] {
        let run = lab.expect(0, args).await;
        assert!(run.stdout.contains(words), "{args:?}: {run:#?}");
    }

    let run = lab
        .expect(0, &["backend", "drain", "web", "10.0.0.1:8080"])
        .await;
    assert_eq!(run.stdout, "web/10.0.0.1:8080 enabled -> drain\n");
    let Message::BackendAdmins(admins) = node.next().await.unwrap() else {
        panic!("admin states")
    };
    assert_eq!(admins.states[0].state(), v1::AdminState::Drain);
    assert!(
        lab.expect(0, &["get", "backends"])
            .await
            .stdout
            .contains("drain")
    );
    lab.expect(0, &["backend", "enable", "web", "10.0.0.1"])
        .await;
    let Message::BackendAdmins(admins) = node.next().await.unwrap() else {
        panic!("admin states")
    };
    assert!(admins.states.is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn explain_and_watch_reach_the_node() {
    let lab = Lab::start().await;
    let mut node = lab.node("edge1").await;
    node.next().await.unwrap();
    let args = [
        "explain",
        "--node",
        "edge1",
        "--proto",
        "udp",
        "[2001:db8::9]:5353 -> [2001:db8::10]:53",
    ];
    let (run, ()) = tokio::join!(lab.run(&args), async {
        let Message::Query(query) = node.next().await.unwrap() else {
            panic!("a query")
        };
        let Some(v1::query::Query::Explain(explain)) = query.query else {
            panic!("explain")
        };
        let Some(v1::explain_query::Packet::Tuple(tuple)) = explain.packet else {
            panic!("a tuple")
        };
        assert_eq!(
            (tuple.source.as_str(), tuple.destination_port),
            ("2001:db8::9", 53)
        );
        let explanation = v1::Explanation {
            verdict: "drop".to_owned(),
            reason: "no_service".to_owned(),
            steps: vec![v1::ExplainStep {
                stage: "service".to_owned(),
                detail: "no VIP".to_owned(),
            }],
            ..Default::default()
        };
        node.reply(query.id, v1::query_reply::Reply::Explanation(explanation))
            .await;
    });
    assert_eq!(run.code, 0, "{run:#?}");
    assert!(
        run.stdout
            .starts_with("verdict    drop(no_service)\nmeaning    Neither for this box"),
        "{run:#?}"
    );
    assert!(run.stdout.contains("  1. service   no VIP"), "{run:#?}");

    node.telemetry(telemetry()).await;
    let socket = lab.socket();
    let watching = tokio::spawn(async move {
        marchctl(
            &socket,
            &["drops", "--watch", "--for", "1s", "-o", "json"],
            "",
        )
        .await
    });
    // Reports go on until the watcher has had its time: some of them fall into it.
    let mut packets = 3;
    while !watching.is_finished() {
        packets += 1;
        let mut telemetry = telemetry();
        telemetry.drops[0].packets = packets;
        node.telemetry(telemetry).await;
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    let run = watching.await.unwrap();
    assert_eq!(run.code, 0, "{run:#?}");
    let reports: Vec<serde_json::Value> = run
        .stdout
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(reports[0]["sinceLast"].as_array().unwrap().is_empty());
    assert_eq!(reports[1]["sinceLast"][0]["reason"], "land");
}
