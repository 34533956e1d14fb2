//! Chunks as bytes.
//!
//! | chunk | bytes |
//! |---|---|
//! | leaf | `4` or `6`, then prefixes: address (4 or 16 bytes, network order), length |
//! | branch | `B`, then spans of leaves |
//! | root | `R`, version 1, then spans of branches |
//!
//! A span is `4` or `6`, the number of prefixes (4 bytes, network order), the chunk's hash (32), and the first prefix as in
//! a leaf of that family.

use std::collections::BTreeMap;
use std::net::IpAddr;

use march_model::{ContentHash, Family, Prefix};

/// The largest chunk, in bytes: what one message can carry.
pub const MAX_CHUNK_BYTES: usize = 512 << 10;

const BRANCH: u8 = b'B';
const ROOT: u8 = b'R';
const VERSION: u8 = 1;

/// A chunk with its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Chunk {
    /// SHA-256 of the bytes.
    pub hash: ContentHash,
    /// The bytes.
    pub bytes: Vec<u8>,
}

impl Chunk {
    /// Names some bytes.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self {
            hash: ContentHash::of(&bytes),
            bytes,
        }
    }
}

/// Why content cannot be read.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ContentError {
    /// It is not here.
    #[error("chunk {hash} is not here")]
    Missing {
        /// Which.
        hash: ContentHash,
    },
    /// It is not what its name says, or does not follow the format.
    #[error("chunk {hash} is damaged: {why}")]
    Damaged {
        /// Which.
        hash: ContentHash,
        /// What is wrong with it.
        why: String,
    },
    /// Where it is kept cannot be read.
    #[error("chunk {hash} cannot be read: {why}")]
    Unreadable {
        /// Which.
        hash: ContentHash,
        /// Why.
        why: String,
    },
}

/// Where chunks are kept.
pub trait Chunks {
    /// The bytes of a chunk. Who keeps them where they can change unseen checks them against the hash.
    fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, ContentError>;

    /// Whether it is here.
    fn has(&self, hash: &ContentHash) -> bool;
}

/// Chunks in memory.
#[derive(Clone, Debug, Default)]
pub struct Memory(BTreeMap<ContentHash, Vec<u8>>);

impl Memory {
    /// Keeps a chunk.
    pub fn insert(&mut self, chunk: Chunk) {
        self.0.insert(chunk.hash, chunk.bytes);
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl Extend<Chunk> for Memory {
    fn extend<T: IntoIterator<Item = Chunk>>(&mut self, chunks: T) {
        for chunk in chunks {
            self.insert(chunk);
        }
    }
}

impl Chunks for Memory {
    fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, ContentError> {
        let found = self.0.get(hash).cloned();
        found.ok_or(ContentError::Missing { hash: *hash })
    }

    fn has(&self, hash: &ContentHash) -> bool {
        self.0.contains_key(hash)
    }
}

/// What a branch or a root says of a chunk below it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Span {
    pub hash: ContentHash,
    /// Prefixes below it.
    pub count: u32,
    /// The lowest of them.
    pub first: Prefix,
}

/// What the format says of a family.
fn tag(family: Family) -> u8 {
    match family {
        Family::V4 => b'4',
        Family::V6 => b'6',
    }
}

fn write_prefix(prefix: Prefix, bytes: &mut Vec<u8>) {
    match prefix.address() {
        IpAddr::V4(address) => bytes.extend(address.octets()),
        IpAddr::V6(address) => bytes.extend(address.octets()),
    }
    bytes.push(prefix.length());
}

/// A leaf of prefixes of one family.
pub(crate) fn leaf(prefixes: &[Prefix]) -> Chunk {
    let family = prefixes[0].family();
    let mut bytes = Vec::with_capacity(1 + prefixes.len() * 17);
    bytes.push(tag(family));
    for prefix in prefixes {
        debug_assert_eq!(prefix.family(), family, "a leaf has one family");
        write_prefix(*prefix, &mut bytes);
    }
    Chunk::new(bytes)
}

pub(crate) fn branch(spans: &[Span]) -> Chunk {
    listing(vec![BRANCH], spans)
}

pub(crate) fn root(spans: &[Span]) -> Chunk {
    listing(vec![ROOT, VERSION], spans)
}

fn listing(mut bytes: Vec<u8>, spans: &[Span]) -> Chunk {
    for span in spans {
        bytes.push(tag(span.first.family()));
        bytes.extend(span.count.to_be_bytes());
        bytes.extend(span.hash.as_bytes());
        write_prefix(span.first, &mut bytes);
    }
    Chunk::new(bytes)
}

/// Reads a chunk from its first byte to its last; what is missing or wrong is damage.
struct Reading<'a> {
    rest: &'a [u8],
}

type Read<T> = Result<T, String>;

impl<'a> Reading<'a> {
    fn take(&mut self, count: usize) -> Read<&'a [u8]> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or("it is cut off")?;
        self.rest = rest;
        Ok(taken)
    }

    fn array<const N: usize>(&mut self) -> Read<[u8; N]> {
        Ok(self.take(N)?.try_into().expect("just so many were taken"))
    }

    fn family(&mut self) -> Read<Family> {
        match self.array::<1>()? {
            [b'4'] => Ok(Family::V4),
            [b'6'] => Ok(Family::V6),
            [other] => Err(format!("{other:#04x} is not a family")),
        }
    }

    fn prefix(&mut self, family: Family) -> Read<Prefix> {
        let address = match family {
            Family::V4 => IpAddr::from(self.array::<4>()?),
            Family::V6 => IpAddr::from(self.array::<16>()?),
        };
        let [length] = self.array()?;
        Prefix::new(address, length).ok_or_else(|| format!("{address}/{length} is not a prefix"))
    }

    fn span(&mut self) -> Read<Span> {
        let family = self.family()?;
        let count = u32::from_be_bytes(self.array()?);
        let hash = ContentHash::from_bytes(self.array()?);
        let first = self.prefix(family)?;
        Ok(Span { hash, count, first })
    }

    fn spans(mut self) -> Read<Vec<Span>> {
        let mut spans: Vec<Span> = Vec::new();
        while !self.rest.is_empty() {
            let span = self.span()?;
            if spans.last().is_some_and(|last| last.first >= span.first) {
                return Err(format!("{} is out of order", span.first));
            }
            spans.push(span);
        }
        Ok(spans)
    }
}

fn damaged<T>(hash: &ContentHash, read: Read<T>) -> Result<T, ContentError> {
    read.map_err(|why| ContentError::Damaged { hash: *hash, why })
}

/// The prefixes of a leaf, at the end of `prefixes`.
pub(crate) fn read_leaf(
    hash: &ContentHash,
    bytes: &[u8],
    prefixes: &mut Vec<Prefix>,
) -> Result<(), ContentError> {
    let mut read = || -> Read<()> {
        let mut reading = Reading { rest: bytes };
        let family = reading.family()?;
        let start = prefixes.len();
        while !reading.rest.is_empty() {
            let prefix = reading.prefix(family)?;
            if prefixes[start..].last().is_some_and(|last| *last >= prefix) {
                return Err(format!("{prefix} is out of order"));
            }
            prefixes.push(prefix);
        }
        Ok(())
    };
    damaged(hash, read())
}

/// The leaves that a branch lists.
pub(crate) fn read_branch(hash: &ContentHash, bytes: &[u8]) -> Result<Vec<Span>, ContentError> {
    let read = match bytes.split_first() {
        Some((&BRANCH, rest)) => Reading { rest }.spans(),
        _ => Err("it is not a branch".to_owned()),
    };
    damaged(hash, read)
}

/// The branches that a root lists.
pub(crate) fn read_root(hash: &ContentHash, bytes: &[u8]) -> Result<Vec<Span>, ContentError> {
    let read = match bytes {
        [ROOT, VERSION, rest @ ..] => Reading { rest }.spans(),
        [ROOT, other, ..] => Err(format!("it is of version {other}, known is {VERSION}")),
        _ => Err("it is not a root".to_owned()),
    };
    damaged(hash, read)
}

// Whatever the contents, no chunk is longer than a message may be.
const _: () = {
    let longest_leaf = 1 + crate::cut::LEAF.most * 17;
    let span = 1 + 4 + 32 + 17;
    let longest_branch = 1 + crate::cut::BRANCH.most * span;
    // Leaves at their shortest, in branches at their shortest.
    let shortest = crate::cut::LEAF.window * crate::cut::BRANCH.window;
    let longest_root = 2 + (crate::MAX_PREFIXES / shortest + 4) * span;
    assert!(longest_leaf <= MAX_CHUNK_BYTES);
    assert!(longest_branch <= MAX_CHUNK_BYTES);
    assert!(longest_root <= MAX_CHUNK_BYTES);
};
