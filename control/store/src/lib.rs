//! The control daemon's memory: revisions, audit and backend admin states in one SQLite file.
//!
//! What it is: immutable, numbered, content-hashed revisions with author, comment and differences; the audit entry of
//! every change in the same transaction as the change; the contents of address sets, which revisions name by hash; admin
//! states of backends, which no revision holds. What it is not: it decides nothing about documents (`march-model` does)
//! and knows no network.
//!
//! Entry points: [`Store::open`], [`Store::head`], [`Store::commit`].
//!
//! Invariants: what [`Store::commit`] answered is on the disk (WAL, `synchronous=FULL`) and survives `kill -9` and a
//! power cut; a failed commit leaves nothing behind; one process holds the file; a document that does not change from
//! one revision to the next is stored once, and so is each chunk of content; a kept revision has its contents whole. Calls
//! block: keep them off an async runtime's workers.
#![forbid(unsafe_code)]

mod backend;
mod content;
mod error;
mod revision;
mod schema;

use std::path::{Path, PathBuf};

use march_model::{ContentHash, State};
use rusqlite::{Connection, OptionalExtension};

pub use backend::{AdminState, BackendAdmin};
pub use error::StoreError;
pub use revision::{Revision, RevisionCounts};

/// How many of the newest revisions are kept.
pub const KEEP_REVISIONS: u64 = 1_000;

/// The default bound of the database file, in bytes.
pub const DEFAULT_MAX_BYTES: u64 = 4 << 30;

/// Who makes a change, and what they say about it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Author {
    /// The name of the user.
    pub name: String,
    /// The user's comment; may be empty.
    pub comment: String,
}

/// The newest revision.
#[derive(Clone, Debug)]
pub struct Head {
    /// Its number; 0 when nothing was ever committed.
    pub number: u64,
    /// Its documents.
    pub state: State,
}

/// One entry of the audit table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuditEntry {
    /// Counts from 1.
    pub sequence: u64,
    /// Milliseconds since 1970, by the daemon's clock.
    pub at_unix_ms: u64,
    /// Who.
    pub author: String,
    /// `revision` or `backend`.
    pub action: String,
    /// What, in words.
    pub detail: String,
    /// The revision that it made, if it made one.
    pub revision: Option<u64>,
}

/// The open database.
#[derive(Debug)]
pub struct Store {
    connection: Connection,
    path: PathBuf,
}

impl Store {
    /// Opens the database, makes it if it is not there, brings its schema up to date and checks it.
    ///
    /// `max_bytes` bounds the file; beyond it changes fail as they do on a full disk.
    pub fn open(path: &Path, max_bytes: u64) -> Result<Self, StoreError> {
        let mut connection = schema::open(path, max_bytes)?;
        schema::migrate(&mut connection, path)?;
        let store = Self {
            connection,
            path: path.to_owned(),
        };
        store.check()?;
        Ok(store)
    }

    /// The file.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The pages must be sound, and the newest revision must hash to what was written down.
    fn check(&self) -> Result<(), StoreError> {
        let verdict: String = self
            .connection
            .query_row("PRAGMA integrity_check(1)", [], |row| row.get(0))
            .map_err(|error| self.failed(error))?;
        if verdict != "ok" {
            return Err(StoreError::Corrupt {
                path: self.path.clone(),
                detail: verdict,
            });
        }
        self.head().map(drop)
    }

    /// The newest revision with its documents.
    pub fn head(&self) -> Result<Head, StoreError> {
        let number = self.head_number()?;
        if number == 0 {
            return Ok(Head {
                number,
                state: State::default(),
            });
        }
        let state = self
            .state_at(number)?
            .ok_or(StoreError::NoRevision { number })?;
        Ok(Head { number, state })
    }

    /// The number of the newest revision; 0 when there is none.
    pub fn head_number(&self) -> Result<u64, StoreError> {
        let newest = "SELECT coalesce(max(number), 0) FROM revision";
        self.connection
            .query_row(newest, [], |row| row.get(0))
            .map_err(|error| self.failed(error))
    }

    /// The documents of a revision; none if it was never made or is not kept any more.
    pub fn state_at(&self, number: u64) -> Result<Option<State>, StoreError> {
        let recorded: Option<String> = self
            .connection
            .query_row(
                "SELECT hash FROM revision WHERE number = ?1",
                [number],
                |row| row.get(0),
            )
            .optional()
            .map_err(|error| self.failed(error))?;
        let Some(recorded) = recorded else {
            return Ok(None);
        };
        let documents = self
            .documents_at(number)
            .map_err(|error| self.failed(error))?;
        let corrupt = |detail: String| StoreError::Corrupt {
            path: self.path.clone(),
            detail,
        };
        let state = State::from_canonical(documents.iter().map(String::as_str))
            .map_err(|invalid| corrupt(format!("revision {number}: {invalid}")))?;
        if recorded.parse::<ContentHash>() != Ok(state.hash()) {
            return Err(corrupt(format!(
                "revision {number} has hash {}, recorded is {recorded}",
                state.hash()
            )));
        }
        Ok(Some(state))
    }

    fn documents_at(&self, number: u64) -> rusqlite::Result<Vec<String>> {
        let mut select = self.connection.prepare_cached(
            "SELECT blob.content FROM document JOIN blob ON blob.hash = document.blob
             WHERE document.since <= ?1 AND (document.until IS NULL OR document.until > ?1)",
        )?;
        select.query_map([number], |row| row.get(0))?.collect()
    }

    /// Moves everything into the main file, for an orderly end. Without it the next start does the same.
    pub fn checkpoint(&self) -> Result<(), StoreError> {
        let checkpoint = "PRAGMA wal_checkpoint(TRUNCATE)";
        self.connection
            .query_row(checkpoint, [], |_| Ok(()))
            .map_err(|error| self.failed(error))
    }

    /// The newest audit entries, newest first.
    pub fn audit(&self, limit: u32) -> Result<Vec<AuditEntry>, StoreError> {
        let read = || -> rusqlite::Result<Vec<AuditEntry>> {
            let mut select = self.connection.prepare_cached(
                "SELECT sequence, at_unix_ms, author, action, detail, revision FROM audit
                 ORDER BY sequence DESC LIMIT ?1",
            )?;
            let entry = |row: &rusqlite::Row<'_>| {
                Ok(AuditEntry {
                    sequence: row.get(0)?,
                    at_unix_ms: row.get(1)?,
                    author: row.get(2)?,
                    action: row.get(3)?,
                    detail: row.get(4)?,
                    revision: row.get(5)?,
                })
            };
            select.query_map([limit], entry)?.collect()
        };
        read().map_err(|error| self.failed(error))
    }

    pub(crate) fn failed(&self, error: rusqlite::Error) -> StoreError {
        StoreError::from_sqlite(&self.path, error)
    }
}

/// Writes an audit entry inside the transaction of the change that it tells of.
pub(crate) fn write_audit(
    transaction: &rusqlite::Transaction<'_>,
    author: &str,
    action: &str,
    detail: &str,
    revision: Option<u64>,
) -> rusqlite::Result<()> {
    transaction
        .prepare_cached(
            "INSERT INTO audit (at_unix_ms, author, action, detail, revision) VALUES (?1, ?2, ?3, ?4, ?5)",
        )?
        .execute((now_unix_ms(), author, action, detail, revision))
        .map(drop)
}

pub(crate) fn now_unix_ms() -> u64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH);
    since.map_or(0, |since| {
        u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
    })
}
