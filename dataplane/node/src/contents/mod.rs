//! What the address sets of a revision hold: fetched by hash, kept on disk, compiled into what lcores look up.
//!
//! A set in a document is either a short list or the name of a content. [`Contents::lacking`] says which chunks of
//! contents this node does not have, [`Contents::take`] takes them as they come, [`Contents::sets`] makes the prefix sets.
//! A content that differs little from what the set held before is made from that by the difference, so that one prefix
//! changed costs the few chunks that it moved.
//!
//! [`Contents::keep`] puts what a revision needs on disk before that revision is called good; what none of the last good
//! ones needs is removed.

mod files;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io;
use std::path::Path;
use std::sync::Arc;

use march_content::{Chunk, Chunks, ContentError};
use march_model::{AddressSet as Document, ContentHash, FieldError, Metadata, Prefix, State};
use march_tables::{AddressSet, PrefixSet};
use march_wire::tuple::IpPrefix;

use files::ChunkFiles;

const DIRECTORY: &str = "chunks";

/// How many of the last good revisions may need their chunks: the two that are on disk, and one that is just replaced.
const GOOD_ONES: usize = 3;

/// A difference of more than this share of a set is no difference: making it anew is quicker.
const LARGE_SHARE: usize = 8;

/// Chunks and what was made of them. A clone knows the same files.
#[derive(Clone, Debug)]
pub struct Contents {
    files: Arc<ChunkFiles>,
    /// Chunks that are not on disk yet.
    fresh: BTreeMap<ContentHash, Vec<u8>>,
    /// What the sets hold, by name, as they were made last.
    made: BTreeMap<Box<str>, AddressSet>,
    /// Roots of the last good revisions, the newest last.
    good: VecDeque<BTreeSet<ContentHash>>,
}

/// The sets of a revision.
pub type Sets = Arc<[AddressSet]>;

impl Contents {
    /// What the state directory has.
    #[must_use]
    pub fn open(state_dir: &Path) -> Self {
        Self {
            files: Arc::new(ChunkFiles::open(state_dir.join(DIRECTORY))),
            fresh: BTreeMap::new(),
            made: BTreeMap::new(),
            good: VecDeque::new(),
        }
    }

    /// Chunks that this revision needs and that are not here, as far as their names are known; asked for again once
    /// they have come, until there is none.
    pub fn lacking(&self, state: &State) -> Result<Vec<ContentHash>, Vec<FieldError>> {
        let mut lacking = BTreeSet::new();
        let mut errors = Vec::new();
        for (metadata, root) in roots(state) {
            if self.is_made(metadata, &root) {
                continue;
            }
            match march_content::lacking(self, &root) {
                Ok(hashes) => lacking.extend(hashes),
                Err(error) => errors.push(refusal(metadata, &error)),
            }
        }
        if errors.is_empty() {
            Ok(lacking.into_iter().collect())
        } else {
            Err(errors)
        }
    }

    fn is_made(&self, metadata: &Metadata, root: &ContentHash) -> bool {
        let made = self.made.get(metadata.name.as_str());
        made.is_some_and(|made| made.content == *root.as_bytes())
    }

    /// Takes a chunk if it was asked for; whether it was, and was not here before.
    pub fn take(&mut self, asked: &[ContentHash], bytes: Vec<u8>) -> bool {
        let Chunk { hash, bytes } = Chunk::new(bytes);
        let is_wanted = asked.contains(&hash) && !self.files.has(&hash);
        is_wanted && self.fresh.insert(hash, bytes).is_none()
    }

    /// The sets of a revision, sorted by name. What it needs must be here.
    pub fn sets(&self, state: &State) -> Result<Sets, Vec<FieldError>> {
        let mut sets = Vec::new();
        let mut errors = Vec::new();
        for (metadata, document) in state.address_sets() {
            match self.set(metadata, document) {
                Ok(set) => sets.push(set),
                Err(error) => errors.push(refusal(metadata, &error)),
            }
        }
        if errors.is_empty() {
            Ok(sets.into())
        } else {
            Err(errors)
        }
    }

    /// Notes the sets that run, for the next ones to be made from.
    pub fn adopt(&mut self, sets: &Sets) {
        let made = sets.iter().map(|set| (set.name.clone(), set.clone()));
        self.made = made.collect();
    }

    fn set(&self, metadata: &Metadata, document: &Document) -> Result<AddressSet, ContentError> {
        let name: Box<str> = metadata.name.as_str().into();
        let made = self.made.get(&name);
        let (root, prefixes) = match document {
            Document::Prefixes(prefixes) => {
                let root = march_content::build(prefixes.clone()).content.root;
                (root, Some(prefixes))
            }
            Document::Content(content) => (content.hash, None),
        };
        if let Some(made) = made
            && made.content == *root.as_bytes()
        {
            return Ok(made.clone());
        }
        let prefixes = match prefixes {
            Some(prefixes) => PrefixSet::new(&wire(prefixes)),
            None => self.prefix_set(made, &root)?,
        };
        Ok(AddressSet {
            name,
            content: *root.as_bytes(),
            prefixes: Arc::new(prefixes),
        })
    }

    /// What a content holds, from what the set held before if that is close.
    fn prefix_set(
        &self,
        before: Option<&AddressSet>,
        root: &ContentHash,
    ) -> Result<PrefixSet, ContentError> {
        let leaves = march_content::walk(self, root)?;
        let count: usize = leaves.iter().map(|(_, count)| count).sum();
        if let Some(before) = before {
            let from = ContentHash::from_bytes(before.content);
            // Where the chunks of what was before are gone, it is made anew.
            if let Ok(between) = march_content::difference(self, &from, root)
                && between.added.len() + between.removed.len() <= count / LARGE_SHARE
            {
                let (added, removed) = (wire(&between.added), wire(&between.removed));
                return Ok(before.prefixes.with_changes(&added, &removed));
            }
        }
        let mut prefixes = Vec::with_capacity(count);
        for (leaf, _) in leaves {
            prefixes.extend(wire(&march_content::prefixes_of(self, &leaf)?));
        }
        Ok(PrefixSet::new(&prefixes))
    }

    /// Puts the chunks of a revision on disk. Until that has gone well they stay in memory.
    pub fn keep(&mut self, state: &State) -> io::Result<()> {
        if self.fresh.is_empty() {
            return Ok(());
        }
        let roots: Vec<ContentHash> = roots(state).map(|(_, root)| root).collect();
        let needed = march_content::reachable(self, &roots).map_err(io::Error::other)?;
        // What else came belongs to revisions that were refused, passed over, or replaced while the disk was full.
        self.fresh.retain(|hash, _| needed.contains(hash));
        let fresh = self.fresh.iter();
        self.files
            .keep(fresh.map(|(hash, bytes)| (hash, &bytes[..])))?;
        self.fresh.clear();
        Ok(())
    }

    /// Notes that a revision is the last good one now, and removes what none of those needs.
    pub fn on_good(&mut self, state: &State) {
        let now: BTreeSet<ContentHash> = roots(state).map(|(_, root)| root).collect();
        let is_same = self.good.iter().all(|roots| *roots == now);
        self.note_good(now);
        if is_same && self.good.len() == GOOD_ONES {
            return;
        }
        let kept: BTreeSet<ContentHash> = self.good.iter().flatten().copied().collect();
        let kept: Vec<ContentHash> = kept.into_iter().collect();
        // What cannot be listed is not known to be of no use.
        if let Ok(needed) = march_content::reachable(self, &kept) {
            self.files.retain(&needed);
        }
    }

    /// Notes what a last good revision on disk needs; the oldest first.
    pub fn note_good(&mut self, roots: BTreeSet<ContentHash>) {
        self.good.push_back(roots);
        if self.good.len() > GOOD_ONES {
            self.good.pop_front();
        }
    }

    /// Sets that need one of these chunks, as errors that say so.
    #[must_use]
    pub fn not_to_be_had(&self, state: &State, hashes: &[ContentHash]) -> Vec<FieldError> {
        let needs = |root: &ContentHash| {
            march_content::lacking(self, root).map_or_else(
                |_| None,
                |lacking| lacking.into_iter().find(|hash| hashes.contains(hash)),
            )
        };
        roots(state)
            .filter_map(|(metadata, root)| Some((metadata, needs(&root)?)))
            .map(|(metadata, hash)| refused(metadata, format!("marchd does not have chunk {hash}")))
            .collect()
    }
}

impl Chunks for Contents {
    fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, ContentError> {
        match self.fresh.get(hash) {
            Some(bytes) => Ok(bytes.clone()),
            None => self.files.read(hash),
        }
    }

    fn has(&self, hash: &ContentHash) -> bool {
        self.fresh.contains_key(hash) || self.files.has(hash)
    }
}

/// The contents that the documents of a revision name.
pub fn roots(state: &State) -> impl Iterator<Item = (&Metadata, ContentHash)> {
    state
        .address_sets()
        .filter_map(|(metadata, set)| match set {
            Document::Content(content) => Some((metadata, content.hash)),
            Document::Prefixes(_) => None,
        })
}

fn wire(prefixes: &[Prefix]) -> Vec<IpPrefix> {
    let one = |prefix: &Prefix| {
        IpPrefix::new(prefix.address(), prefix.length()).expect("a prefix has no host bits")
    };
    prefixes.iter().map(one).collect()
}

fn refusal(metadata: &Metadata, error: &ContentError) -> FieldError {
    refused(metadata, error.to_string())
}

fn refused(metadata: &Metadata, message: String) -> FieldError {
    let document = format!("AddressSet/{}", metadata.name);
    FieldError::of_document(document, "spec.content.hash", message)
}

#[cfg(test)]
mod tests;
