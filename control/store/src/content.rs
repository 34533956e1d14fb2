//! Contents of address sets: chunks beside the revisions, kept as long as a kept revision names them.

use march_content::{Chunk, Chunks, ContentError};
use march_model::{AddressSet, Content, ContentHash, Document, Plan, Spec};
use rusqlite::{Connection, OptionalExtension, Transaction};

use crate::Store;
use crate::error::StoreError;

/// Contents that no revision names are swept out once there are so many of them, or once they are this large: sweeping
/// looks at every chunk.
const SWEEP_AFTER_ROOTS: u64 = 64;
const SWEEP_AFTER_BYTES: u64 = 1 << 20;

/// What a document holds beside itself.
fn content_of(document: &Document) -> Option<Content> {
    match document.spec() {
        Spec::AddressSet(AddressSet::Content(content)) => Some(*content),
        _ => None,
    }
}

/// The documents of a plan that are new or changed and have content.
fn named(plan: &Plan) -> impl Iterator<Item = (&Document, Content)> {
    let documents = plan.changes.iter();
    documents
        .filter_map(|change| plan.state.get(&change.key))
        .filter_map(|document| Some((document, content_of(document)?)))
}

impl Store {
    /// The bytes of a chunk, checked against its name; none if it is not stored.
    pub fn chunk(&self, hash: &ContentHash) -> Result<Option<Vec<u8>>, StoreError> {
        match Stored(&self.connection).read(hash) {
            Ok(bytes) => Ok(Some(bytes)),
            Err(ContentError::Missing { .. }) => Ok(None),
            Err(error @ ContentError::Damaged { .. }) => Err(StoreError::Corrupt {
                path: self.path.clone(),
                detail: error.to_string(),
            }),
            Err(ContentError::Unreadable { .. }) => {
                // Once more, for the error as SQLite gives it.
                let error = stored_bytes(&self.connection, hash).err();
                Err(self.failed(error.unwrap_or(rusqlite::Error::InvalidQuery)))
            }
        }
    }

    /// What the documents that a plan changes name must be stored, or among `chunks`, and be what they say.
    pub fn check_contents(&self, plan: &Plan, chunks: &[Chunk]) -> Result<(), StoreError> {
        for (document, content) in named(plan) {
            let brought = chunks.iter().find(|chunk| chunk.hash == content.hash);
            let root = match brought {
                Some(chunk) => Some(chunk.bytes.clone()),
                None => self.chunk(&content.hash)?,
            };
            let name = || document.key().to_string();
            let missing = |hint| StoreError::NoContent {
                document: name(),
                content: content.hash,
                hint,
            };
            let root = root.ok_or_else(|| missing("; load it with `marchctl set load`"))?;
            // A chunk that is not a root is no content either.
            let stored = march_content::count(&content.hash, &root)
                .map_err(|_| missing(": that is another kind of chunk"))?;
            if u32::try_from(stored) != Ok(content.prefixes) {
                return Err(StoreError::WrongContent {
                    document: name(),
                    content: content.hash,
                    said: content.prefixes,
                    stored,
                });
            }
        }
        Ok(())
    }
}

impl Chunks for Store {
    fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, ContentError> {
        Stored(&self.connection).read(hash)
    }

    fn has(&self, hash: &ContentHash) -> bool {
        Stored(&self.connection).has(hash)
    }
}

/// The table of chunks.
struct Stored<'a>(&'a Connection);

fn stored_bytes(connection: &Connection, hash: &ContentHash) -> rusqlite::Result<Option<Vec<u8>>> {
    connection
        .prepare_cached("SELECT bytes FROM chunk WHERE hash = ?1")?
        .query_row([hash.as_bytes()], |row| row.get(0))
        .optional()
}

impl Chunks for Stored<'_> {
    fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, ContentError> {
        let bytes = stored_bytes(self.0, hash).map_err(|error| ContentError::Unreadable {
            hash: *hash,
            why: error.to_string(),
        })?;
        let bytes = bytes.ok_or(ContentError::Missing { hash: *hash })?;
        if ContentHash::of(&bytes) == *hash {
            Ok(bytes)
        } else {
            let why = "its bytes have another hash".to_owned();
            Err(ContentError::Damaged { hash: *hash, why })
        }
    }

    fn has(&self, hash: &ContentHash) -> bool {
        let found = self
            .0
            .prepare_cached("SELECT 1 FROM chunk WHERE hash = ?1")
            .and_then(|mut select| select.exists([hash.as_bytes()]));
        found.unwrap_or(false)
    }
}

/// Stores the chunks that are not there yet.
pub(crate) fn write_chunks(
    transaction: &Transaction<'_>,
    chunks: &[Chunk],
) -> rusqlite::Result<()> {
    let mut insert = transaction
        .prepare_cached("INSERT INTO chunk (hash, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    for chunk in chunks {
        insert.execute((chunk.hash.as_bytes(), &chunk.bytes))?;
    }
    Ok(())
}

/// Notes which stored documents name which contents.
pub(crate) fn write_roots(
    transaction: &Transaction<'_>,
    plan: &Plan,
    chunks: &[Chunk],
) -> rusqlite::Result<()> {
    let mut name = transaction.prepare_cached(
        "INSERT INTO content (blob, root) VALUES (?1, ?2) ON CONFLICT DO NOTHING",
    )?;
    let mut keep = transaction
        .prepare_cached("INSERT INTO root (hash, bytes) VALUES (?1, ?2) ON CONFLICT DO NOTHING")?;
    let bytes: usize = chunks.iter().map(|chunk| chunk.bytes.len()).sum();
    for (document, content) in named(plan) {
        name.execute((document.hash().to_string(), content.hash.as_bytes()))?;
        keep.execute((content.hash.as_bytes(), bytes))?;
    }
    Ok(())
}

/// Drops the chunks that no kept revision needs, when that is worth the look.
pub(crate) fn sweep(transaction: &Transaction<'_>) -> rusqlite::Result<()> {
    let dead = "FROM root WHERE NOT EXISTS (SELECT 1 FROM content WHERE content.root = root.hash)";
    let (roots, bytes): (u64, u64) = transaction
        .prepare_cached(&format!("SELECT count(*), coalesce(sum(bytes), 0) {dead}"))?
        .query_row([], |row| Ok((row.get(0)?, row.get(1)?)))?;
    if roots < SWEEP_AFTER_ROOTS && bytes < SWEEP_AFTER_BYTES {
        return Ok(());
    }
    let hashes = |query: &str| -> rusqlite::Result<Vec<ContentHash>> {
        transaction
            .prepare_cached(query)?
            .query_map([], |row| row.get(0).map(ContentHash::from_bytes))?
            .collect()
    };
    let live = hashes("SELECT DISTINCT root FROM content")?;
    // Content that cannot be read is no reason to refuse a change that has nothing to do with it; nothing is dropped then.
    let Ok(needed) = march_content::reachable(&Stored(transaction), &live) else {
        return Ok(());
    };
    let mut drop_one = transaction.prepare_cached("DELETE FROM chunk WHERE hash = ?1")?;
    for hash in hashes("SELECT hash FROM chunk")? {
        if !needed.contains(&hash) {
            drop_one.execute([hash.as_bytes()])?;
        }
    }
    transaction.execute(&format!("DELETE {dead}"), []).map(drop)
}
