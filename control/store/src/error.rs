//! What can go wrong with the database.

use std::path::{Path, PathBuf};

use march_model::ContentHash;
use rusqlite::ErrorCode;

/// The store could not do what was asked. Whatever it says, nothing was half-done.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file system is full, or the bound of the file is reached.
    #[error("no space left for {path}: nothing was changed; free space and try again")]
    Full {
        /// The database.
        path: PathBuf,
    },
    /// Reading or writing failed below SQLite.
    #[error("input/output error on {path}: nothing was changed: {source}")]
    Io {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
    /// The file is not sound.
    #[error("{path} is damaged ({detail}); restore it from a backup or move it away")]
    Corrupt {
        /// The database.
        path: PathBuf,
        /// What was found.
        detail: String,
    },
    /// Another process has the file.
    #[error("{path} is in use by another process; is another daemon running?")]
    Busy {
        /// The database.
        path: PathBuf,
    },
    /// The file is from a newer version of this program.
    #[error(
        "{path} has schema version {found}, this program knows up to {known}; run the newer program"
    )]
    NewerSchema {
        /// The database.
        path: PathBuf,
        /// The version in the file.
        found: i64,
        /// The newest version known here.
        known: i64,
    },
    /// The head is not the revision that the change started from.
    #[error(
        "the head is revision {head}, the change was made for revision {base}; look at the new head and try again"
    )]
    Conflict {
        /// The revision that the change started from.
        base: u64,
        /// The head.
        head: u64,
    },
    /// There is no such revision.
    #[error("there is no revision {number}, or it is not kept any more")]
    NoRevision {
        /// The number asked for.
        number: u64,
    },
    /// A document names content that is not stored.
    #[error("content {content} is not stored here{hint}")]
    NoContent {
        /// `Kind/name`.
        document: String,
        /// The hash that it names.
        content: ContentHash,
        /// What to do about it, or nothing.
        hint: &'static str,
    },
    /// A document says something else of its content than what is stored.
    #[error("content {content} has {stored} prefixes, not {said}")]
    WrongContent {
        /// `Kind/name`.
        document: String,
        /// The hash that it names.
        content: ContentHash,
        /// What the document says.
        said: u32,
        /// How many there are.
        stored: usize,
    },
    /// Anything else that SQLite says.
    #[error("database error on {path}: {source}")]
    Sqlite {
        /// The database.
        path: PathBuf,
        /// What SQLite says.
        source: rusqlite::Error,
    },
}

impl StoreError {
    pub(crate) fn from_sqlite(path: &Path, source: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match source.sqlite_error_code() {
            Some(ErrorCode::DiskFull) => Self::Full { path },
            Some(ErrorCode::SystemIoFailure | ErrorCode::ReadOnly | ErrorCode::CannotOpen) => {
                Self::Io { path, source }
            }
            Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase) => Self::Corrupt {
                path,
                detail: source.to_string(),
            },
            Some(ErrorCode::DatabaseBusy | ErrorCode::DatabaseLocked) => Self::Busy { path },
            _ => Self::Sqlite { path, source },
        }
    }
}
