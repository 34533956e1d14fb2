//! Contents of address sets beside the revisions that name them.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Command, Stdio};

use march_content::{Chunks, Content, Edited};
use march_model::{Batch, ContentHash, Others, Plan, Prefix, Source, State};
use march_store::{Author, DEFAULT_MAX_BYTES, KEEP_REVISIONS, Store, StoreError};

fn open(path: &Path) -> Store {
    Store::open(path, DEFAULT_MAX_BYTES).unwrap()
}

fn author() -> Author {
    Author {
        name: "ann".to_owned(),
        comment: String::new(),
    }
}

/// Every eighth address from `first` on.
fn prefixes(first: u32, count: u32) -> Vec<Prefix> {
    let host = |number: u32| Prefix::new(Ipv4Addr::from(number).into(), 32).unwrap();
    (0..count).map(|number| host(first + number * 8)).collect()
}

fn naming(state: &State, name: &str, content: Content) -> Plan {
    let Content { root, prefixes } = content;
    let text = format!(
        "apiVersion: marchproxy/v1\nkind: AddressSet\nmetadata: {{ name: {name} }}\nspec: {{ content: {{ hash: {root}, prefixes: {prefixes} }} }}\n"
    );
    documents(state, text)
}

fn documents(state: &State, text: String) -> Plan {
    let name = "t".to_owned();
    let batch = Batch::parse(&[Source { name, text }]);
    state
        .plan(batch, Others::Keep, march_model::Timestamp::EPOCH)
        .unwrap()
}

fn load(store: &mut Store, name: &str, edited: &Edited) -> Result<u64, StoreError> {
    let head = store.head().unwrap();
    let plan = naming(&head.state, name, edited.content);
    store.commit_with(head.number, &plan, &edited.chunks, &author())
}

fn all(store: &Store, root: &ContentHash) -> Vec<Prefix> {
    let leaves = march_content::walk(store, root).unwrap();
    leaves
        .iter()
        .flat_map(|(leaf, _)| march_content::prefixes_of(store, leaf).unwrap())
        .collect()
}

fn bytes_of(path: &Path) -> u64 {
    let size = |path: &Path| std::fs::metadata(path).map_or(0, |metadata| metadata.len());
    size(path) + size(&path.with_extension("db-wal"))
}

#[test]
fn one_prefix_changed_grows_the_database_by_a_few_pages() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = open(&path);
    let mut held = prefixes(0, 200_000);
    let first = march_content::build(held.clone());
    assert_eq!(load(&mut store, "big", &first).unwrap(), 1);
    store.checkpoint().unwrap();
    let before = bytes_of(&path);
    let new: Prefix = "10.1.1.1".parse().unwrap();
    let second = march_content::edit(&store, &first.content.root, &[new], &[]).unwrap();
    assert_eq!(load(&mut store, "big", &second).unwrap(), 2);
    store.checkpoint().unwrap();
    let grown = bytes_of(&path) - before;
    assert!(grown < 128 << 10, "{grown} bytes");

    // Both revisions have what they had, also for the next process.
    drop(store);
    let store = open(&path);
    assert_eq!(all(&store, &first.content.root), held);
    held.push(new);
    held.sort();
    assert_eq!(all(&store, &second.content.root), held);
}

#[test]
fn a_document_cannot_name_what_is_not_stored_or_is_something_else() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory.path().join("m.db"));
    let set = march_content::build(prefixes(0, 5_000));
    let plan = naming(&State::default(), "s", set.content);
    let error = store.commit(0, &plan, &author()).unwrap_err();
    assert!(matches!(error, StoreError::NoContent { .. }), "{error}");
    assert!(error.to_string().contains("is not stored here; load it"));
    load(&mut store, "s", &set).unwrap();
    let head = store.head().unwrap();
    let of = |root: ContentHash, prefixes: usize| Content { root, prefixes };
    let wrong = naming(&head.state, "s", of(set.content.root, 4_999));
    let error = store.commit(1, &wrong, &author()).unwrap_err();
    assert!(matches!(error, StoreError::WrongContent { .. }), "{error}");
    let leaf = march_content::walk(&store, &set.content.root).unwrap()[0];
    let wrong = naming(&head.state, "s", of(leaf.0, leaf.1));
    let error = store.commit(1, &wrong, &author()).unwrap_err();
    assert!(
        error.to_string().contains("another kind of chunk"),
        "{error}"
    );
    assert_eq!(store.head_number().unwrap(), 1);
}

#[test]
fn contents_live_as_long_as_a_kept_revision_names_them() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory.path().join("m.db"));
    let gone = march_content::build(prefixes(0, 300_000));
    let kept = march_content::build(prefixes(0, 3_000));
    load(&mut store, "s", &gone).unwrap();
    load(&mut store, "s", &kept).unwrap();
    for round in 0..KEEP_REVISIONS - 1 {
        assert!(store.has(&gone.content.root), "round {round}");
        let head = store.head().unwrap();
        let rule = format!(
            "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: moving }}\nspec: {{ priority: {round}, action: drop }}\n"
        );
        let plan = documents(&head.state, rule);
        store.commit(head.number, &plan, &author()).unwrap();
    }
    assert!(!store.has(&gone.content.root));
    let shared = |chunk: &&march_content::Chunk| store.has(&chunk.hash);
    let left = gone.chunks.iter().filter(shared).count();
    assert!(left <= 3, "{left} chunks left, shared with what is kept");
    assert_eq!(all(&store, &kept.content.root), prefixes(0, 3_000));
}

#[test]
fn a_full_bound_leaves_neither_revision_nor_chunks() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = Store::open(&path, 1 << 20).unwrap();
    let small = march_content::build(prefixes(0, 1_000));
    load(&mut store, "s", &small).unwrap();
    let large = march_content::build(prefixes(1, 500_000));
    let error = load(&mut store, "s", &large).unwrap_err();
    assert!(matches!(error, StoreError::Full { .. }), "{error}");
    assert_eq!(store.head_number().unwrap(), 1);
    assert!(large.chunks.iter().all(|chunk| !store.has(&chunk.hash)));
    assert_eq!(all(&store, &small.content.root), prefixes(0, 1_000));
}

#[test]
fn a_changed_chunk_is_noticed_and_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = open(&path);
    let set = march_content::build(prefixes(0, 100));
    load(&mut store, "s", &set).unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute(
            "UPDATE chunk SET bytes = x'3400' WHERE hash = ?1",
            [set.content.root.as_bytes()],
        )
        .unwrap();
    drop(connection);
    let error = open(&path).chunk(&set.content.root).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
    assert!(
        error.to_string().contains(&set.content.root.to_string()),
        "{error}"
    );
}

#[test]
fn a_database_from_before_contents_gets_their_tables() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = open(&path);
    let plan = documents(
        &State::default(),
        "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: { name: a }\nspec: { priority: 1, action: drop }\n".to_owned(),
    );
    store.commit(0, &plan, &author()).unwrap();
    drop(store);
    let connection = rusqlite::Connection::open(&path).unwrap();
    connection
        .execute_batch(
            "DROP TABLE content; DROP TABLE root; DROP TABLE chunk; PRAGMA user_version = 1;",
        )
        .unwrap();
    drop(connection);
    let mut store = open(&path);
    assert_eq!(store.head().unwrap().state, plan.state);
    let set = march_content::build(prefixes(0, 100));
    assert_eq!(load(&mut store, "s", &set).unwrap(), 2);
}

const CHILD: &str = "MARCH_STORE_CONTENTS_CHILD";

/// Not a test by itself: what the next one kills.
#[test]
fn child_that_loads_until_killed() {
    let Some(path) = std::env::var_os(CHILD) else {
        return;
    };
    let mut store = open(Path::new(&path));
    for round in 0.. {
        let set = march_content::build(prefixes(round, 4_000));
        let number = load(&mut store, "s", &set).unwrap();
        println!("acknowledged {number}");
    }
}

#[test]
fn acknowledged_contents_survive_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    for lines in [1, 7, 20] {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_loads_until_killed", "--nocapture"])
            .env(CHILD, &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let output = BufReader::new(child.stdout.take().unwrap());
        let acknowledged = output
            .lines()
            .filter_map(|line| {
                line.unwrap()
                    .strip_prefix("acknowledged ")?
                    .parse::<u64>()
                    .ok()
            })
            .nth(lines - 1)
            .unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
        let store = open(&path);
        let head = store.head().unwrap();
        assert!(head.number >= acknowledged);
        for number in 1..=head.number {
            let state = store.state_at(number).unwrap().unwrap();
            let (_, set) = state.address_sets().next().unwrap();
            let march_model::AddressSet::Content(content) = set else {
                panic!("{set:?}")
            };
            assert_eq!(all(&store, &content.hash).len(), 4_000, "revision {number}");
        }
    }
}
