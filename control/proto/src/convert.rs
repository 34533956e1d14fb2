//! Between the messages and the model.

use march_model as model;

use crate::v1;

impl From<model::FieldError> for v1::FieldError {
    fn from(error: model::FieldError) -> Self {
        let model::FieldError {
            file,
            line,
            column,
            document,
            path,
            message,
        } = error;
        Self {
            file,
            line,
            column,
            path,
            message,
            document,
        }
    }
}

impl From<v1::FieldError> for model::FieldError {
    fn from(error: v1::FieldError) -> Self {
        let v1::FieldError {
            file,
            line,
            column,
            path,
            message,
            document,
        } = error;
        Self {
            file,
            line,
            column,
            document,
            path,
            message,
        }
    }
}

impl From<&model::Document> for v1::Document {
    fn from(document: &model::Document) -> Self {
        Self {
            kind: document.key().kind.to_string(),
            name: document.key().name.to_string(),
            json: document.canonical().to_owned(),
        }
    }
}

impl From<&model::Key> for v1::DocumentRef {
    fn from(key: &model::Key) -> Self {
        Self {
            kind: key.kind.to_string(),
            name: key.name.to_string(),
        }
    }
}

impl TryFrom<&v1::DocumentRef> for model::Key {
    type Error = String;

    fn try_from(reference: &v1::DocumentRef) -> Result<Self, String> {
        Self::parse(&reference.kind, &reference.name)
    }
}

impl From<&model::Change> for v1::Change {
    fn from(change: &model::Change) -> Self {
        let (kind, fields) = match &change.what {
            model::ChangeKind::Added => (v1::ChangeKind::Added, &[][..]),
            model::ChangeKind::Changed(fields) => (v1::ChangeKind::Changed, &fields[..]),
            model::ChangeKind::Removed => (v1::ChangeKind::Removed, &[][..]),
        };
        let field = |field: &model::FieldChange| v1::FieldChange {
            path: field.path.clone(),
            before: field.before.clone().unwrap_or_default(),
            after: field.after.clone().unwrap_or_default(),
        };
        Self {
            change: kind.into(),
            kind: change.key.kind.to_string(),
            name: change.key.name.to_string(),
            fields: fields.iter().map(field).collect(),
        }
    }
}

/// What a node checks of a snapshot before it compiles: every document, and the hash over them.
pub fn state_of_snapshot(snapshot: &v1::Snapshot) -> Result<model::State, model::Invalid> {
    let documents = snapshot
        .documents
        .iter()
        .map(|document| document.json.as_str());
    checked(model::State::from_canonical(documents)?, &snapshot.hash)
}

/// What a node makes of a delta on the set that it holds: checked like a snapshot.
pub fn state_of_delta(
    held: &model::State,
    delta: &v1::Delta,
) -> Result<model::State, model::Invalid> {
    let keys: Result<Vec<model::Key>, String> =
        delta.deletes.iter().map(TryFrom::try_from).collect();
    let keys = keys.map_err(|message| refuse("deletes", message))?;
    let upserts = delta.upserts.iter().map(|document| document.json.as_str());
    checked(held.apply_delta(upserts, keys)?, &delta.hash)
}

fn checked(state: model::State, hash: &str) -> Result<model::State, model::Invalid> {
    if state.hash().to_string() == hash {
        Ok(state)
    } else {
        let message = format!(
            "the documents hash to {}, announced was {hash}",
            state.hash()
        );
        Err(refuse("hash", message))
    }
}

fn refuse(path: &str, message: String) -> model::Invalid {
    model::Invalid(vec![model::FieldError::of_document("", path, message)])
}

/// The snapshot that brings a node to this set.
pub fn snapshot(
    revision: u64,
    state: &model::State,
    backend_admins: Vec<v1::BackendAdmin>,
) -> v1::Snapshot {
    v1::Snapshot {
        revision,
        hash: state.hash().to_string(),
        documents: state.documents().map(Into::into).collect(),
        backend_admins,
    }
}

/// The delta that brings a node from one revision to another.
pub fn delta(from: (u64, &model::State), to: (u64, &model::State)) -> v1::Delta {
    let changes = from.1.diff(to.1);
    let removed = |change: &&model::Change| change.what == model::ChangeKind::Removed;
    let upsert = |change: &model::Change| to.1.get(&change.key).map(Into::into);
    v1::Delta {
        from: from.0,
        to: to.0,
        upserts: changes.iter().filter_map(upsert).collect(),
        deletes: changes
            .iter()
            .filter(removed)
            .map(|change| (&change.key).into())
            .collect(),
        hash: to.1.hash().to_string(),
    }
}

#[cfg(test)]
mod tests {
    use march_model::{Batch, Others, Source, State, Timestamp};

    use super::*;

    fn state(rules: &[(&str, u32)]) -> State {
        let rule = |(name, priority): &(&str, u32)| {
            format!(
                "apiVersion: marchproxy/v1\nkind: Rule\nmetadata: {{ name: {name} }}\nspec: {{ priority: {priority}, action: drop }}\n---\n"
            )
        };
        let source = Source {
            name: String::new(),
            text: rules.iter().map(rule).collect(),
        };
        State::default()
            .plan(Batch::parse(&[source]), Others::Keep, Timestamp::EPOCH)
            .unwrap()
            .state
    }

    #[test]
    fn snapshots_and_deltas_lead_to_the_same_set() {
        let before = state(&[("a", 1), ("b", 2), ("c", 3)]);
        let after = state(&[("a", 1), ("b", 9), ("d", 4)]);
        let snapshot = snapshot(7, &before, Vec::new());
        assert_eq!(state_of_snapshot(&snapshot).unwrap(), before);
        let delta = delta((7, &before), (8, &after));
        let names = |documents: &[v1::Document]| -> Vec<String> {
            documents
                .iter()
                .map(|document| document.name.clone())
                .collect()
        };
        assert_eq!((delta.from, delta.to), (7, 8));
        assert_eq!(names(&delta.upserts), ["b", "d"]);
        assert_eq!(delta.deletes.len(), 1);
        assert_eq!(state_of_delta(&before, &delta).unwrap(), after);
    }

    #[test]
    fn a_wrong_hash_or_base_is_refused() {
        let (before, after) = (state(&[("a", 1), ("b", 2)]), state(&[("a", 2)]));
        let mut wrong = snapshot(7, &before, Vec::new());
        wrong.documents.pop();
        assert!(
            state_of_snapshot(&wrong).unwrap_err().0[0]
                .message
                .contains("announced was")
        );
        let delta = delta((7, &before), (8, &after));
        let error = state_of_delta(&State::default(), &delta).unwrap_err();
        assert_eq!(
            error.0[0].to_string(),
            "Rule/b: the delta deletes a document that is not there"
        );
    }
}
