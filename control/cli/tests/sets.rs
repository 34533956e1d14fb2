//! `marchctl set` against the real daemon.

mod lab;

use lab::support::{Push, rule};
use lab::{Lab, marchctl};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_is_loaded_changed_looked_into_and_exported() {
    let lab = Lab::start().await;
    let list = lab.file(
        "list.txt",
        "# two\n10.0.0.0/8\n\n2001:db8::/32 # six\n10.0.0.0/8\n",
    );
    let run = lab
        .expect(0, &["set", "load", "scanners", &list, "--comment", "feed"])
        .await;
    assert!(
        run.stdout.contains("2 prefixes, 2 added, 0 removed"),
        "{run:#?}"
    );
    assert!(run.stdout.contains("revision 1"), "{run:#?}");
    let run = lab.expect(0, &["set", "export", "scanners"]).await;
    assert_eq!(run.stdout, "10.0.0.0/8\n2001:db8::/32\n");

    let run = marchctl(
        &lab.socket(),
        &["set", "load", "scanners", "-"],
        &run.stdout,
    )
    .await;
    assert_eq!(run.code, 0);
    assert!(run.stdout.contains("nothing to change"), "{run:#?}");
    let run = lab
        .expect(0, &["set", "add", "scanners", "192.0.2.1", "192.0.2.0/24"])
        .await;
    assert!(run.stdout.contains("4 prefixes, 2 added"), "{run:#?}");
    let run = lab
        .expect(0, &["set", "contains", "scanners", "192.0.2.1"])
        .await;
    assert_eq!(run.stdout, "192.0.2.1\n");
    let run = lab
        .expect(0, &["set", "contains", "scanners", "192.0.2.2"])
        .await;
    assert_eq!(run.stdout, "192.0.2.0/24\n");
    let run = lab
        .expect(
            4,
            &[
                "set",
                "contains",
                "scanners",
                "192.0.2.2",
                "--revision",
                "1",
            ],
        )
        .await;
    assert_eq!(run.stdout, "");
    let run = lab
        .expect(0, &["set", "remove", "scanners", "10.0.0.0/8"])
        .await;
    assert!(
        run.stdout.contains("3 prefixes, 0 added, 1 removed"),
        "{run:#?}"
    );
    let run = lab.expect(0, &["set", "list"]).await;
    assert!(run.stdout.contains("scanners  3"), "{run:#?}");
    let run = lab.expect(0, &["history"]).await;
    assert!(run.stdout.contains("feed"), "{run:#?}");
    lab.expect(0, &["rollback", "1"]).await;
    let run = lab.expect(0, &["set", "export", "scanners"]).await;
    assert_eq!(run.stdout, "10.0.0.0/8\n2001:db8::/32\n");
    let run = lab
        .expect(0, &["set", "add", "scanners", "1.1.1.1", "-o", "json"])
        .await;
    let value: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    assert_eq!(
        (&value["prefixes"], &value["outcome"]),
        (&3.into(), &"committed".into())
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_wrong_ends_with_its_exit_code_and_changes_nothing() {
    let lab = Lab::start().await;
    let wrong = lab.file("wrong.txt", "10.0.0.0/8\n10.0.0.1/8\n\nexample.com\n");
    let empty = lab.file("empty.txt", "# nothing today\n");
    let directory = lab.directory.path().display().to_string();
    let run = lab.expect(3, &["set", "load", "s", &wrong]).await;
    let places: Vec<bool> = [":2:1: AddressSet/s: ", ":4:1: AddressSet/s: "]
        .map(|place| run.stderr.contains(&format!("{wrong}{place}")))
        .into();
    assert_eq!(places, [true, true], "{run:#?}");
    assert!(
        run.stderr.contains("write 10.0.0.0/8 for the network"),
        "{run:#?}"
    );
    for (code, args) in [
        (2, &["set", "add", "s"][..]),
        (2, &["set", "add", "s", "10.0.0.0/8\n10.0.0.1"]),
        (2, &["set", "load", "s"]),
        (3, &["set", "load", "s", &empty]),
        (3, &["set", "load", "s", "/nonexistent.txt"]),
        // It opens and cannot be read: what came so far is not taken for the list.
        (3, &["set", "load", "s", &directory]),
        (3, &["set", "add", "s", "10.0.0.1/8"]),
        (3, &["set", "add", "Not-a-name", "10.0.0.0/8"]),
        (4, &["set", "remove", "s", "10.0.0.0/8"]),
        (4, &["set", "export", "s"]),
        (4, &["set", "contains", "s", "10.0.0.1"]),
        (5, &["set", "add", "s", "10.0.0.0/8", "--base", "7"]),
    ] {
        let run = lab.expect(code, args).await;
        assert!(run.stdout.is_empty() && !run.stderr.is_empty(), "{run:#?}");
    }
    let run = lab.expect(0, &["history", "-o", "name"]).await;
    assert_eq!(run.stdout.trim(), "", "{run:#?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_load_waits_for_the_nodes_as_apply_does() {
    let lab = Lab::start().await;
    let file = lab.file("a.yaml", &rule("a", 1));
    lab.expect(0, &["apply", "-f", &file]).await;
    let mut node = lab.node("n1").await;
    assert!(matches!(node.push().await, Push::Snapshot { .. }));
    node.ack(1).await;

    let socket = lab.socket();
    let waiting = tokio::spawn(async move {
        marchctl(
            &socket,
            &["set", "add", "s", "10.0.0.0/8", "--timeout", "20s"],
            "",
        )
        .await
    });
    assert!(matches!(node.push().await, Push::Delta { to: 2, .. }));
    node.nack(
        2,
        "AddressSet/s",
        "spec.content.hash",
        "marchd does not have chunk",
    )
    .await;
    let run = waiting.await.unwrap();
    assert_eq!(run.code, 8, "{run:#?}");
    assert!(
        run.stdout.contains("marchd does not have chunk"),
        "{run:#?}"
    );
    let run = lab
        .expect(0, &["set", "add", "s", "10.0.0.1", "--no-wait"])
        .await;
    assert!(run.stdout.contains("revision 3"), "{run:#?}");
}
