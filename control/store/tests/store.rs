//! Revisions, audit and admin states, and what happens when the disk or the process fails.

use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};

use march_model::{Batch, ChangeKind, Key, Others, Plan, Source, State, Timestamp};
use march_store::{
    AdminState, Author, BackendAdmin, DEFAULT_MAX_BYTES, KEEP_REVISIONS, Store, StoreError,
};

fn rule(name: &str, priority: u64, label: &str) -> String {
    format!(
        "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: {name}, labels: {{ l: '{label}' }} }}\nspec: {{ priority: {priority}, action: drop }}\n---\n"
    )
}

fn plan(state: &State, text: &str, others: Others) -> Plan {
    let source = Source {
        name: "t".to_owned(),
        text: text.to_owned(),
    };
    state
        .plan(Batch::parse(&[source]), others, Timestamp::EPOCH)
        .unwrap()
}

fn author() -> Author {
    Author {
        name: "ann".to_owned(),
        comment: "why not".to_owned(),
    }
}

fn open(path: &Path) -> Store {
    Store::open(path, DEFAULT_MAX_BYTES).unwrap()
}

fn apply(store: &mut Store, text: &str, others: Others) -> u64 {
    let head = store.head().unwrap();
    store
        .commit(head.number, &plan(&head.state, text, others), &author())
        .unwrap()
}

#[test]
fn revisions_are_numbered_kept_and_compared() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = open(&path);
    assert_eq!(store.head().unwrap().number, 0);
    assert_eq!(
        apply(
            &mut store,
            &(rule("a", 1, "") + &rule("b", 2, "")),
            Others::Keep
        ),
        1
    );
    let first = store.head().unwrap();
    assert_eq!(
        apply(&mut store, &rule("a", 1, ""), Others::Keep),
        1,
        "the same content makes no revision"
    );
    assert_eq!(apply(&mut store, &rule("a", 9, ""), Others::Delete), 2);
    drop(store);

    let store = open(&path);
    let head = store.head().unwrap();
    assert_eq!((head.number, head.state.len()), (2, 1));
    assert_eq!(store.state_at(1).unwrap().unwrap(), first.state);
    assert_eq!(store.state_at(3).unwrap(), None);
    let history = store.history(10).unwrap();
    let numbers: Vec<u64> = history.iter().map(|revision| revision.number).collect();
    assert_eq!(numbers, [2, 1]);
    assert_eq!(
        (history[0].author.as_str(), history[0].comment.as_str()),
        ("ann", "why not")
    );
    assert_eq!(history[1].hash, first.state.hash().to_string());
    assert!(history[0].created_unix_ms >= history[1].created_unix_ms);
    let (revision, changes) = store.revision(2).unwrap();
    assert_eq!(
        (
            revision.counts.added,
            revision.counts.changed,
            revision.counts.removed
        ),
        (0, 1, 1)
    );
    let ChangeKind::Changed(fields) = &changes[0].what else {
        panic!("{changes:?}")
    };
    assert_eq!(fields[0].path, "spec.priority");
    assert_eq!(
        (fields[0].before.as_deref(), fields[0].after.as_deref()),
        (Some("1"), Some("9"))
    );
    assert_eq!(changes[1].what, ChangeKind::Removed);
    assert!(matches!(
        store.revision(7),
        Err(StoreError::NoRevision { number: 7 })
    ));
    let audit = store.audit(10).unwrap();
    assert_eq!(
        audit.iter().map(|entry| entry.revision).collect::<Vec<_>>(),
        [Some(2), Some(1)]
    );
}

#[test]
fn a_change_for_an_old_head_is_a_conflict() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = open(&directory.path().join("m.db"));
    apply(&mut store, &rule("a", 1, ""), Others::Keep);
    let late = plan(&State::default(), &rule("b", 1, ""), Others::Keep);
    let error = store.commit(0, &late, &author()).unwrap_err();
    assert!(
        matches!(error, StoreError::Conflict { base: 0, head: 1 }),
        "{error}"
    );
    assert_eq!(store.head().unwrap().number, 1);
}

#[test]
fn unchanged_documents_are_stored_once_and_old_revisions_are_forgotten_in_order() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = open(&path);
    apply(&mut store, &rule("constant", 1, "same"), Others::Keep);
    let rounds = KEEP_REVISIONS + 5;
    for round in 0..rounds {
        apply(&mut store, &rule("moving", round, ""), Others::Keep);
    }
    let head = store.head().unwrap();
    assert_eq!(head.number, rounds + 1);
    let oldest = head.number - KEEP_REVISIONS + 1;
    assert_eq!(
        store.history(u32::MAX).unwrap().last().unwrap().number,
        oldest
    );
    assert_eq!(store.state_at(oldest).unwrap().unwrap().len(), 2);
    assert_eq!(store.state_at(oldest - 1).unwrap(), None);
    drop(store);
    let raw = rusqlite::Connection::open(&path).unwrap();
    let count = |query: &str| {
        raw.query_row(query, [], |row| row.get::<_, u64>(0))
            .unwrap()
    };
    assert_eq!(
        count("SELECT count(*) FROM document WHERE name = 'constant'"),
        1
    );
    assert_eq!(count("SELECT count(*) FROM document"), 1 + KEEP_REVISIONS);
    assert_eq!(count("SELECT count(*) FROM blob"), 1 + KEEP_REVISIONS);
}

#[test]
fn admin_states_are_kept_beside_revisions() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let backend = |port, state| BackendAdmin {
        pool: "web".parse().unwrap(),
        address: "10.0.0.1".parse().unwrap(),
        port,
        state,
    };
    let mut store = open(&path);
    let both = [
        backend(80, AdminState::Drain),
        backend(81, AdminState::Offline),
    ];
    store.set_backend_states(&both, "ann").unwrap();
    drop(store);
    let mut store = open(&path);
    assert_eq!(store.backend_states().unwrap(), both);
    store
        .set_backend_states(&[backend(80, AdminState::Enabled)], "bob")
        .unwrap();
    assert_eq!(store.backend_states().unwrap(), both[1..]);
    let audit = store.audit(1).unwrap();
    assert_eq!(audit[0].author, "bob");
    assert_eq!(audit[0].detail, "enabled 10.0.0.1 port 80 of pool web");
    assert_eq!(store.head_number().unwrap(), 0);
}

#[test]
fn a_file_that_cannot_be_used_is_named() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let store = open(&path);
    let busy = Store::open(&path, DEFAULT_MAX_BYTES).unwrap_err();
    assert!(matches!(busy, StoreError::Busy { .. }), "{busy}");
    drop(store);

    let raw = rusqlite::Connection::open(&path).unwrap();
    raw.pragma_update(None, "user_version", 999).unwrap();
    drop(raw);
    let newer = Store::open(&path, DEFAULT_MAX_BYTES).unwrap_err();
    assert!(
        matches!(newer, StoreError::NewerSchema { found: 999, .. }),
        "{newer}"
    );

    let other = directory.path().join("text");
    std::fs::write(
        &other,
        "no database at all, but long enough to be read as one\n".repeat(100),
    )
    .unwrap();
    let corrupt = Store::open(&other, DEFAULT_MAX_BYTES).unwrap_err();
    assert!(matches!(corrupt, StoreError::Corrupt { .. }), "{corrupt}");

    let nowhere =
        Store::open(&directory.path().join("no/such/m.db"), DEFAULT_MAX_BYTES).unwrap_err();
    assert!(matches!(nowhere, StoreError::Io { .. }), "{nowhere}");
}

#[test]
fn a_document_changed_behind_our_back_is_noticed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = open(&path);
    apply(&mut store, &rule("a", 1, ""), Others::Keep);
    drop(store);
    let raw = rusqlite::Connection::open(&path).unwrap();
    let changed = raw
        .execute(
            "UPDATE blob SET content = replace(content, 'drop', 'allow')",
            [],
        )
        .unwrap();
    assert_eq!(changed, 1);
    raw.execute("UPDATE revision SET comment = 'forged'", [])
        .unwrap_err();
    raw.execute("DELETE FROM audit", []).unwrap_err();
    drop(raw);
    let error = Store::open(&path, DEFAULT_MAX_BYTES).unwrap_err();
    assert!(matches!(error, StoreError::Corrupt { .. }), "{error}");
}

/// Applies larger and larger changes until the store is full; nothing of the failed one may remain.
fn fill(store: &mut Store) -> u64 {
    let label = "x".repeat(200);
    for round in 0..10_000 {
        let before = store.head().unwrap();
        let text: String = (0..50)
            .map(|i| rule(&format!("r{i}"), round, &label))
            .collect();
        match store.commit(
            before.number,
            &plan(&before.state, &text, Others::Keep),
            &author(),
        ) {
            Ok(number) => assert_eq!(number, before.number + 1),
            Err(error) => {
                assert!(matches!(error, StoreError::Full { .. }), "{error}");
                let after = store.head().unwrap();
                assert_eq!((after.number, after.state), (before.number, before.state));
                assert_eq!(store.audit(1).unwrap()[0].revision, Some(before.number));
                return before.number;
            }
        }
    }
    panic!("never full");
}

#[test]
fn a_full_bound_changes_nothing() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    let mut store = Store::open(&path, 512 << 10).unwrap();
    let reached = fill(&mut store);
    drop(store);
    let mut store = open(&path);
    assert_eq!(store.head().unwrap().number, reached);
    assert_eq!(
        apply(&mut store, &rule("a", 1, ""), Others::Delete),
        reached + 1,
        "with space it goes on"
    );
}

/// A small file system of its own, gone at the end.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn mount() -> Option<Self> {
        let directory = tempfile::tempdir().unwrap();
        let flags = rustix::mount::MountFlags::empty();
        let options = Some(c"size=1m");
        match rustix::mount::mount("tmpfs", directory.path(), "tmpfs", flags, options) {
            Ok(()) => Some(Self(directory)),
            Err(error) => {
                eprintln!("SKIPPED: mounting a tmpfs needs CAP_SYS_ADMIN: {error}");
                None
            }
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        rustix::mount::unmount(self.0.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
    }
}

#[test]
fn a_full_disk_changes_nothing() {
    let Some(disk) = SmallDisk::mount() else {
        return;
    };
    let path = disk.0.path().join("m.db");
    let ballast = disk.0.path().join("ballast");
    std::fs::write(&ballast, vec![1; 256 << 10]).unwrap();
    let mut store = open(&path);
    let reached = fill(&mut store);
    std::fs::remove_file(&ballast).unwrap();
    assert_eq!(
        apply(&mut store, &rule("a", 1, ""), Others::Keep),
        reached + 1,
        "the same process goes on"
    );
    drop(store);
    assert_eq!(open(&path).head().unwrap().number, reached + 1);
}

/// The process that `acknowledged_revisions_survive_kill` kills.
#[test]
fn child_that_applies_until_killed() {
    let Ok(path) = std::env::var("MARCH_STORE_CRASH_CHILD") else {
        return;
    };
    let mut store = open(Path::new(&path));
    for round in 0.. {
        let number = apply(
            &mut store,
            &(rule("a", round % 1_000_000, "") + &rule("b", 7, "")),
            Others::Keep,
        );
        println!(
            "acknowledged {number} {}",
            store.head().unwrap().state.hash()
        );
    }
}

#[test]
fn acknowledged_revisions_survive_kill() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("m.db");
    for round in 0..12_usize {
        let mut child = Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "child_that_applies_until_killed", "--nocapture"])
            .env("MARCH_STORE_CRASH_CHILD", &path)
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(child.stdout.take().unwrap());
        let mut lines = Vec::new();
        let wanted = 1 + (round * 7) % 23;
        let mut line = String::new();
        while lines.len() < wanted && output.read_line(&mut line).unwrap() > 0 {
            lines.extend(
                line.find("acknowledged ")
                    .map(|start| line[start..].trim_end().to_owned()),
            );
            line.clear();
        }
        child.kill().unwrap();
        child.wait().unwrap();
        // What it still had written when it was killed was acknowledged too.
        while output.read_line(&mut line).unwrap() > 0 {
            if line.ends_with('\n') && line.starts_with("acknowledged ") {
                lines.push(line.trim_end().to_owned());
            }
            line.clear();
        }
        let store = open(&path);
        for line in &lines {
            let words: Vec<&str> = line.split(' ').collect();
            let (revision, _) = store.revision(words[1].parse().unwrap()).unwrap();
            assert_eq!(revision.hash, words[2], "round {round}");
        }
        assert!(
            lines.len() >= wanted,
            "round {round}: the child stopped by itself"
        );
        let head = store.head().unwrap();
        let key = Key::parse("Rule", "b").unwrap();
        assert!(head.state.get(&key).is_some());
    }
}
