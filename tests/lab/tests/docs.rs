//! What the documents say is there, is there: links, files, metrics, decisions.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .ancestors()
        .nth(2)
        .expect("tests/lab is two below")
        .to_owned()
}

fn files(below: &Path, extension: &str, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(below).expect("a readable folder") {
        let path = entry.expect("an entry").path();
        if path.is_dir() {
            files(&path, extension, found);
        } else if path.extension().is_some_and(|own| own == extension) {
            found.push(path);
        }
    }
}

/// Every page of `docs/`, and the README.
fn pages() -> Vec<(PathBuf, String)> {
    let mut paths = vec![root().join("README.md")];
    files(&root().join("docs"), "md", &mut paths);
    let read = |path: PathBuf| {
        let text = fs::read_to_string(&path).expect("a page is UTF-8");
        (path, text)
    };
    paths.into_iter().map(read).collect()
}

/// The targets of `](target)` that are not on another host.
fn links(text: &str) -> impl Iterator<Item = &str> {
    let ends = text
        .split("](")
        .skip(1)
        .filter_map(|rest| rest.split(')').next());
    ends.filter(|target| !target.contains("://"))
}

/// The anchor that a heading gets.
fn anchor(heading: &str) -> String {
    let kept = heading.to_lowercase();
    kept.chars()
        .filter(|letter| letter.is_alphanumeric() || matches!(letter, ' ' | '-' | '_'))
        .map(|letter| if letter == ' ' { '-' } else { letter })
        .collect()
}

#[test]
fn links_lead_somewhere() {
    let mut broken = Vec::new();
    for (page, text) in pages() {
        for link in links(&text) {
            let (file, part) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() {
                page.clone()
            } else {
                page.parent().expect("a page is in a folder").join(file)
            };
            let has_part = || {
                let text = fs::read_to_string(&target).unwrap_or_default();
                text.lines()
                    .filter_map(|line| line.strip_prefix('#'))
                    .any(|rest| anchor(rest.trim_start_matches('#').trim()) == part)
            };
            if !target.exists() || (!part.is_empty() && !has_part()) {
                broken.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(broken.is_empty(), "{broken:#?}");
}

#[test]
fn every_decision_is_in_the_index() {
    let folder = root().join("docs/adr");
    let index = fs::read_to_string(folder.join("README.md")).expect("the index");
    let mut decisions = Vec::new();
    files(&folder, "md", &mut decisions);
    for decision in decisions {
        let name = decision
            .file_name()
            .expect("a file")
            .to_string_lossy()
            .into_owned();
        assert!(
            name == "README.md" || index.contains(&format!("({name})")),
            "{name} is not listed"
        );
    }
}

/// Words in backquotes that begin with `prefix`, up to the first character that is not part of a name.
fn quoted<'a>(text: &'a str, prefix: &'a str) -> impl Iterator<Item = &'a str> {
    let spans = text.split('`').skip(1).step_by(2);
    spans
        .filter(move |span| span.starts_with(prefix))
        .map(|span| {
            let end = span
                .find(|letter: char| !(letter.is_ascii_alphanumeric() || "_-./".contains(letter)));
            &span[..end.unwrap_or(span.len())]
        })
}

#[test]
fn metrics_that_are_mentioned_exist() {
    let mut sources = Vec::new();
    files(
        &root().join("dataplane/node/src/metrics"),
        "rs",
        &mut sources,
    );
    files(&root().join("control/daemon/src"), "rs", &mut sources);
    let source: String = sources
        .iter()
        .map(|path| fs::read_to_string(path).expect("UTF-8"))
        .collect();
    let mut unknown = BTreeSet::new();
    for (page, text) in pages() {
        for metric in quoted(&text, "marchproxy_") {
            let family = metric.trim_start_matches("marchproxy_");
            let known = source.contains(&format!("\"{family}\""))
                || source.contains(&format!("\"{metric}\""));
            if !family.is_empty() && !known {
                unknown.insert(format!("{}: {metric}", page.display()));
            }
        }
    }
    assert!(unknown.is_empty(), "{unknown:#?}");
}

#[test]
fn files_and_folders_that_are_mentioned_exist() {
    let mut missing = BTreeSet::new();
    for (page, text) in pages() {
        for top in [
            "dataplane/",
            "control/",
            "bpf/",
            "ffi/",
            "perf/",
            "tests/",
            "docs/",
            "appliance/",
        ] {
            for path in quoted(&text, top) {
                if !root().join(path).exists() && !root().join(format!("{path}.rs")).exists() {
                    missing.insert(format!("{}: {path}", page.display()));
                }
            }
        }
        // The architecture page names modules by crate folder: `pipeline/first`.
        for crate_folder in [
            "pipeline", "lcore", "port", "flow", "wire", "tables", "socket", "node",
        ] {
            for path in quoted(&text, &format!("{crate_folder}/")) {
                let module = path.split_once('/').expect("a slash").1;
                let below = root().join("dataplane").join(crate_folder).join("src");
                if !below.join(module).exists() && !below.join(format!("{module}.rs")).exists() {
                    missing.insert(format!("{}: {path}", page.display()));
                }
            }
        }
    }
    assert!(missing.is_empty(), "{missing:#?}");
}
