//! Documents as an operator wrote them, with their places, before they join a set.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::document::Document;
use crate::error::FieldError;
use crate::name::Key;
use crate::place::{Place, Positions, Reading};
use crate::source::{MAX_FILE_BYTES, Source};
use crate::tree;

/// A field path, and the line and column where it was written.
type Written = (Box<str>, (u32, u32));

/// Where a document was written, field by field.
#[derive(Clone, Debug)]
pub(crate) struct Origin {
    file: Arc<str>,
    /// Sorted by path.
    positions: Box<[Written]>,
}

impl Origin {
    fn new(file: &Arc<str>, positions: Positions) -> Self {
        let boxed = |(path, place): (String, _)| (path.into_boxed_str(), place);
        let mut positions: Box<[Written]> = positions.into_iter().map(boxed).collect();
        positions.sort_unstable();
        Self {
            file: Arc::clone(file),
            positions,
        }
    }

    fn place_of(&self, path: &str) -> Option<(u32, u32)> {
        let at = self
            .positions
            .binary_search_by(|(known, _)| (**known).cmp(path));
        at.ok().map(|at| self.positions[at].1)
    }

    /// An error at a field, or at the nearest one around it that was written.
    pub fn error(&self, document: &Key, path: &str, message: String) -> FieldError {
        let mut at = path;
        let (line, column) = loop {
            if let Some(found) = self.place_of(at) {
                break found;
            }
            match at.rfind(['.', '[']) {
                Some(end) => at = &at[..end],
                None if at.is_empty() => break (0, 0),
                None => at = "",
            }
        };
        FieldError {
            file: self.file.to_string(),
            line,
            column,
            document: document.to_string(),
            path: path.to_owned(),
            message,
        }
    }
}

/// What some files hold: the documents that could be read, and every error of the others.
#[derive(Debug, Default)]
pub struct Batch {
    pub(crate) documents: BTreeMap<Key, (Arc<Document>, Origin)>,
    pub(crate) errors: Vec<FieldError>,
    pub(crate) warnings: Vec<FieldError>,
    /// Documents that were named but are wrong: references to them are not wrong too.
    pub(crate) broken: BTreeSet<Key>,
    /// Something could not even be named: nothing can be said about what is missing.
    pub(crate) incomplete: bool,
}

impl Batch {
    /// Reads every document of every file.
    pub fn parse(files: &[Source]) -> Self {
        let mut batch = Self::default();
        for file in files {
            batch.parse_file(file);
        }
        if batch.documents.is_empty() && batch.errors.is_empty() {
            let name = files.first().map_or("", |file| file.name.as_str());
            batch.errors.push(FieldError::of_file(
                name,
                "there is no document in it".to_owned(),
            ));
        }
        batch
    }

    fn parse_file(&mut self, file: &Source) {
        if file.text.len() as u64 > MAX_FILE_BYTES {
            let message = format!("the file is larger than {} MiB", MAX_FILE_BYTES >> 20);
            self.errors.push(FieldError::of_file(&file.name, message));
            self.incomplete = true;
            return;
        }
        let name: Arc<str> = file.name.as_str().into();
        let loaded = tree::load(&file.name, &file.text, |document| {
            if document.is_null() {
                return;
            }
            // A JSON file may hold a list of documents.
            let whole = Reading::new(&file.name);
            for place in Place::root(&whole, document).items() {
                let reading = Reading::new(&file.name);
                let decoded = Document::decode(&place.restart(&reading));
                self.take(&name, decoded, reading);
            }
        });
        self.incomplete |= loaded.cut_short;
        self.errors.extend(loaded.errors);
    }

    fn take(
        &mut self,
        file: &Arc<str>,
        decoded: Result<Document, Option<Key>>,
        reading: Reading<'_>,
    ) {
        let has_errors = !reading.errors.borrow().is_empty();
        self.errors.extend(reading.errors.into_inner());
        self.warnings.extend(reading.warnings.into_inner());
        let origin = Origin::new(file, reading.positions.into_inner());
        match decoded {
            Ok(document) => {
                let key = document.key().clone();
                if has_errors {
                    self.broken.insert(key.clone());
                }
                if let Some((_, first)) = self.documents.get(&key) {
                    let (line, _) = first.place_of("").unwrap_or_default();
                    let message = format!(
                        "the document is given twice, first at {}:{line}",
                        first.file
                    );
                    self.errors
                        .push(origin.error(&key, "metadata.name", message));
                } else {
                    self.documents.insert(key, (Arc::new(document), origin));
                }
            }
            Err(Some(key)) => {
                self.broken.insert(key);
            }
            Err(None) => self.incomplete = true,
        }
    }
}
