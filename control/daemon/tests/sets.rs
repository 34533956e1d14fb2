//! Address sets through the real `marchd` process: loaded and looked into by operators, fetched by nodes.

mod support;

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use march_content::{Chunk, Memory};
use march_model::{AddressSet, ContentHash, Prefix, State};
use march_proto::v1::set_load_request::Part;
use march_proto::v1::{self, SetMode, daemon_message::Message, node_message};
use march_proto::{connect, status};
use support::{Node, Push, eventually, rule};
use tonic::transport::Channel;
use tonic::{Code, Status};

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
        Command::new(env!("CARGO_BIN_EXE_marchd"))
            .arg("--socket")
            .arg(directory.path().join("run/marchd.sock"))
            .arg("--state-dir")
            .arg(directory.path().join("state"))
            .args(["--metrics", "off"])
            .stderr(Stdio::null())
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
}

impl Drop for Daemon {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

async fn load(
    client: &mut Client,
    name: &str,
    mode: SetMode,
    text: &str,
) -> Result<v1::SetLoadResponse, Status> {
    let terms = v1::SetLoadTerms {
        name: name.to_owned(),
        mode: mode.into(),
        file: "list.txt".to_owned(),
        ..Default::default()
    };
    let pieces = text.as_bytes().chunks(100_000);
    let lists = pieces.map(|piece| Part::List(piece.to_vec()));
    let parts: Vec<v1::SetLoadRequest> = std::iter::once(Part::Terms(terms))
        .chain(lists)
        .map(|part| v1::SetLoadRequest { part: Some(part) })
        .collect();
    let response = client.set_load(tokio_stream::iter(parts)).await?;
    Ok(response.into_inner())
}

fn revision(response: &v1::SetLoadResponse) -> u64 {
    response.applied.as_ref().unwrap().revision
}

async fn export(client: &mut Client, name: &str, revision: u64) -> Result<String, Status> {
    let name = name.to_owned();
    let request = v1::SetExportRequest { name, revision };
    let mut lists = client.set_export(request).await?.into_inner();
    let mut text = String::new();
    while let Some(piece) = lists.message().await? {
        text += &piece.list;
    }
    Ok(text)
}

async fn contains(client: &mut Client, name: &str, address: &str, revision: u64) -> String {
    let request = v1::SetContainsRequest {
        name: name.to_owned(),
        address: address.to_owned(),
        revision,
    };
    let response = client.set_contains(request).await.unwrap();
    response.into_inner().prefix
}

/// So many hosts, in the order of a set.
fn hosts(count: u32) -> String {
    let host = |number| format!("{}\n", std::net::Ipv4Addr::from(0x0a00_0000 + number * 3));
    (0..count).map(host).collect()
}

#[tokio::test]
async fn a_set_is_loaded_changed_exported_and_rolled_back() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let text = hosts(20_000);
    let shuffled = format!("# comment\n\n{}{text}2001:db8::/32 # six\n", hosts(7));
    let first = load(&mut client, "big", SetMode::Replace, &shuffled)
        .await
        .unwrap();
    assert_eq!(
        (revision(&first), first.prefixes, first.added, first.removed),
        (1, 20_001, 20_001, 0)
    );
    let loaded = format!("{text}2001:db8::/32\n");
    assert_eq!(export(&mut client, "big", 0).await.unwrap(), loaded);

    let again = load(&mut client, "big", SetMode::Replace, &loaded)
        .await
        .unwrap();
    let applied = again.applied.clone().unwrap();
    assert_eq!(
        (applied.revision, applied.outcome()),
        (1, v1::Outcome::Unchanged)
    );

    let second = load(&mut client, "big", SetMode::Add, "192.0.2.0/24\n10.0.0.0")
        .await
        .unwrap();
    assert_eq!(
        (revision(&second), second.prefixes, second.added),
        (2, 20_002, 1)
    );
    let changes = second.applied.unwrap().changes;
    assert_eq!((changes.len(), changes[0].name.as_str()), (1, "big"));
    let third = load(
        &mut client,
        "big",
        SetMode::Remove,
        "10.0.0.0\n10.0.0.3\n1.1.1.1\n",
    )
    .await
    .unwrap();
    assert_eq!(
        (revision(&third), third.prefixes, third.removed),
        (3, 20_000, 2)
    );
    assert_eq!(
        contains(&mut client, "big", "192.0.2.77", 0).await,
        "192.0.2.0/24"
    );
    assert_eq!(contains(&mut client, "big", "10.0.0.3", 0).await, "");
    assert_eq!(
        contains(&mut client, "big", "10.0.0.3", 1).await,
        "10.0.0.3"
    );
    assert_eq!(
        contains(&mut client, "big", "2001:db8::7", 0).await,
        "2001:db8::/32"
    );
    assert_eq!(export(&mut client, "big", 1).await.unwrap(), loaded);

    let rollback = v1::RollbackRequest {
        revision: 1,
        ..Default::default()
    };
    let back = client.rollback(rollback).await.unwrap().into_inner();
    assert_eq!(back.revision, 4);
    assert_eq!(export(&mut client, "big", 0).await.unwrap(), loaded);
}

#[tokio::test]
async fn a_short_set_in_its_document_takes_additions_and_keeps_its_labels() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let text = "apiVersion: marchproxy/v1\nkind: AddressSet\nmetadata: { name: office, labels: { site: north } }\nspec: { prefixes: [192.0.2.0/24] }\n";
    let request = v1::ApplyRequest {
        files: vec![v1::SourceFile {
            name: "t.yaml".to_owned(),
            text: text.to_owned(),
        }],
        ..Default::default()
    };
    client.apply(request.clone()).await.unwrap();
    assert_eq!(
        contains(&mut client, "office", "192.0.2.1", 0).await,
        "192.0.2.0/24"
    );
    let same = load(&mut client, "office", SetMode::Add, "192.0.2.0/24")
        .await
        .unwrap();
    assert_eq!((revision(&same), same.added, same.prefixes), (1, 0, 1));
    let more = load(&mut client, "office", SetMode::Add, "198.51.100.0/24")
        .await
        .unwrap();
    assert_eq!((revision(&more), more.added, more.prefixes), (2, 1, 2));
    let get = v1::GetRequest {
        kind: "AddressSet".to_owned(),
        name: "office".to_owned(),
        revision: 0,
    };
    let document = client
        .get(get)
        .await
        .unwrap()
        .into_inner()
        .documents
        .remove(0);
    assert!(
        document.json.contains("\"site\":\"north\""),
        "{}",
        document.json
    );
    assert_eq!(
        export(&mut client, "office", 0).await.unwrap(),
        "192.0.2.0/24\n198.51.100.0/24\n"
    );
    // The document with its own list again.
    client.apply(request).await.unwrap();
    assert_eq!(
        export(&mut client, "office", 0).await.unwrap(),
        "192.0.2.0/24\n"
    );
}

#[tokio::test]
async fn what_is_wrong_is_refused_with_its_line_or_its_bound() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    let wrong = "10.0.0.0/8\n10.0.0.1/8\n\nexample.com\n";
    let error = load(&mut client, "s", SetMode::Replace, wrong)
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let errors = status::errors_of(&error);
    let places: Vec<(&str, u32)> = errors
        .iter()
        .map(|error| (error.file.as_str(), error.line))
        .collect();
    assert_eq!(places, [("list.txt", 2), ("list.txt", 4)]);
    assert!(
        errors[0]
            .message
            .contains("write 10.0.0.0/8 for the network"),
        "{errors:?}"
    );

    let many = "x\n".repeat(1_000);
    let error = load(&mut client, "s", SetMode::Replace, &many)
        .await
        .unwrap_err();
    let errors = status::errors_of(&error);
    assert_eq!(errors.len(), 101);
    assert_eq!(errors[100].message, "and 900 more wrong lines");

    let error = load(&mut client, "s", SetMode::Replace, "# nothing\n")
        .await
        .unwrap_err();
    assert!(status::errors_of(&error)[0].message.contains("no prefix"));
    let error = load(&mut client, "s", SetMode::Remove, "10.0.0.0/8")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::NotFound);
    let error = load(&mut client, "No", SetMode::Add, "10.0.0.0/8")
        .await
        .unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
    let error = export(&mut client, "s", 0).await.unwrap_err();
    assert_eq!(error.code(), Code::NotFound);

    // Five million different ones: the daemon answers as soon as it is clear.
    let too_many = |count: u32| {
        let line = |number: u32| format!("{}\n", std::net::Ipv4Addr::from(number));
        (0..count).map(line).collect::<String>()
    };
    let error = load(&mut client, "s", SetMode::Replace, &too_many(5_000_000))
        .await
        .unwrap_err();
    assert!(
        status::errors_of(&error)[0]
            .message
            .contains("more than 2000000"),
        "{error}"
    );

    // A document that names what was never loaded.
    let request = v1::ApplyRequest {
        files: vec![v1::SourceFile {
            name: "t.yaml".to_owned(),
            text: format!(
                "apiVersion: marchproxy/v1\nkind: AddressSet\nmetadata: {{ name: s }}\nspec: {{ content: {{ hash: {}, prefixes: 1 }} }}\n",
                ContentHash::of(b"never")
            ),
        }],
        ..Default::default()
    };
    let mut dry = request.clone();
    dry.set_dry_run(v1::DryRun::OnlyCheck);
    client.apply(dry).await.unwrap_err();
    let error = client.apply(request).await.unwrap_err();
    let errors = status::errors_of(&error);
    assert_eq!(errors[0].path, "spec.content.hash");
    assert!(
        errors[0].message.contains("marchctl set load"),
        "{errors:?}"
    );
    let info = client.info(v1::InfoRequest {}).await.unwrap().into_inner();
    assert_eq!(info.revision, 0, "nothing was changed");
}

/// Asks as a node does until it has the content whole; how many chunks came and the largest answer.
async fn fetch(node: &mut Node, chunks: &mut Memory, root: ContentHash) -> (usize, usize) {
    let (mut count, mut largest) = (0, 0);
    loop {
        let lacking = march_content::lacking(chunks, &root).unwrap();
        if lacking.is_empty() {
            return (count, largest);
        }
        let asked = lacking
            .iter()
            .take(1_024)
            .map(|hash| hash.as_bytes().to_vec());
        let request = v1::ChunkRequest {
            hashes: asked.collect(),
        };
        node.say(node_message::Message::ChunkRequest(request)).await;
        let Message::Chunks(answer) = node.next().await.unwrap() else {
            panic!("chunks")
        };
        assert_eq!(answer.unknown.len(), 0);
        largest = largest.max(answer.chunks.iter().map(Vec::len).sum());
        assert!(!answer.chunks.is_empty());
        count += answer.chunks.len();
        chunks.extend(answer.chunks.into_iter().map(Chunk::new));
    }
}

fn root_of(state: &State, name: &str) -> ContentHash {
    let found = state
        .address_sets()
        .find(|(metadata, _)| metadata.name.as_str() == name);
    match found.unwrap().1 {
        AddressSet::Content(content) => content.hash,
        AddressSet::Prefixes(_) => panic!("it is in its document"),
    }
}

fn all(chunks: &Memory, root: ContentHash) -> Vec<Prefix> {
    let leaves = march_content::walk(chunks, &root).unwrap();
    let prefixes = leaves
        .iter()
        .map(|leaf| march_content::prefixes_of(chunks, &leaf.0).unwrap());
    prefixes.flatten().collect()
}

#[tokio::test]
async fn a_node_fetches_a_content_once_and_then_what_changed_of_it() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    load(&mut client, "big", SetMode::Replace, &hosts(300_000))
        .await
        .unwrap();
    let nothing = State::default();
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &nothing)).await;
    let push = Push::Snapshot {
        revision: 1,
        documents: 1,
    };
    assert_eq!(node.push().await, push, "the document, not what it holds");
    let mut chunks = Memory::default();
    let root = root_of(&node.held, "big");
    let (count, largest) = fetch(&mut node, &mut chunks, root).await;
    assert!(count > 200, "{count}");
    assert!(largest <= 1 << 20, "{largest}");
    assert_eq!(all(&chunks, root).len(), 300_000);
    node.ack(1).await;

    load(&mut client, "big", SetMode::Add, "10.0.0.1")
        .await
        .unwrap();
    let delta = Push::Delta {
        from: 1,
        to: 2,
        upserts: 1,
        deletes: 0,
    };
    assert_eq!(node.push().await, delta);
    let root = root_of(&node.held, "big");
    let (count, largest) = fetch(&mut node, &mut chunks, root).await;
    assert!(count <= 5, "{count} chunks for one prefix");
    assert!(largest < 32 << 10, "{largest} bytes for one prefix");
    assert!(all(&chunks, root).contains(&"10.0.0.1".parse().unwrap()));
    node.ack(2).await;

    // Another document changes: nothing of the set is asked for.
    let request = v1::ApplyRequest {
        files: vec![v1::SourceFile {
            name: "t.yaml".to_owned(),
            text: rule("a", 1),
        }],
        ..Default::default()
    };
    client.apply(request).await.unwrap();
    node.push().await;
    let root = root_of(&node.held, "big");
    assert_eq!(fetch(&mut node, &mut chunks, root).await, (0, 0));
}

#[tokio::test]
async fn chunks_that_are_not_there_are_said_and_a_greedy_node_is_refused() {
    let daemon = Daemon::start().await;
    let mut client = daemon.client().await;
    load(&mut client, "s", SetMode::Replace, &hosts(10))
        .await
        .unwrap();
    let nothing = State::default();
    let mut node = Node::connect(&daemon.socket(), "n1", (0, &nothing)).await;
    node.push().await;
    let never = ContentHash::of(b"never").as_bytes().to_vec();
    let ask = |hashes| node_message::Message::ChunkRequest(v1::ChunkRequest { hashes });
    node.say(ask(vec![never.clone()])).await;
    let Message::Chunks(answer) = node.next().await.unwrap() else {
        panic!("an answer")
    };
    assert_eq!(
        (answer.chunks.len(), answer.unknown),
        (0, vec![never.clone()])
    );
    node.say(ask(vec![never; 2_000])).await;
    let error = node.next().await.unwrap_err();
    assert_eq!(error.code(), Code::InvalidArgument);
}
