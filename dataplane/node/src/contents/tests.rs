use super::*;

use std::fmt::Write;

use march_model::{Batch, Others, Source, Timestamp};

/// Every fourth address from `first` on.
fn prefixes(first: u32, count: u32) -> Vec<Prefix> {
    let host = |number: u32| {
        let address = std::net::Ipv4Addr::from(first + number * 4);
        Prefix::new(address.into(), 32).expect("a host")
    };
    (0..count).map(host).collect()
}

/// Documents that name contents, and a daemon's store that has their chunks.
fn state(sets: &[(&str, &[Prefix])], daemon: &mut march_content::Memory) -> State {
    let mut text = String::new();
    for (name, prefixes) in sets {
        let built = march_content::build(prefixes.to_vec());
        let march_content::Content { root, prefixes } = built.content;
        writeln!(
            text,
            "apiVersion: marchproxy/v1\nkind: AddressSet\nmetadata: {{ name: {name} }}\nspec: {{ content: {{ hash: {root}, prefixes: {prefixes} }} }}\n---"
        )
        .expect("writing to a String cannot fail");
        daemon.extend(built.chunks);
    }
    text += "apiVersion: marchproxy/v1\nkind: AddressSet\nmetadata: { name: short }\nspec: { prefixes: [192.0.2.0/24] }\n";
    let name = String::new();
    let batch = Batch::parse(&[Source { name, text }]);
    let plan = State::default().plan(batch, Others::Keep, Timestamp::EPOCH);
    plan.expect("valid documents").state
}

/// Fetches what is lacking; how many chunks came.
fn fetch(contents: &mut Contents, state: &State, daemon: &march_content::Memory) -> usize {
    let mut count = 0;
    loop {
        let lacking = contents.lacking(state).expect("sound chunks");
        if lacking.is_empty() {
            return count;
        }
        assert!(!contents.take(&lacking, b"something else".to_vec()));
        for hash in &lacking {
            let bytes = daemon.read(hash).expect("the daemon has it");
            assert!(!contents.take(&[], bytes.clone()), "it was not asked for");
            assert!(contents.take(&lacking, bytes));
            count += 1;
        }
    }
}

/// Fetches, makes the sets, keeps them as a node does with a revision that runs.
fn run(contents: &mut Contents, state: &State, daemon: &march_content::Memory) -> (Sets, usize) {
    let count = fetch(contents, state, daemon);
    let sets = contents.sets(state).expect("whole");
    contents.adopt(&sets);
    contents.keep(state).expect("kept");
    contents.on_good(state);
    (sets, count)
}

fn held(sets: &Sets, name: &str) -> Vec<IpPrefix> {
    let set = sets.iter().find(|set| &*set.name == name).expect("a set");
    let mut prefixes: Vec<IpPrefix> = set.prefixes.iter().collect();
    prefixes.sort_by_key(|prefix| (prefix.address(), prefix.length()));
    prefixes
}

fn files(directory: &Path) -> usize {
    std::fs::read_dir(directory.join(DIRECTORY)).map_or(0, Iterator::count)
}

#[test]
fn a_set_is_fetched_once_and_one_prefix_costs_a_few_chunks() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut daemon = march_content::Memory::default();
    let mut contents = Contents::open(directory.path());
    let mut list = prefixes(0, 50_000);
    let first = state(&[("big", &list)], &mut daemon);
    let (sets, count) = run(&mut contents, &first, &daemon);
    assert!(count > 40, "{count}");
    assert_eq!(held(&sets, "big"), wire(&list));
    assert_eq!(held(&sets, "short").len(), 1);

    list.remove(30_000);
    list.push("2001:db8::/32".parse().expect("a prefix"));
    let second = state(&[("big", &list)], &mut daemon);
    let (changed, count) = run(&mut contents, &second, &daemon);
    assert!(count <= 8, "{count} chunks for two prefixes");
    assert_eq!(held(&changed, "big"), wire(&list));
    let short = |sets: &Sets| {
        let set = sets.iter().find(|set| &*set.name == "short");
        Arc::clone(&set.expect("a set").prefixes)
    };
    assert!(
        Arc::ptr_eq(&short(&sets), &short(&changed)),
        "what stays is not made again"
    );

    // The same again, and back, asks for nothing.
    assert_eq!(run(&mut contents, &second, &daemon).1, 0);
    let (back, count) = run(&mut contents, &first, &daemon);
    assert_eq!((count, held(&back, "big").len()), (0, 50_000));
}

#[test]
fn a_restart_needs_no_daemon() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut daemon = march_content::Memory::default();
    let list = prefixes(7, 20_000);
    let wanted = state(&[("a", &list), ("b", &list[..300])], &mut daemon);
    run(&mut Contents::open(directory.path()), &wanted, &daemon);
    let again = Contents::open(directory.path());
    assert_eq!(again.lacking(&wanted), Ok(Vec::new()));
    let sets = again.sets(&wanted).expect("whole");
    assert_eq!(held(&sets, "a"), wire(&list));
    assert_eq!(held(&sets, "b"), wire(&list[..300]));
}

#[test]
fn every_damaged_chunk_is_named_and_fetched_again() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut daemon = march_content::Memory::default();
    let list = prefixes(0, 5_000);
    let wanted = state(&[("a", &list)], &mut daemon);
    run(&mut Contents::open(directory.path()), &wanted, &daemon);
    let entries = std::fs::read_dir(directory.path().join(DIRECTORY)).expect("a folder");
    let paths: Vec<_> = entries
        .map(|entry| entry.expect("an entry").path())
        .collect();
    assert!(paths.len() > 3);
    for path in paths {
        let whole = std::fs::read(&path).expect("reads");
        for damage in [whole[..whole.len() / 2].to_vec(), Vec::new(), {
            let mut flipped = whole.clone();
            flipped[0] ^= 1;
            flipped
        }] {
            std::fs::write(&path, damage).expect("writes");
            let mut contents = Contents::open(directory.path());
            let errors = contents.sets(&wanted).expect_err("it is damaged");
            let name = path.file_name().expect("a name").to_string_lossy();
            assert!(errors[0].message.contains(&*name), "{errors:?}");
            assert_eq!(errors[0].document, "AddressSet/a");
            let (sets, count) = run(&mut contents, &wanted, &daemon);
            assert_eq!((count, held(&sets, "a").len()), (1, 5_000));
            assert_eq!(std::fs::read(&path).expect("reads"), whole);
        }
    }
}

#[test]
fn chunks_that_no_good_revision_needs_are_removed() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut daemon = march_content::Memory::default();
    let mut contents = Contents::open(directory.path());
    let large = state(&[("a", &prefixes(0, 50_000))], &mut daemon);
    let small = state(&[("a", &prefixes(1, 10))], &mut daemon);
    run(&mut contents, &large, &daemon);
    let many = files(directory.path());
    run(&mut contents, &small, &daemon);
    assert_eq!(
        files(directory.path()),
        many + 3,
        "the previous one is kept"
    );
    for _ in 0..GOOD_ONES {
        run(&mut contents, &small, &daemon);
    }
    assert_eq!(files(directory.path()), 3, "a root, a branch, a leaf");

    // What came for a revision that was refused is not kept.
    fetch(&mut contents, &large, &daemon);
    run(
        &mut contents,
        &state(&[("a", &prefixes(2, 10))], &mut daemon),
        &daemon,
    );
    assert!(contents.fresh.is_empty());
    assert_eq!(files(directory.path()), 6);
}

#[test]
fn without_a_disk_the_sets_run_from_memory() {
    let directory = tempfile::tempdir().expect("a directory");
    std::fs::write(directory.path().join(DIRECTORY), b"in the way").expect("writes");
    let mut daemon = march_content::Memory::default();
    let mut contents = Contents::open(directory.path());
    let mut list = prefixes(0, 5_000);
    let first = state(&[("a", &list)], &mut daemon);
    fetch(&mut contents, &first, &daemon);
    let sets = contents.sets(&first).expect("whole");
    contents.adopt(&sets);
    contents.keep(&first).expect_err("there is no directory");
    list.pop();
    let second = state(&[("a", &list)], &mut daemon);
    assert!(fetch(&mut contents, &second, &daemon) <= 4);
    assert_eq!(
        held(&contents.sets(&second).expect("whole"), "a"),
        wire(&list)
    );
}

#[test]
fn what_the_daemon_does_not_have_is_named_with_the_set() {
    let directory = tempfile::tempdir().expect("a directory");
    let mut daemon = march_content::Memory::default();
    let contents = Contents::open(directory.path());
    let wanted = state(
        &[("a", &prefixes(0, 10)), ("b", &prefixes(1, 10))],
        &mut daemon,
    );
    let (_, root) = roots(&wanted).next().expect("a set");
    let errors = contents.not_to_be_had(&wanted, &[root]);
    assert_eq!(errors.len(), 1);
    assert_eq!(errors[0].document, "AddressSet/a");
    assert!(errors[0].message.contains(&root.to_string()));
}
