//! The shape of the workspace, checked: which crate may see which, what modules are called, how long a file gets.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Crates on the packet path.
const HOT: [&str; 6] = [
    "march-wire",
    "march-flow",
    "march-tables",
    "march-pipeline",
    "march-port",
    "march-lcore",
];

/// What each crate of the workspace may depend on, directly. Crates that are missing here fail the test: a new crate gets a place first.
const MAY_SEE: &[(&str, &[&str])] = &[
    ("march-wire", &[]),
    ("march-flow", &["march-wire"]),
    ("march-tables", &["march-wire"]),
    ("march-policy", &["march-wire", "march-tables"]),
    (
        "march-pipeline",
        &["march-wire", "march-flow", "march-tables", "march-policy"],
    ),
    ("march-dpdk", &[]),
    ("march-bpf-abi", &["march-wire"]),
    ("march-bpf-loader", &["march-wire", "march-bpf-abi"]),
    ("march-port", &["march-wire", "march-dpdk"]),
    (
        "march-lcore",
        &[
            "march-wire",
            "march-flow",
            "march-tables",
            "march-pipeline",
            "march-port",
        ],
    ),
    ("march-socket", &["march-wire", "march-tables"]),
    ("march-model", &[]),
    ("march-proto", &["march-model"]),
    ("march-content", &["march-model"]),
    ("march-store", &["march-model", "march-content"]),
    (
        "marchd",
        &["march-model", "march-content", "march-proto", "march-store"],
    ),
    ("marchctl", &["march-model", "march-proto", "march-wire"]),
    (
        "marchdp",
        &[
            "march-wire",
            "march-flow",
            "march-tables",
            "march-pipeline",
            "march-port",
            "march-lcore",
            "march-socket",
            "march-dpdk",
            "march-bpf-abi",
            "march-bpf-loader",
            "march-model",
            "march-content",
            "march-proto",
        ],
    ),
    ("march-lab", &["march-proto", "march-wire"]),
];

/// Crates that look at everything: benchmarks, vectors that are run on every tier, and what compares tiers with the reference.
const SEES_ALL: [&str; 3] = ["march-perf", "march-vectors", "march-differential"];

/// Names that say nothing about what lives in a module.
const VAGUE: [&str; 8] = [
    "utils", "util", "common", "helpers", "helper", "manager", "handler", "misc",
];

/// Lines of a source file before its tests. Past the aim of about 500 a file must have a good reason to be one.
const LONGEST_FILE: usize = 600;

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/lab is two below the root")
        .to_owned()
}

/// Direct dependencies between the crates of the workspace, as `cargo metadata` reads the manifests; without dev-dependencies.
fn arrows() -> BTreeMap<String, BTreeSet<String>> {
    let output = Command::new(env!("CARGO"))
        .args([
            "metadata",
            "--format-version",
            "1",
            "--no-deps",
            "--offline",
        ])
        .current_dir(root())
        .output()
        .expect("cargo runs");
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
    let metadata: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    let packages = metadata["packages"].as_array().expect("packages");
    let word = |value: &serde_json::Value| value.as_str().expect("a string").to_owned();
    let members: BTreeSet<String> = packages
        .iter()
        .map(|package| word(&package["name"]))
        .collect();
    let depends = |package: &serde_json::Value| {
        let all = package["dependencies"]
            .as_array()
            .expect("dependencies")
            .iter();
        all.filter(|dependency| dependency["kind"] != "dev")
            .map(|dependency| word(&dependency["name"]))
            .filter(|name| members.contains(name))
            .collect()
    };
    packages
        .iter()
        .map(|package| (word(&package["name"]), depends(package)))
        .collect()
}

/// Everything that `from` depends on, over any number of arrows.
fn reachable(arrows: &BTreeMap<String, BTreeSet<String>>, from: &str) -> BTreeSet<String> {
    let mut seen = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(name) = open.pop() {
        for next in &arrows[&name] {
            if seen.insert(next.clone()) {
                open.push(next.clone());
            }
        }
    }
    seen
}

/// Source files of the repository, without what is built.
fn sources(below: &Path, found: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(below).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        let name = path
            .file_name()
            .unwrap_or_default()
            .to_string_lossy()
            .into_owned();
        if path.is_dir() {
            if !name.starts_with('.') && name != "target" {
                sources(&path, found);
            }
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            found.push(path);
        }
    }
}

fn all_sources() -> Vec<PathBuf> {
    let mut found = Vec::new();
    sources(&root(), &mut found);
    assert!(found.len() > 20, "the sources were not found");
    found
}

#[test]
fn arrows_point_one_way() {
    let mut wrong = Vec::new();
    for (name, depends) in arrows() {
        if SEES_ALL.contains(&name.as_str()) {
            continue;
        }
        let Some((_, allowed)) = MAY_SEE.iter().find(|(of, _)| *of == name) else {
            wrong.push(format!("{name} has no place in MAY_SEE"));
            continue;
        };
        wrong.extend(
            depends
                .iter()
                .filter(|other| !allowed.contains(&other.as_str()))
                .map(|other| format!("{name} -> {other}")),
        );
    }
    assert!(
        wrong.is_empty(),
        "dependencies that the architecture does not have: {wrong:?}"
    );
}

#[test]
fn hot_crates_never_see_the_control_plane() {
    let arrows = arrows();
    for hot in HOT {
        for seen in reachable(&arrows, hot) {
            let is_control = [
                "march-model",
                "march-content",
                "march-proto",
                "march-store",
                "marchd",
                "marchctl",
                "marchdp",
            ]
            .contains(&seen.as_str());
            assert!(!is_control, "{hot} reaches {seen}");
        }
    }
}

#[test]
fn modules_have_names_that_say_something() {
    let vague: Vec<PathBuf> = all_sources()
        .into_iter()
        .filter(|path| {
            let named = |name: Option<&std::ffi::OsStr>| {
                name.is_some_and(|name| VAGUE.contains(&name.to_string_lossy().as_ref()))
            };
            named(path.file_stem())
                || path
                    .ancestors()
                    .skip(1)
                    .any(|folder| folder.starts_with(root()) && named(folder.file_name()))
        })
        .collect();
    assert!(
        vague.is_empty(),
        "modules with names that say nothing: {vague:?}"
    );
}

#[test]
fn files_stay_short() {
    let mut long = Vec::new();
    for path in all_sources() {
        let name = path.file_stem().unwrap_or_default().to_string_lossy();
        let below = path.strip_prefix(root()).unwrap_or(&path);
        if name.ends_with("tests")
            || below
                .components()
                .skip(1)
                .any(|part| part.as_os_str() == "tests")
        {
            continue;
        }
        let text = std::fs::read_to_string(&path).expect("a source file is UTF-8");
        let lines = text
            .lines()
            .take_while(|line| !line.starts_with("#[cfg(test)]"))
            .count();
        if lines > LONGEST_FILE {
            long.push(format!(
                "{}: {lines}",
                path.strip_prefix(root()).unwrap_or(&path).display()
            ));
        }
    }
    assert!(
        long.is_empty(),
        "files longer than {LONGEST_FILE} lines before their tests: {long:?}"
    );
}

#[test]
fn crates_say_what_they_are() {
    for path in all_sources()
        .iter()
        .filter(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"))
    {
        let text = std::fs::read_to_string(path).expect("a source file is UTF-8");
        assert!(
            text.starts_with("//! "),
            "{} does not begin with what the crate is",
            path.display()
        );
    }
}

#[test]
fn only_the_crates_that_need_unsafe_code_may_have_it() {
    const MAY_BE_UNSAFE: [&str; 10] = [
        "ffi/dpdk",
        "dataplane/port",
        "dataplane/flow",
        "dataplane/lcore",
        "dataplane/node",
        "bpf/abi",
        "bpf/xdp",
        "bpf/loader",
        "perf",
        "tests/vectors",
    ];
    for path in all_sources()
        .iter()
        .filter(|path| path.ends_with("src/lib.rs") || path.ends_with("src/main.rs"))
    {
        let folder = path
            .strip_prefix(root())
            .expect("below the root")
            .to_string_lossy()
            .into_owned();
        let text = std::fs::read_to_string(path).expect("a source file is UTF-8");
        let may = MAY_BE_UNSAFE
            .iter()
            .any(|prefix| folder.starts_with(prefix))
            || folder.contains("/fuzz");
        assert!(
            may || text.contains("#![forbid(unsafe_code)]"),
            "{folder} does not forbid unsafe code"
        );
    }
}

#[test]
fn text_names_no_build_machine() {
    let words = ["/tmp/", "/home/", "/root/"];
    for path in all_sources()
        .iter()
        .filter(|path| !path.starts_with(root().join("tests")))
    {
        let text = std::fs::read_to_string(path).expect("a source file is UTF-8");
        for word in words {
            assert!(
                !text.contains(&format!("\"{word}")),
                "{} has the path {word}",
                path.display()
            );
        }
    }
}
