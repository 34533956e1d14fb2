//! What is wrong with a document, and where.

use std::fmt;

/// One thing that is wrong: where it was written, which field, and what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct FieldError {
    /// The file as the operator named it; empty when the document did not come from a file.
    pub file: String,
    /// Line from 1; 0 when unknown.
    pub line: u32,
    /// Column from 1, in characters; 0 when unknown.
    pub column: u32,
    /// `Kind/name`; empty when the document has not got that far.
    pub document: String,
    /// Field path, such as `spec.backends[2].port`; empty for the document as a whole.
    pub path: String,
    /// What is wrong, with the offending value in it.
    pub message: String,
}

impl FieldError {
    /// An error of a document that has no place in a file.
    #[must_use]
    pub fn of_document(document: impl Into<String>, path: &str, message: String) -> Self {
        Self {
            file: String::new(),
            line: 0,
            column: 0,
            document: document.into(),
            path: path.to_owned(),
            message,
        }
    }

    /// An error of a file as a whole.
    #[must_use]
    pub fn of_file(file: &str, message: String) -> Self {
        Self {
            file: file.to_owned(),
            line: 0,
            column: 0,
            document: String::new(),
            path: String::new(),
            message,
        }
    }
}

impl fmt::Display for FieldError {
    /// `file:line:column: Kind/name: path: message`, leaving out what is unknown.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.file.is_empty() {
            formatter.write_str(&self.file)?;
            if self.line > 0 {
                write!(formatter, ":{}:{}", self.line, self.column)?;
            }
            formatter.write_str(": ")?;
        }
        for part in [&self.document, &self.path] {
            if !part.is_empty() {
                write!(formatter, "{part}: ")?;
            }
        }
        formatter.write_str(&self.message)
    }
}

/// Documents were refused. Every error that could be found is in it, never none.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{} error(s), the first: {}", .0.len(), .0[0])]
pub struct Invalid(pub Vec<FieldError>);
