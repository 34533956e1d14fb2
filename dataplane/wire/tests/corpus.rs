//! Replays what the fuzz target collected, and frames near it.

#[path = "../fuzz/src/checks.rs"]
mod checks;

use proptest::prelude::*;

fn corpus() -> Vec<(String, Vec<u8>)> {
    let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/fuzz/corpus/frame");
    let mut files: Vec<_> = std::fs::read_dir(folder)
        .expect("the corpus is committed")
        .map(|entry| entry.unwrap().path())
        .map(|path| (path.display().to_string(), std::fs::read(&path).unwrap()))
        .collect();
    files.sort();
    assert!(files.len() >= 20, "{} files", files.len());
    files
}

#[test]
fn every_file_and_every_prefix_of_it() {
    for (name, bytes) in corpus() {
        for len in 0..=bytes.len() {
            let result = std::panic::catch_unwind(|| checks::frame(&bytes[..len]));
            assert!(result.is_ok(), "{len} bytes of {name}");
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4000))]

    #[test]
    fn damaged_files(file: prop::sample::Index, damage in prop::collection::vec(any::<(prop::sample::Index, u8)>(), 1..6)) {
        let files = corpus();
        let mut bytes = files[file.index(files.len())].1.clone();
        for (at, value) in damage {
            let at = at.index(bytes.len());
            bytes[at] = value;
        }
        checks::frame(&bytes);
    }

    #[test]
    fn any_bytes(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
        checks::frame(&bytes);
    }
}
