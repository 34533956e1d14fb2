//! The gRPC interface of MarchProxy: package `marchproxy.v1`.
//!
//! What it is: the generated messages and services ([`v1`]), their conversions from and to the model ([`convert`]),
//! how errors travel in a status ([`status`]), and how to reach the daemon's socket ([`connect`]). What it is not: it
//! neither validates documents (`march-model`) nor decides anything. Entry points: [`connect::channel`],
//! [`v1::control_client`], [`v1::node_client`] and their servers. Invariant: the `.proto` files are the contract;
//! fields are only ever added.
#![forbid(unsafe_code)]

pub mod connect;
pub mod convert;
pub mod status;
mod words;

/// Messages and services of package `marchproxy.v1`, generated from `proto/`.
#[allow(
    missing_docs,
    clippy::pedantic,
    rustdoc::all,
    unused_qualifications,
    reason = "generated; the .proto files carry the documentation"
)]
pub mod v1 {
    tonic::include_proto!("marchproxy.v1");
}

/// The largest message, in bytes: all the files of one call, or every document of a snapshot.
pub const MAX_MESSAGE_BYTES: usize = 96 << 20;

/// How many chunks a node may ask for at once.
pub const MAX_CHUNK_HASHES: usize = 1_024;

/// How many bytes of chunks an answer has, unless its only chunk is larger.
pub const MAX_CHUNKS_BYTES: usize = 1 << 20;

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_SOCKET: &str = "/run/marchproxy/marchd.sock";

/// The group whose members may talk to the daemon, besides root.
pub const GROUP: &str = "marchproxy";

/// A node silent for longer counts as stale, in milliseconds.
pub const STALE_AFTER_MS: u64 = 10_000;

/// The daemon closes a session silent for longer, in milliseconds.
pub const CLOSE_AFTER_MS: u64 = 30_000;

const _: () = assert!(
    STALE_AFTER_MS < CLOSE_AFTER_MS,
    "stale is seen before the session is closed"
);
const _: () = assert!(MAX_MESSAGE_BYTES as u64 > march_model::MAX_TOTAL_BYTES + (16 << 20));
const _: () = assert!(MAX_MESSAGE_BYTES > march_model::MAX_SET_BYTES + (16 << 20));
