//! What an address set holds, as chunks that are named by what is in them.
//!
//! What it is: the form in which the prefixes of a set are stored, sent and compared. Sorted, without duplicates, IPv4
//! before IPv6, they are cut into leaves of about a thousand; the leaves are listed in branches, the branches in one
//! root. Each of these is a chunk, named by the SHA-256 of its bytes, and the name of the root is the content hash that
//! a document carries. Where a leaf ends is decided by the prefixes around that place and not by how many come before, so
//! that a prefix added or taken out replaces one or two leaves, the branch above and the root, and nothing else. What it
//! is not: it stores and sends nothing; [`Chunks`] is where it reads.
//!
//! Entry points: [`build`] and [`edit`] make content, [`walk`], [`difference`] and [`longest`] read it, [`lacking`] says
//! what to fetch, [`List`] reads prefixes as people write them.
//!
//! Invariants: equal prefixes have equal content, whatever the order and the edits by which they came; a chunk is never
//! larger than [`MAX_CHUNK_BYTES`]; what a chunk says is checked before it is used.
#![forbid(unsafe_code)]

mod chunk;
mod cut;
mod list;
mod tree;

pub use chunk::{Chunk, Chunks, ContentError, MAX_CHUNK_BYTES, Memory};
pub use list::{LineError, List, ListError, MAX_LINE_ERRORS};
pub use tree::{
    Content, Difference, Edited, build, count, difference, edit, lacking, longest, prefixes_of,
    reachable, walk,
};

/// The most prefixes that one set holds.
pub const MAX_PREFIXES: usize = march_model::MAX_SET_PREFIXES as usize;
