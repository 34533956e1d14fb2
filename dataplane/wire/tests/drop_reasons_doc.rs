//! `docs/drop-reasons.md` is written from [`DropReason`] and must not drift from it.
//!
//! `MARCH_WRITE_DOCS=1 cargo test -p march-wire --test drop_reasons_doc` writes it anew.

use std::fs;
use std::path::{Path, PathBuf};

use march_wire::DropReason;

const HEAD: &str = "\
# Drop reasons

Every frame that is not forwarded, answered, punted or held is dropped with one of these words. The list is closed: the
word is the same in `marchctl drops`, in the label `reason` of `marchproxy_drops_total`, in `marchctl explain` and in the
anchors of this page. What to do about each is in [runbook/drops.md](runbook/drops.md).

This page is written by a test from the list in `dataplane/wire/src/verdict.rs`, which also checks that it is up to date:
`MARCH_WRITE_DOCS=1 cargo test -p march-wire --test drop_reasons_doc`.
";

fn docs() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs")
}

fn page() -> String {
    let sections = DropReason::ALL
        .iter()
        .map(|reason| format!("\n## {}\n\n{}\n", reason.as_str(), reason.help()));
    sections.fold(HEAD.to_owned(), |page, section| page + &section)
}

#[test]
fn the_page_lists_every_reason_as_the_code_does() {
    let path = docs().join("drop-reasons.md");
    if std::env::var_os("MARCH_WRITE_DOCS").is_some() {
        fs::write(&path, page()).expect("docs/ is writable");
    }
    let written = fs::read_to_string(&path).expect("docs/drop-reasons.md is there");
    assert!(
        written == page(),
        "docs/drop-reasons.md is out of date; MARCH_WRITE_DOCS=1 writes it"
    );
}

#[test]
fn the_runbook_says_what_to_do_about_every_reason() {
    let path = docs().join("runbook/drops.md");
    let written = fs::read_to_string(&path).expect("docs/runbook/drops.md is there");
    let missing: Vec<_> = DropReason::ALL
        .iter()
        .filter(|reason| !written.contains(&format!("`{reason}`")))
        .collect();
    assert!(
        missing.is_empty(),
        "docs/runbook/drops.md does not mention {missing:?}"
    );
    // And no word that is not, or is no longer, a reason.
    let entries = written.lines().filter_map(|line| line.strip_prefix("| `"));
    for word in entries.filter_map(|rest| rest.split('`').next()) {
        let known = DropReason::ALL.iter().any(|reason| reason.as_str() == word);
        assert!(
            known,
            "docs/runbook/drops.md explains `{word}`, which is no drop reason"
        );
    }
}
