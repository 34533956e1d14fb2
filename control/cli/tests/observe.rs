//! Looking at what rules and packets do: explain by what does not run, traces, rule hits.

mod lab;

use lab::Lab;
use lab::support::{Node, rule};
use march_proto::v1::query::Query;
use march_proto::v1::query_reply::Reply;
use march_proto::v1::{self, daemon_message::Message};

async fn question(node: &mut Node) -> (u64, Query) {
    loop {
        if let Message::Query(query) = node.next().await.unwrap() {
            return (query.id, query.query.unwrap());
        }
    }
}

fn explanation(verdict: &str) -> Reply {
    Reply::Explanation(v1::Explanation {
        verdict: verdict.to_owned(),
        ..Default::default()
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_packet_is_judged_by_an_older_revision_or_by_files() {
    let lab = Lab::start().await;
    let first = lab.file("1.yaml", &rule("first", 1));
    let second = lab.file("2.yaml", &rule("second", 2));
    lab.expect(0, &["apply", "-f", &first]).await;
    lab.expect(0, &["apply", "-f", &second]).await;
    let mut node = lab.node("edge1").await;
    let ends = ["203.0.113.9:1", "192.0.2.10:80"];
    for (options, revision, names) in [
        (&["--revision", "1"][..], 1, &["first"][..]),
        (&["-f", &second, "--prune"], 0, &["second"]),
        (&["-f", &first], 0, &["first", "second"]),
    ] {
        let args = [&["explain"], options, &ends[..]].concat();
        let (run, ()) = tokio::join!(lab.run(&args), async {
            let (id, Query::Explain(asked)) = question(&mut node).await else {
                panic!("explain")
            };
            let candidate = asked.candidate.expect("documents to judge by");
            let given: Vec<&str> = candidate
                .documents
                .iter()
                .map(|document| document.name.as_str())
                .collect();
            assert_eq!((candidate.revision, &given[..]), (revision, names));
            node.reply(id, explanation("forward")).await;
        });
        assert_eq!((run.code, &run.stdout[..18]), (0, "verdict    forward"));
    }
    let missing = [&["explain", "--revision", "77"], &ends[..]].concat();
    lab.expect(4, &missing).await;
    let broken = lab.file("broken.yaml", "kind: Rule\n");
    let broken = [&["explain", "-f", &broken], &ends[..]].concat();
    lab.expect(3, &broken).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_capture_is_explained_line_by_line() {
    let lab = Lab::start().await;
    let mut node = lab.node("edge1").await;
    // A classic capture file: little-endian, microseconds, Ethernet, two packets of 14 and 15 bytes.
    let mut file = vec![0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    file.extend([0xff, 0xff, 0, 0, 1, 0, 0, 0]);
    for length in [14_u8, 15] {
        file.extend([0; 8]);
        file.extend([length, 0, 0, 0, length, 0, 0, 0]);
        file.extend(vec![length; length.into()]);
    }
    let path = lab.directory.path().join("capture.pcap");
    std::fs::write(&path, file).unwrap();
    let path = path.display().to_string();
    let args = ["explain", "--pcap", &path];
    let (run, ()) = tokio::join!(lab.run(&args), async {
        for (length, verdict) in [(14, "forward"), (15, "punt")] {
            let (id, Query::Explain(asked)) = question(&mut node).await else {
                panic!("explain")
            };
            let Some(v1::explain_query::Packet::Frame(frame)) = asked.packet else {
                panic!("a frame")
            };
            assert_eq!(frame, vec![length; length.into()]);
            node.reply(id, explanation(verdict)).await;
        }
    });
    assert_eq!(run.code, 0, "{run:#?}");
    let words: Vec<Vec<&str>> = run
        .stdout
        .lines()
        .skip(1)
        .map(|line| line.split_whitespace().take(2).collect())
        .collect();
    assert_eq!(words, [["1", "forward"], ["2", "punt"]]);
    lab.expect(3, &["explain", "--pcap", "/dev/null"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trace_shows_packets_until_the_node_says_it_is_over() {
    let lab = Lab::start().await;
    let mut node = lab.node("edge1").await;
    let args = ["trace", "--filter", "tcp", "-c", "2", "--for", "5s"];
    let (run, ()) = tokio::join!(lab.run(&args), async {
        let (id, Query::TraceStart(start)) = question(&mut node).await else {
            panic!("a start")
        };
        assert_eq!(
            (start.filter.as_str(), start.count, start.seconds),
            ("tcp", 2, 5)
        );
        let started = Reply::TraceStarted(v1::TraceStarted { trace: 9 });
        node.reply(id, started).await;
        for over in [false, true] {
            let (id, Query::TraceRead(read)) = question(&mut node).await else {
                panic!("a read")
            };
            assert_eq!(read.trace, 9);
            let event = v1::TraceEvent {
                verdict: "drop".to_owned(),
                reason: "rule_drop".to_owned(),
                before: "TCP a -> b".to_owned(),
                ..Default::default()
            };
            let events = v1::TraceEvents {
                events: vec![event],
                lost: 3,
                over,
                why: "enough".to_owned(),
            };
            node.reply(id, Reply::TraceEvents(events)).await;
        }
    });
    assert_eq!(run.code, 0, "{run:#?}");
    assert_eq!(run.stdout.matches("drop(rule_drop)").count(), 2, "{run:#?}");
    assert!(
        run.stderr
            .contains("2 packets, 3 more matched and found no room: enough"),
        "{run:#?}"
    );
    let refused = ["trace", "--filter", "sorce"];
    let (run, ()) = tokio::join!(lab.run(&refused), async {
        let (id, _) = question(&mut node).await;
        node.reply(id, Reply::Error("`sorce` is not a word".to_owned()))
            .await;
    });
    assert_eq!(run.code, 3, "{run:#?}");
    assert!(run.stderr.contains("`sorce` is not a word"), "{run:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_are_shown_with_their_hits_and_the_unused_alone() {
    let lab = Lab::start().await;
    let text = format!("{}---\n{}", rule("busy", 1), rule("idle", 2));
    let file = lab.file("rules.yaml", &text);
    lab.expect(0, &["apply", "-f", &file]).await;
    // Nobody to ask is not "nothing matched".
    lab.expect(7, &["get", "rules", "--unused"]).await;
    let mut node = lab.node("edge1").await;
    let answers = async |node: &mut Node| {
        for (from, next) in [(0, 7), (7, 0)] {
            let (id, Query::RuleHits(asked)) = question(node).await else {
                panic!("rule hits")
            };
            assert_eq!(asked.from, from);
            let hit = v1::RuleHit {
                rule: "busy".to_owned(),
                hits: 20,
                last_hit_unix_ms: 1_700_000_000_000,
            };
            let page = v1::RuleHits {
                rules: vec![hit],
                next,
            };
            node.reply(id, Reply::RuleHits(page)).await;
        }
    };
    let wide = ["get", "rules", "-o", "wide"];
    let (run, ()) = tokio::join!(lab.run(&wide), answers(&mut node));
    assert_eq!(run.code, 0, "{run:#?}");
    let busy = run.stdout.lines().find(|line| line.starts_with("busy"));
    let busy = busy.expect("a row");
    assert!(
        busy.contains("40") && busy.contains("2023-11-14T22:13:20Z"),
        "{busy}"
    );
    assert!(busy.contains("fast path"), "{busy}");
    let unused = ["get", "rules", "--unused", "-o", "name"];
    let (run, ()) = tokio::join!(lab.run(&unused), answers(&mut node));
    assert_eq!((run.code, run.stdout.as_str()), (0, "Rule/idle\n"));
}
