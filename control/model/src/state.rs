//! A whole, valid set of documents.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::address_set::AddressSet;
use crate::batch::{Batch, Origin};
use crate::check::{self, Documents, Finding, Findings};
use crate::diff::{self, Change};
use crate::document::{ContentHash, Document, Metadata, Spec};
use crate::error::{FieldError, Invalid};
use crate::mapping::Mapping;
use crate::name::{Key, Kind};
use crate::pool::Pool;
use crate::port::Port;
use crate::rate_limit::RateLimit;
use crate::rule::Rule;
use crate::service::Service;
use crate::time::Timestamp;

/// How many warnings are told: they are an answer beside the change, which must not become too large for that.
const MAX_WARNINGS: usize = 500;

/// The first warnings in order, and how many more there are.
fn first_warnings(mut warnings: Vec<FieldError>) -> Vec<FieldError> {
    warnings.sort();
    let more = warnings.len().saturating_sub(MAX_WARNINGS);
    if more > 0 {
        warnings.truncate(MAX_WARNINGS);
        let message = format!("and {more} more warnings");
        warnings.push(FieldError::of_document("", "", message));
    }
    warnings
}

/// A valid set of documents: what a revision holds and a node compiles. Cheap to clone; documents are shared.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    documents: Documents,
    hash: ContentHash,
}

/// What happens to documents that a batch does not have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Others {
    /// They stay.
    Keep,
    /// They are deleted.
    Delete,
}

/// A set that was checked, and how it differs from the one before.
#[derive(Clone, Debug)]
pub struct Plan {
    /// The new set.
    pub state: State,
    /// What changed, sorted by key.
    pub changes: Vec<Change>,
    /// What is allowed but probably not meant.
    pub warnings: Vec<FieldError>,
}

impl Default for State {
    fn default() -> Self {
        Self::from_checked(BTreeMap::new())
    }
}

impl State {
    fn from_checked(documents: Documents) -> Self {
        let hash = set_hash(&documents);
        Self { documents, hash }
    }

    fn from_unchecked(documents: Documents) -> Result<Self, Invalid> {
        let errors = check::check(&documents).errors;
        if errors.is_empty() {
            Ok(Self::from_checked(documents))
        } else {
            Err(Invalid(
                errors.into_iter().map(Finding::into_error).collect(),
            ))
        }
    }

    /// The set of these documents in canonical form, checked again.
    pub fn from_canonical<'a>(
        documents: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, Invalid> {
        let mut set = BTreeMap::new();
        let mut errors = Vec::new();
        insert_canonical(&mut set, documents, &mut errors);
        if errors.is_empty() {
            Self::from_unchecked(set)
        } else {
            Err(Invalid(errors))
        }
    }

    /// The set after a delta: documents in canonical form to add or replace, and keys to take out.
    pub fn apply_delta<'a>(
        &self,
        upserts: impl IntoIterator<Item = &'a str>,
        deletes: impl IntoIterator<Item = Key>,
    ) -> Result<Self, Invalid> {
        let mut set = self.documents.clone();
        let mut errors = Vec::new();
        for key in deletes {
            if set.remove(&key).is_none() {
                let message = "the delta deletes a document that is not there".to_owned();
                errors.push(FieldError::of_document(key.to_string(), "", message));
            }
        }
        insert_canonical(&mut set, upserts, &mut errors);
        if errors.is_empty() {
            Self::from_unchecked(set)
        } else {
            Err(Invalid(errors))
        }
    }

    /// What the set becomes with the documents of a batch, at this moment. Every error of the batch and of the result
    /// comes at once.
    pub fn plan(&self, batch: Batch, others: Others, now: Timestamp) -> Result<Plan, Invalid> {
        let mut errors = batch.errors;
        let mut set = match others {
            Others::Keep => self.documents.clone(),
            Others::Delete => BTreeMap::new(),
        };
        let mut origins = BTreeMap::new();
        for (key, (document, origin)) in batch.documents {
            // What was there before may have ended since; applying it again changes nothing.
            if self.documents.get(&key) != Some(&document)
                && let Some(end) = document.spec().ends_at().filter(|end| *end <= now)
            {
                let message = format!("expired on arrival: it ended at {end}, and it is {now}");
                errors.push(origin.error(&key, "spec.expiresAt", message));
            }
            set.insert(key.clone(), document);
            origins.insert(key, origin);
        }
        let Findings {
            errors: found,
            warnings,
        } = check::check(&set);
        let follows_from_another = |finding: &Finding| {
            let is_broken = |missing: &Key| batch.incomplete || batch.broken.contains(missing);
            finding.missing.iter().any(is_broken)
        };
        let placed = |finding: Finding| place_in_file(&origins, finding);
        errors.extend(
            found
                .into_iter()
                .filter(|finding| !follows_from_another(finding))
                .map(placed),
        );
        if !errors.is_empty() {
            errors.sort();
            errors.dedup();
            return Err(Invalid(errors));
        }
        let state = Self::from_checked(set);
        let changes = self.diff(&state);
        let mut said = batch.warnings;
        // Looking at every pair takes a while with many rules, and says the same while they are the same.
        let has_rules = |change: &Change| matches!(change.key.kind, Kind::Rule | Kind::Mapping);
        let never_decide = if changes.iter().any(has_rules) {
            crate::shadow::shadowed(&state.documents)
        } else {
            Vec::new()
        };
        said.extend(warnings.into_iter().chain(never_decide).map(placed));
        Ok(Plan {
            state,
            changes,
            warnings: first_warnings(said),
        })
    }

    /// What the set becomes without these documents. The keys that are not in it are in the inner error.
    pub fn plan_removal(&self, keys: &[Key]) -> Result<Result<Plan, Invalid>, Vec<Key>> {
        let mut set = self.documents.clone();
        let missing: Vec<Key> = keys
            .iter()
            .filter(|key| set.remove(key).is_none())
            .cloned()
            .collect();
        if !missing.is_empty() {
            return Err(missing);
        }
        Ok(Self::from_unchecked(set).map(|state| {
            let changes = self.diff(&state);
            Plan {
                state,
                changes,
                warnings: Vec::new(),
            }
        }))
    }

    /// What leads from this set to the other, sorted by key.
    pub fn diff(&self, to: &State) -> Vec<Change> {
        if self.hash == to.hash {
            Vec::new()
        } else {
            diff::diff(&self.documents, &to.documents)
        }
    }

    /// SHA-256 over the set: over `Kind/name`, a line end and the document's hash, in order of key.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// One document.
    pub fn get(&self, key: &Key) -> Option<&Document> {
        self.documents.get(key).map(Arc::as_ref)
    }

    /// Every document, sorted by kind and name.
    pub fn documents(&self) -> impl ExactSizeIterator<Item = &Document> {
        self.documents.values().map(Arc::as_ref)
    }

    /// How many documents there are.
    pub fn len(&self) -> usize {
        self.documents.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.documents.is_empty()
    }

    /// Every port, sorted by name.
    pub fn ports(&self) -> impl Iterator<Item = (&Metadata, &Port)> {
        self.of_kind(Kind::Port)
            .filter_map(|document| match document.spec() {
                Spec::Port(port) => Some((document.metadata(), port)),
                _ => None,
            })
    }

    /// Every service, sorted by name.
    pub fn services(&self) -> impl Iterator<Item = (&Metadata, &Service)> {
        self.of_kind(Kind::Service)
            .filter_map(|document| match document.spec() {
                Spec::Service(service) => Some((document.metadata(), service)),
                _ => None,
            })
    }

    /// Every pool, sorted by name.
    pub fn pools(&self) -> impl Iterator<Item = (&Metadata, &Pool)> {
        self.of_kind(Kind::Pool)
            .filter_map(|document| match document.spec() {
                Spec::Pool(pool) => Some((document.metadata(), pool)),
                _ => None,
            })
    }

    /// Every rule, sorted by name; the data plane orders them by priority, then name.
    pub fn rules(&self) -> impl Iterator<Item = (&Metadata, &Rule)> {
        self.of_kind(Kind::Rule)
            .filter_map(|document| match document.spec() {
                Spec::Rule(rule) => Some((document.metadata(), rule)),
                _ => None,
            })
    }

    /// Every address set, sorted by name.
    pub fn address_sets(&self) -> impl Iterator<Item = (&Metadata, &AddressSet)> {
        self.of_kind(Kind::AddressSet)
            .filter_map(|document| match document.spec() {
                Spec::AddressSet(set) => Some((document.metadata(), set)),
                _ => None,
            })
    }

    /// Every rate limit, sorted by name.
    pub fn rate_limits(&self) -> impl Iterator<Item = (&Metadata, &RateLimit)> {
        self.of_kind(Kind::RateLimit)
            .filter_map(|document| match document.spec() {
                Spec::RateLimit(limit) => Some((document.metadata(), limit)),
                _ => None,
            })
    }

    /// Every mapping, sorted by name.
    pub fn mappings(&self) -> impl Iterator<Item = (&Metadata, &Mapping)> {
        self.of_kind(Kind::Mapping)
            .filter_map(|document| match document.spec() {
                Spec::Mapping(mapping) => Some((document.metadata(), mapping)),
                _ => None,
            })
    }

    fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Document> {
        self.documents()
            .skip_while(move |document| document.key().kind < kind)
            .take_while(move |document| document.key().kind == kind)
    }
}

fn insert_canonical<'a>(
    set: &mut Documents,
    documents: impl IntoIterator<Item = &'a str>,
    errors: &mut Vec<FieldError>,
) {
    for text in documents {
        match Document::from_canonical(text) {
            Ok(document) => {
                set.insert(document.key().clone(), Arc::new(document));
            }
            Err(Invalid(found)) => errors.extend(found),
        }
    }
}

fn place_in_file(origins: &BTreeMap<Key, Origin>, finding: Finding) -> FieldError {
    match origins.get(&finding.key) {
        Some(origin) => origin.error(&finding.key, &finding.path, finding.message),
        None => finding.into_error(),
    }
}

fn set_hash(documents: &Documents) -> ContentHash {
    let mut digest = Sha256::new();
    for (key, document) in documents {
        digest.update(key.kind.as_str());
        digest.update("/");
        digest.update(key.name.as_str());
        digest.update("\n");
        digest.update(document.hash().as_bytes());
    }
    ContentHash::from_digest(digest)
}
