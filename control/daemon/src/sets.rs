//! What address sets hold: loaded, exported, looked into, and handed to nodes chunk by chunk.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;

use march_content::{Chunk, Chunks, Content, ContentError, List, ListError, MAX_PREFIXES, Memory};
use march_model::{
    AddressSet, Batch, ContentHash, FieldError, Invalid, Key, Kind, Name, Others, Plan, Prefix,
    Source, Spec, State,
};
use march_proto::v1::set_load_request::Part;
use march_proto::{MAX_CHUNK_HASHES, MAX_CHUNKS_BYTES, status, v1};
use march_store::{Store, StoreError};
use serde_json::{Value, json};
use tokio::sync::mpsc;
use tonic::{Status, Streaming};

use crate::apply::{self, Change, Terms};
use crate::errors;
use crate::shared::{Shared, blocking};

/// Leaves of a set that are read in one go, so that an export never holds the store for long.
const LEAVES_AT_ONCE: usize = 16;

/// How a set changes.
#[derive(Clone, Copy, Debug, Default)]
struct Counts {
    prefixes: usize,
    added: usize,
    removed: usize,
}

/// Reads a list and makes the revision in which the set has it.
pub(crate) async fn load(
    shared: &Arc<Shared>,
    author: String,
    mut stream: Streaming<v1::SetLoadRequest>,
) -> Result<v1::SetLoadResponse, Status> {
    let first = stream.message().await?.and_then(|request| request.part);
    let Some(Part::Terms(terms)) = first else {
        return Err(Status::invalid_argument(
            "the first message must have the terms",
        ));
    };
    let mode = terms.mode();
    if mode == v1::SetMode::Unspecified {
        return Err(Status::invalid_argument(
            "the mode is one of replace, add and remove",
        ));
    }
    let key = key_of(&terms.name)?;
    let prefixes = read(&key, &terms.file, stream).await?;
    if prefixes.is_empty() {
        let message =
            "there is no prefix in it; a set is not emptied by a list that came out empty";
        let error = FieldError {
            document: key.to_string(),
            ..FieldError::of_file(&terms.file, message.to_owned())
        };
        return Err(status::invalid(Invalid(vec![error])));
    }
    let v1::SetLoadTerms {
        comment,
        base_revision,
        wait_ms,
        ..
    } = terms;
    let terms = Terms::new(author, comment, base_revision, wait_ms)?;
    let change = move |state: &State, store: &Store| match mode {
        v1::SetMode::Remove => edit(state, store, &key, &[], &prefixes),
        v1::SetMode::Add => edit(state, store, &key, &prefixes, &[]),
        _ => replace(state, store, &key, prefixes),
    };
    let (applied, counts) = apply::commit_with(shared, terms, change).await?;
    Ok(v1::SetLoadResponse {
        applied: Some(applied),
        prefixes: counts.prefixes as u64,
        added: counts.added as u64,
        removed: counts.removed as u64,
    })
}

fn key_of(name: &str) -> Result<Key, Status> {
    let name: Name = name.parse().map_err(Status::invalid_argument)?;
    Ok(Key {
        kind: Kind::AddressSet,
        name,
    })
}

/// The list that a stream brings, read off the runtime's workers.
async fn read(
    key: &Key,
    file: &str,
    mut stream: Streaming<v1::SetLoadRequest>,
) -> Result<Vec<Prefix>, Status> {
    let mut list = List::default();
    while let Some(request) = stream.message().await? {
        let Some(Part::List(piece)) = request.part else {
            return Err(Status::invalid_argument("the terms come once"));
        };
        list = blocking(move || {
            list.push(&piece);
            Ok(list)
        })
        .await?;
        if list.is_beyond_bound() {
            break;
        }
    }
    let finished = blocking(move || Ok(list.finish())).await?;
    finished.map_err(|error| {
        let place = |line: u32, message: String| FieldError {
            document: key.to_string(),
            line,
            column: u32::from(line > 0),
            ..FieldError::of_file(file, message)
        };
        let errors = match error {
            ListError::Bound => vec![place(0, error.to_string())],
            ListError::Lines { errors, count } => {
                let hidden = count - errors.len();
                let more = (hidden > 0).then(|| place(0, format!("and {hidden} more wrong lines")));
                let lines = errors.into_iter();
                lines
                    .map(|error| place(error.line, error.message))
                    .chain(more)
                    .collect()
            }
        };
        status::invalid(Invalid(errors))
    })
}

/// What the set holds now, for a change: in the store, or in its document.
enum Held<'a> {
    Nothing,
    Inline(&'a [Prefix]),
    Stored(ContentHash),
}

fn held<'a>(state: &'a State, key: &Key) -> Held<'a> {
    match state.get(key).map(march_model::Document::spec) {
        Some(Spec::AddressSet(AddressSet::Prefixes(prefixes))) => Held::Inline(prefixes),
        Some(Spec::AddressSet(AddressSet::Content(content))) => Held::Stored(content.hash),
        _ => Held::Nothing,
    }
}

/// The set holds just these prefixes.
fn replace(
    state: &State,
    store: &Store,
    key: &Key,
    prefixes: Vec<Prefix>,
) -> Result<Change<Counts>, Status> {
    let built = march_content::build(prefixes);
    let mut fresh = Memory::default();
    fresh.extend(built.chunks.iter().cloned());
    let before = match held(state, key) {
        Held::Nothing => None,
        Held::Inline(inline) => {
            let inline = march_content::build(inline.to_vec());
            fresh.extend(inline.chunks);
            Some(inline.content.root)
        }
        Held::Stored(root) => Some(root),
    };
    let (mut added, mut removed) = (built.added, 0);
    if let Some(before) = before {
        let both = Both(store, &fresh);
        let between = march_content::difference(&both, &before, &built.content.root)
            .map_err(errors::content)?;
        (added, removed) = (between.added.len(), between.removed.len());
    }
    change(
        state,
        store,
        key,
        built.content,
        built.chunks,
        (added, removed),
    )
}

/// The set holds what it held, with some prefixes and without others.
fn edit(
    state: &State,
    store: &Store,
    key: &Key,
    add: &[Prefix],
    remove: &[Prefix],
) -> Result<Change<Counts>, Status> {
    let edited = match held(state, key) {
        Held::Nothing if add.is_empty() => {
            return Err(Status::not_found(format!("there is no {key}")));
        }
        Held::Nothing => march_content::build(add.to_vec()),
        Held::Stored(root) => {
            march_content::edit(store, &root, add, remove).map_err(errors::content)?
        }
        Held::Inline(inline) => {
            let before: BTreeSet<Prefix> = inline.iter().copied().collect();
            let mut after = before.clone();
            after.retain(|prefix| remove.binary_search(prefix).is_err());
            let removed = before.len() - after.len();
            after.extend(add);
            march_content::Edited {
                added: after.difference(&before).count(),
                removed,
                ..march_content::build(after.into_iter().collect())
            }
        }
    };
    if edited.content.prefixes > MAX_PREFIXES {
        return Err(Status::invalid_argument(format!(
            "{key} would have {} prefixes; the most that one set holds is {MAX_PREFIXES}",
            edited.content.prefixes
        )));
    }
    let moved = (edited.added, edited.removed);
    change(state, store, key, edited.content, edited.chunks, moved)
}

/// The revision in which the set has this content.
fn change(
    state: &State,
    store: &Store,
    key: &Key,
    content: Content,
    mut chunks: Vec<Chunk>,
    (added, removed): (usize, usize),
) -> Result<Change<Counts>, Status> {
    let is_there = state.get(key).is_some();
    let plan = if is_there && added == 0 && removed == 0 {
        chunks.clear();
        Plan {
            state: state.clone(),
            changes: Vec::new(),
            warnings: Vec::new(),
        }
    } else {
        chunks.retain(|chunk| !store.has(&chunk.hash));
        let source = Source {
            name: String::new(),
            text: document(state, key, content).to_string(),
        };
        let batch = Batch::parse(&[source]);
        let planned = state.plan(batch, Others::Keep, std::time::SystemTime::now().into());
        planned.map_err(|invalid| status::invalid(without_place(invalid)))?
    };
    let prefixes = content.prefixes;
    Ok(Change {
        plan,
        chunks,
        more: Counts {
            prefixes,
            added,
            removed,
        },
    })
}

/// The document as it is, or a new one, with other content.
fn document(state: &State, key: &Key, content: Content) -> Value {
    let written = state
        .get(key)
        .and_then(|document| serde_json::from_str(document.canonical()).ok());
    let mut document: Value = written.unwrap_or_else(|| {
        json!({
            "apiVersion": march_model::API_VERSION,
            "kind": key.kind.as_str(),
            "metadata": { "name": key.name.as_str() },
        })
    });
    document["spec"] = json!({
        "content": { "hash": content.root.to_string(), "prefixes": content.prefixes }
    });
    document
}

/// Nobody wrote the document that was read here.
fn without_place(mut invalid: Invalid) -> Invalid {
    for error in &mut invalid.0 {
        (error.line, error.column) = (0, 0);
    }
    invalid
}

/// Chunks that are stored, and those that are about to be.
struct Both<'a>(&'a Store, &'a Memory);

impl Chunks for Both<'_> {
    fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, ContentError> {
        self.1.read(hash).or_else(|_| self.0.read(hash))
    }

    fn has(&self, hash: &ContentHash) -> bool {
        self.1.has(hash) || self.0.has(hash)
    }
}

/// What a set holds at a revision.
async fn set_at(
    shared: &Arc<Shared>,
    name: &str,
    revision: u64,
) -> Result<(u64, AddressSet), Status> {
    let key = key_of(name)?;
    let (revision, state) = shared.state_at(revision).await?;
    match state.get(&key).map(march_model::Document::spec) {
        Some(Spec::AddressSet(set)) => Ok((revision, set.clone())),
        _ => Err(Status::not_found(format!(
            "there is no {key} in revision {revision}"
        ))),
    }
}

/// A set as text, in pieces.
pub(crate) async fn export(
    shared: &Arc<Shared>,
    request: v1::SetExportRequest,
) -> Result<mpsc::Receiver<Result<v1::SetExportResponse, Status>>, Status> {
    let (_, set) = set_at(shared, &request.name, request.revision).await?;
    let (sender, lists) = mpsc::channel(4);
    let shared = Arc::clone(shared);
    match set {
        AddressSet::Prefixes(prefixes) => {
            // There is room for one.
            let _ = sender.try_send(Ok(piece(&prefixes)));
        }
        AddressSet::Content(content) => {
            let root = content.hash;
            let leaves = move |_: &Shared, store: &mut Store| {
                march_content::walk(store, &root).map_err(errors::content)
            };
            let leaves = shared.with_store(leaves).await?;
            tokio::spawn(async move {
                for leaves in leaves.chunks(LEAVES_AT_ONCE) {
                    let leaves = leaves.to_vec();
                    let read = move |_: &Shared, store: &mut Store| {
                        let mut prefixes = Vec::new();
                        for (leaf, _) in leaves {
                            let more = march_content::prefixes_of(store, &leaf);
                            prefixes.extend(more.map_err(errors::content)?);
                        }
                        Ok(piece(&prefixes))
                    };
                    let piece = shared.with_store(read).await;
                    let is_over = piece.is_err();
                    if sender.send(piece).await.is_err() || is_over {
                        return;
                    }
                }
            });
        }
    }
    Ok(lists)
}

fn piece(prefixes: &[Prefix]) -> v1::SetExportResponse {
    use std::fmt::Write;
    let mut list = String::with_capacity(prefixes.len() * 20);
    for prefix in prefixes {
        writeln!(list, "{prefix}").expect("writing to a String cannot fail");
    }
    v1::SetExportResponse { list }
}

/// The longest prefix of a set that holds an address.
pub(crate) async fn contains(
    shared: &Arc<Shared>,
    request: v1::SetContainsRequest,
) -> Result<v1::SetContainsResponse, Status> {
    // As strict as prefixes are read: no IPv4-mapped IPv6.
    let host: Prefix = request.address.parse().map_err(Status::invalid_argument)?;
    let address: IpAddr = host.address();
    if host.to_string() != address.to_string() {
        return Err(Status::invalid_argument(format!(
            "`{host}` is a prefix; an address is looked up"
        )));
    }
    let (revision, set) = set_at(shared, &request.name, request.revision).await?;
    let found = match set {
        AddressSet::Prefixes(prefixes) => {
            let holding = prefixes
                .into_iter()
                .filter(|prefix| prefix.contains(address));
            holding.max_by_key(|prefix| prefix.length())
        }
        AddressSet::Content(content) => {
            let look = move |_: &Shared, store: &mut Store| {
                march_content::longest(store, &content.hash, address).map_err(errors::content)
            };
            shared.with_store(look).await?
        }
    };
    Ok(v1::SetContainsResponse {
        prefix: found.map_or_else(String::new, |prefix| prefix.to_string()),
        revision,
    })
}

/// Chunks for a node: as many as one answer takes.
pub(crate) async fn chunks(
    shared: &Arc<Shared>,
    hashes: Vec<Vec<u8>>,
) -> Result<v1::Chunks, Status> {
    if hashes.len() > MAX_CHUNK_HASHES {
        return Err(Status::invalid_argument(format!(
            "up to {MAX_CHUNK_HASHES} chunks can be asked for at once"
        )));
    }
    let read = move |_: &Shared, store: &mut Store| {
        let mut answer = v1::Chunks::default();
        let mut total = 0;
        for hash in hashes {
            let name: [u8; 32] = hash[..]
                .try_into()
                .map_err(|_| Status::invalid_argument("a hash has 32 bytes"))?;
            match store.chunk(&ContentHash::from_bytes(name)) {
                Ok(Some(bytes))
                    if answer.chunks.is_empty() || total + bytes.len() <= MAX_CHUNKS_BYTES =>
                {
                    total += bytes.len();
                    answer.chunks.push(bytes);
                }
                Ok(Some(_)) => break,
                Ok(None) => answer.unknown.push(hash),
                // The node says which it misses; what else it holds and runs is not touched.
                Err(error @ StoreError::Corrupt { .. }) => {
                    errors::store(error);
                    answer.unknown.push(hash);
                }
                Err(error) => return Err(errors::store(error)),
            }
        }
        Ok(answer)
    };
    shared.with_store(read).await
}
