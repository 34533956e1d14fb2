//! Making revisions and looking back at them.

use march_content::Chunk;
use march_model::{Change, ChangeKind, FieldChange, Key, Plan, State};
use rusqlite::{OptionalExtension, Row, Transaction, TransactionBehavior};
use serde::{Deserialize, Serialize};

use crate::error::StoreError;
use crate::{Author, KEEP_REVISIONS, Store, content, now_unix_ms, write_audit};

/// A revision as history shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Revision {
    /// Counts from 1.
    pub number: u64,
    /// Content hash of its documents, 64 hex digits.
    pub hash: String,
    /// Who made it.
    pub author: String,
    /// What they said about it.
    pub comment: String,
    /// Milliseconds since 1970, by the daemon's clock.
    pub created_unix_ms: u64,
    /// How many documents it has.
    pub documents: u32,
    /// How it differs from the one before.
    pub counts: RevisionCounts,
}

/// How a revision differs from the one before.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RevisionCounts {
    /// Documents that are new.
    pub added: u32,
    /// Documents that differ.
    pub changed: u32,
    /// Documents that are gone.
    pub removed: u32,
}

const COLUMNS: &str =
    "number, hash, author, comment, created_unix_ms, documents, added, changed, removed";

impl Revision {
    fn read(row: &Row<'_>) -> rusqlite::Result<Self> {
        Ok(Self {
            number: row.get(0)?,
            hash: row.get(1)?,
            author: row.get(2)?,
            comment: row.get(3)?,
            created_unix_ms: row.get(4)?,
            documents: row.get(5)?,
            counts: RevisionCounts {
                added: row.get(6)?,
                changed: row.get(7)?,
                removed: row.get(8)?,
            },
        })
    }
}

impl RevisionCounts {
    fn of(changes: &[Change]) -> Self {
        let mut counts = Self::default();
        for change in changes {
            match change.what {
                ChangeKind::Added => counts.added += 1,
                ChangeKind::Changed(_) => counts.changed += 1,
                ChangeKind::Removed => counts.removed += 1,
            }
        }
        counts
    }
}

impl Store {
    /// Makes the revision after `base` in one transaction with its audit entry, and answers its number once it is on
    /// the disk. A plan without changes makes none and answers `base`.
    pub fn commit(&mut self, base: u64, plan: &Plan, author: &Author) -> Result<u64, StoreError> {
        self.commit_with(base, plan, &[], author)
    }

    /// The same with chunks of contents that documents of the plan name and that may not be stored yet.
    pub fn commit_with(
        &mut self,
        base: u64,
        plan: &Plan,
        chunks: &[Chunk],
        author: &Author,
    ) -> Result<u64, StoreError> {
        let head = self.head_number()?;
        if head != base {
            return Err(StoreError::Conflict { base, head });
        }
        if plan.changes.is_empty() {
            return Ok(base);
        }
        self.check_contents(plan, chunks)?;
        let number = base + 1;
        let write = |store: &mut Self| -> rusqlite::Result<()> {
            let transaction = store
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            content::write_chunks(&transaction, chunks)?;
            write_documents(&transaction, number, plan)?;
            content::write_roots(&transaction, plan, chunks)?;
            write_revision(&transaction, number, plan, author)?;
            forget_before(&transaction, number.saturating_sub(KEEP_REVISIONS))?;
            transaction.commit()
        };
        write(self).map_err(|error| self.failed(error))?;
        Ok(number)
    }

    /// The newest revisions, newest first.
    pub fn history(&self, limit: u32) -> Result<Vec<Revision>, StoreError> {
        let read = || -> rusqlite::Result<Vec<Revision>> {
            let query = format!("SELECT {COLUMNS} FROM revision ORDER BY number DESC LIMIT ?1");
            self.connection
                .prepare_cached(&query)?
                .query_map([limit], Revision::read)?
                .collect()
        };
        read().map_err(|error| self.failed(error))
    }

    /// One revision and how it differs from the one before.
    pub fn revision(&self, number: u64) -> Result<(Revision, Vec<Change>), StoreError> {
        let query = format!("SELECT {COLUMNS}, changes FROM revision WHERE number = ?1");
        let read = |row: &Row<'_>| Ok((Revision::read(row)?, row.get::<_, String>(9)?));
        let found = self.connection.query_row(&query, [number], read).optional();
        let (revision, changes) = found
            .map_err(|error| self.failed(error))?
            .ok_or(StoreError::NoRevision { number })?;
        let changes = read_changes(&changes).map_err(|detail| StoreError::Corrupt {
            path: self.path.clone(),
            detail: format!("changes of revision {number}: {detail}"),
        })?;
        Ok((revision, changes))
    }
}

fn write_documents(
    transaction: &Transaction<'_>,
    number: u64,
    plan: &Plan,
) -> rusqlite::Result<()> {
    let mut end = transaction.prepare_cached(
        "UPDATE document SET until = ?3 WHERE kind = ?1 AND name = ?2 AND until IS NULL",
    )?;
    let mut keep_blob = transaction.prepare_cached(
        "INSERT INTO blob (hash, content) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    let mut begin = transaction
        .prepare_cached("INSERT INTO document (kind, name, since, blob) VALUES (?1, ?2, ?3, ?4)")?;
    for Change { key, what } in &plan.changes {
        if *what != ChangeKind::Added {
            end.execute((key.kind.as_str(), key.name.as_str(), number))?;
        }
        if let Some(document) = plan.state.get(key) {
            let hash = document.hash().to_string();
            keep_blob.execute((&hash, document.canonical()))?;
            begin.execute((key.kind.as_str(), key.name.as_str(), number, &hash))?;
        }
    }
    Ok(())
}

fn write_revision(
    transaction: &Transaction<'_>,
    number: u64,
    plan: &Plan,
    author: &Author,
) -> rusqlite::Result<()> {
    let state: &State = &plan.state;
    let counts = RevisionCounts::of(&plan.changes);
    transaction
        .prepare_cached(&format!(
            "INSERT INTO revision ({COLUMNS}, changes) VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8, ?9, ?10)"
        ))?
        .execute((
            number,
            state.hash().to_string(),
            &author.name,
            &author.comment,
            now_unix_ms(),
            state.len(),
            counts.added,
            counts.changed,
            counts.removed,
            write_changes(&plan.changes),
        ))?;
    let RevisionCounts {
        added,
        changed,
        removed,
    } = counts;
    let detail = format!(
        "{added} added, {changed} changed, {removed} removed; hash {}",
        state.hash()
    );
    write_audit(transaction, &author.name, "revision", &detail, Some(number))
}

/// Drops revisions up to and with `number`, and what only they had.
fn forget_before(transaction: &Transaction<'_>, number: u64) -> rusqlite::Result<()> {
    if transaction.execute("DELETE FROM revision WHERE number <= ?1", [number])? > 0 {
        transaction.execute("DELETE FROM document WHERE until <= ?1 + 1", [number])?;
        transaction.execute(
            "DELETE FROM blob WHERE NOT EXISTS (SELECT 1 FROM document WHERE document.blob = blob.hash)",
            [],
        )?;
        content::sweep(transaction)?;
    }
    Ok(())
}

/// A change as the database keeps it.
#[derive(Serialize, Deserialize)]
struct StoredChange {
    change: String,
    kind: String,
    name: String,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    fields: Vec<StoredField>,
}

#[derive(Serialize, Deserialize)]
struct StoredField {
    path: String,
    before: Option<String>,
    after: Option<String>,
}

fn write_changes(changes: &[Change]) -> String {
    let stored: Vec<StoredChange> = changes
        .iter()
        .map(|Change { key, what }| {
            let (change, fields) = match what {
                ChangeKind::Added => ("added", &[][..]),
                ChangeKind::Removed => ("removed", &[][..]),
                ChangeKind::Changed(fields) => ("changed", &fields[..]),
            };
            let field = |field: &FieldChange| StoredField {
                path: field.path.clone(),
                before: field.before.clone(),
                after: field.after.clone(),
            };
            StoredChange {
                change: change.to_owned(),
                kind: key.kind.to_string(),
                name: key.name.to_string(),
                fields: fields.iter().map(field).collect(),
            }
        })
        .collect();
    serde_json::to_string(&stored).expect("text is always JSON")
}

fn read_changes(text: &str) -> Result<Vec<Change>, String> {
    let stored: Vec<StoredChange> =
        serde_json::from_str(text).map_err(|error| error.to_string())?;
    let change = |stored: StoredChange| {
        let field = |field: StoredField| FieldChange {
            path: field.path,
            before: field.before,
            after: field.after,
        };
        let what = match stored.change.as_str() {
            "added" => ChangeKind::Added,
            "removed" => ChangeKind::Removed,
            "changed" => ChangeKind::Changed(stored.fields.into_iter().map(field).collect()),
            other => return Err(format!("`{other}` is not a change")),
        };
        Ok(Change {
            key: Key::parse(&stored.kind, &stored.name)?,
            what,
        })
    };
    stored.into_iter().map(change).collect()
}
