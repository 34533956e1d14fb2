//! The desired state: documents as people write them, as types that are valid by construction.
//!
//! What it is: reading YAML and JSON with the place of every value ([`Batch::parse`]), the four kinds of document
//! ([`Port`], [`Service`], [`Pool`], [`Rule`]), what must hold across a set ([`State::plan`]), the canonical form with
//! its hash, and differences. What it is not: it stores nothing and talks to nobody; where a thing runs is the node's
//! decision.
//!
//! Entry points: [`read_sources`] → [`Batch::parse`] → [`State::plan`] for what an operator wrote;
//! [`State::from_canonical`] and [`State::apply_delta`] for what a node was sent.
//!
//! Invariants: a [`Document`] and a [`State`] are valid and immutable; equal content has equal canonical text and an
//! equal hash, whatever the order, format and defaults in which it was written; every error is found in one go, with
//! file, line, column and field path; input is bounded before memory is spent on it.
#![forbid(unsafe_code)]

mod batch;
mod check;
mod diff;
mod document;
mod error;
mod name;
mod place;
mod pool;
mod port;
mod rule;
mod scalar;
mod service;
mod source;
mod state;
mod suggest;
mod tree;

pub use batch::Batch;
pub use check::{MAX_PER_KIND, MAX_SET_BYTES};
pub use diff::{Change, ChangeKind, FieldChange};
pub use document::{
    API_VERSION, ContentHash, DEFAULT_CLUSTER, Document, MAX_LABELS, Metadata, Spec,
};
pub use error::{FieldError, Invalid};
pub use name::{InterfaceName, Key, Kind, Name};
pub use pool::{Algorithm, Backend, HealthCheck, MAX_WEIGHT, Pool, Probe};
pub use port::{DEFAULT_NAT_PORTS, KERNEL_EPHEMERAL_PORTS, Nat, Port, TierChoice};
pub use rule::{Action, MAX_PRIORITY, Match, Rule};
pub use scalar::{DurationMs, Family, PortRange, Prefix, Protocol, Transport};
pub use service::{Affinity, Mode, Service, Timeouts};
pub use source::{MAX_FILE_BYTES, MAX_TOTAL_BYTES, STDIN, Source, read_sources};
pub use state::{Others, Plan, State};
pub use tree::{MAX_DEPTH, MAX_DOCUMENTS, MAX_NODES};
