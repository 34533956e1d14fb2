//! The difference between two sets, document by document and field by field.

use std::collections::BTreeMap;

use serde_json::Value;

use crate::check::Documents;
use crate::document::{Document, canonical_json};
use crate::name::Key;

/// One document that differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Change {
    /// Which document.
    pub key: Key,
    /// In what way.
    pub what: ChangeKind,
}

/// In what way a document differs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ChangeKind {
    /// It is new.
    Added,
    /// It stays, and these fields differ.
    Changed(Vec<FieldChange>),
    /// It goes.
    Removed,
}

/// One field that differs. Items of lists are named by what they are, not by where they stand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct FieldChange {
    /// Field path, such as `spec.backends[10.0.1.11:8080].weight`.
    pub path: String,
    /// Canonical JSON; none: it was absent.
    pub before: Option<String>,
    /// Canonical JSON; none: it will be absent.
    pub after: Option<String>,
}

/// What leads from one set to the other, sorted by key.
pub(crate) fn diff(from: &Documents, to: &Documents) -> Vec<Change> {
    let mut changes = BTreeMap::new();
    for (key, before) in from {
        let what = match to.get(key) {
            None => ChangeKind::Removed,
            Some(after) if after == before => continue,
            Some(after) => ChangeKind::Changed(fields(before, after)),
        };
        changes.insert(key, what);
    }
    for key in to.keys().filter(|key| !from.contains_key(key)) {
        changes.insert(key, ChangeKind::Added);
    }
    changes
        .into_iter()
        .map(|(key, what)| Change {
            key: key.clone(),
            what,
        })
        .collect()
}

fn fields(before: &Document, after: &Document) -> Vec<FieldChange> {
    let parse = |document: &Document| -> Value {
        serde_json::from_str(document.canonical()).expect("the canonical form is JSON")
    };
    let mut changes = Vec::new();
    compare(
        String::new(),
        Some(&parse(before)),
        Some(&parse(after)),
        &mut changes,
    );
    changes
}

/// The parts of an object or a list, by path.
type Parts<'a> = BTreeMap<String, &'a Value>;

fn compare(
    path: String,
    before: Option<&Value>,
    after: Option<&Value>,
    changes: &mut Vec<FieldChange>,
) {
    if before == after {
        return;
    }
    let (Some(a), Some(b)) = (parts(&path, before), parts(&path, after)) else {
        changes.push(FieldChange {
            path,
            before: before.map(canonical_json),
            after: after.map(canonical_json),
        });
        return;
    };
    let mut names: Vec<&String> = a.keys().chain(b.keys()).collect();
    names.sort();
    names.dedup();
    for name in names {
        compare(
            name.clone(),
            a.get(name).copied(),
            b.get(name).copied(),
            changes,
        );
    }
}

fn parts<'a>(path: &str, value: Option<&'a Value>) -> Option<Parts<'a>> {
    let dot = if path.is_empty() { "" } else { "." };
    match value? {
        Value::Object(map) => Some(
            map.iter()
                .map(|(key, value)| (format!("{path}{dot}{key}"), value))
                .collect(),
        ),
        Value::Array(items) => Some(
            items
                .iter()
                .map(|item| (format!("{path}[{}]", identity(item)), item))
                .collect(),
        ),
        _ => None,
    }
}

/// What an item of a list is called: a backend by its endpoint, a plain value by itself.
fn identity(item: &Value) -> String {
    match item {
        Value::Object(map) => {
            let text = |field: &str| map.get(field).map(plain);
            match (text("address"), text("port")) {
                (Some(address), Some(port)) if address.contains(':') => {
                    format!("[{address}]:{port}")
                }
                (Some(address), Some(port)) => format!("{address}:{port}"),
                (Some(address), None) => address,
                _ => canonical_json(item),
            }
        }
        other => plain(other),
    }
}

fn plain(value: &Value) -> String {
    value
        .as_str()
        .map_or_else(|| value.to_string(), str::to_owned)
}
