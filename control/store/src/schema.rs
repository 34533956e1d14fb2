//! Opening the file and its schema.

use std::path::Path;
use std::time::Duration;

use rusqlite::{Connection, OpenFlags};
use rusqlite_migration::{M, Migrations};

use crate::error::StoreError;

/// In order; only ever appended to.
const MIGRATIONS: &[M<'static>] = &[M::up(REVISIONS), M::up(CONTENT)];

const REVISIONS: &str = "CREATE TABLE revision (
         number INTEGER PRIMARY KEY CHECK (number > 0),
         hash TEXT NOT NULL,
         author TEXT NOT NULL,
         comment TEXT NOT NULL,
         created_unix_ms INTEGER NOT NULL,
         documents INTEGER NOT NULL,
         added INTEGER NOT NULL,
         changed INTEGER NOT NULL,
         removed INTEGER NOT NULL,
         changes TEXT NOT NULL
     ) STRICT;
     CREATE TRIGGER revision_is_immutable BEFORE UPDATE ON revision
         BEGIN SELECT raise(ABORT, 'a revision never changes'); END;

     CREATE TABLE blob (hash TEXT PRIMARY KEY, content TEXT NOT NULL) STRICT, WITHOUT ROWID;

     -- A document as it is from revision `since` up to, but not in, revision `until`.
     CREATE TABLE document (
         kind TEXT NOT NULL,
         name TEXT NOT NULL,
         since INTEGER NOT NULL,
         until INTEGER,
         blob TEXT NOT NULL REFERENCES blob (hash),
         PRIMARY KEY (kind, name, since)
     ) STRICT, WITHOUT ROWID;
     CREATE UNIQUE INDEX document_now ON document (kind, name) WHERE until IS NULL;
     CREATE INDEX document_until ON document (until) WHERE until IS NOT NULL;
     CREATE INDEX document_blob ON document (blob);

     CREATE TABLE backend_admin (
         pool TEXT NOT NULL,
         address TEXT NOT NULL,
         port INTEGER NOT NULL,
         state TEXT NOT NULL CHECK (state IN ('drain', 'offline')),
         PRIMARY KEY (pool, address, port)
     ) STRICT, WITHOUT ROWID;

     CREATE TABLE audit (
         sequence INTEGER PRIMARY KEY AUTOINCREMENT,
         at_unix_ms INTEGER NOT NULL,
         author TEXT NOT NULL,
         action TEXT NOT NULL,
         detail TEXT NOT NULL,
         revision INTEGER
     ) STRICT;
     CREATE TRIGGER audit_never_changes BEFORE UPDATE ON audit
         BEGIN SELECT raise(ABORT, 'the audit table is only appended to'); END;
     CREATE TRIGGER audit_never_shrinks BEFORE DELETE ON audit
         BEGIN SELECT raise(ABORT, 'the audit table is only appended to'); END;";

/// What address sets hold: chunks by the SHA-256 of their bytes, and which documents keep which contents alive.
const CONTENT: &str = "CREATE TABLE chunk (hash BLOB NOT NULL UNIQUE, bytes BLOB NOT NULL) STRICT;

     -- The root of the content that a document names.
     CREATE TABLE content (
         blob TEXT PRIMARY KEY REFERENCES blob (hash) ON DELETE CASCADE,
         root BLOB NOT NULL
     ) STRICT, WITHOUT ROWID;
     CREATE INDEX content_root ON content (root);

     -- Every root that is stored, with the bytes of the chunks that came with it.
     CREATE TABLE root (hash BLOB PRIMARY KEY, bytes INTEGER NOT NULL) STRICT, WITHOUT ROWID;";

const PAGE_BYTES: u64 = 4096;

pub(crate) fn open(path: &Path, max_bytes: u64) -> Result<Connection, StoreError> {
    let failed = |error| StoreError::from_sqlite(path, error);
    let flags = OpenFlags::SQLITE_OPEN_READ_WRITE
        | OpenFlags::SQLITE_OPEN_CREATE
        | OpenFlags::SQLITE_OPEN_NO_MUTEX
        | OpenFlags::SQLITE_OPEN_EXRESCODE;
    let connection = Connection::open_with_flags(path, flags).map_err(failed)?;
    let set_up = || -> rusqlite::Result<()> {
        connection.busy_timeout(Duration::from_millis(500))?;
        // One process owns the file; also spares the shared-memory file.
        connection.pragma_update(None, "locking_mode", "EXCLUSIVE")?;
        connection.pragma_update(None, "page_size", PAGE_BYTES)?;
        connection.pragma_update_and_check(None, "journal_mode", "WAL", |_| Ok(()))?;
        connection.pragma_update(None, "synchronous", "FULL")?;
        connection.pragma_update_and_check(None, "journal_size_limit", 16 << 20, |_| Ok(()))?;
        connection.pragma_update(None, "foreign_keys", true)?;
        connection.pragma_update(None, "trusted_schema", false)?;
        connection.pragma_update_and_check(
            None,
            "max_page_count",
            max_bytes / PAGE_BYTES,
            |_| Ok(()),
        )?;
        // Takes the lock now instead of at the first change.
        connection.execute_batch("BEGIN IMMEDIATE; COMMIT;")
    };
    set_up().map_err(failed)?;
    Ok(connection)
}

pub(crate) fn migrate(connection: &mut Connection, path: &Path) -> Result<(), StoreError> {
    let found: i64 = connection
        .pragma_query_value(None, "user_version", |row| row.get(0))
        .map_err(|error| StoreError::from_sqlite(path, error))?;
    let known = i64::try_from(MIGRATIONS.len()).expect("a short list");
    if found > known {
        return Err(StoreError::NewerSchema {
            path: path.to_owned(),
            found,
            known,
        });
    }
    Migrations::from_slice(MIGRATIONS)
        .to_latest(connection)
        .map_err(|error| match error {
            rusqlite_migration::Error::RusqliteError { err, .. } => {
                StoreError::from_sqlite(path, err)
            }
            other => StoreError::Corrupt {
                path: path.to_owned(),
                detail: other.to_string(),
            },
        })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn migrations_are_sound() {
        Migrations::from_slice(MIGRATIONS).validate().unwrap();
    }
}
