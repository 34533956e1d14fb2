//! The desired state: documents as people write them, as types that are valid by construction.
//!
//! What it is: reading YAML and JSON with the place of every value ([`Batch::parse`]), the kinds of document
//! ([`Port`], [`Service`], [`Pool`], [`Rule`], [`AddressSet`], [`RateLimit`], [`Mapping`]), what must hold across a set ([`State::plan`]), the canonical form with
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

mod address_set;
mod batch;
mod check;
mod criteria;
mod diff;
mod document;
mod effective;
mod error;
mod execution;
mod mapping;
mod matches;
mod name;
mod place;
mod pool;
mod port;
mod rate_limit;
mod references;
mod rule;
mod scalar;
mod service;
mod shadow;
mod source;
mod state;
mod suggest;
mod time;
mod tree;

pub use address_set::{AddressSet, Content, MAX_INLINE_PREFIXES, MAX_PREFIXES, MAX_SET_PREFIXES};
pub use batch::Batch;
pub use check::{MAX_PER_KIND, MAX_SET_BYTES};
pub use criteria::{Dscp, IcmpMessage, TcpFlag, TcpFlags, Vlan, Wholeness};
pub use diff::{Change, ChangeKind, FieldChange};
pub use document::{
    API_VERSION, ContentHash, DEFAULT_CLUSTER, Document, MAX_LABELS, Metadata, Spec,
};
pub use effective::{EffectiveRule, EffectiveRules};
pub use error::{FieldError, Invalid};
pub use execution::{ExecutionPlace, Need, Placed, Plane, execution_place};
pub use mapping::{
    Approval, ApprovalState, COLLECTION_LABEL, DEFAULT_MAPPING_PRIORITY, Endpoint, Mapping,
};
pub use matches::Match;
pub use name::{InterfaceName, Key, Kind, Name};
pub use pool::{Algorithm, Backend, HealthCheck, MAX_WEIGHT, Pool, Probe};
pub use port::{
    DEFAULT_NAT_PORTS, Guard, KERNEL_EPHEMERAL_PORTS, Nat, Port, Stance, TierChoice, Unmatched,
};
pub use rate_limit::{
    MAX_BITS, MAX_BURST_BYTES, MAX_PACKETS, PrefixLengths, Rate, RateLimit, Scope,
};
pub use references::MAX_RULES;
pub use rule::{
    Action, DEFAULT_MIRROR_RATE, MAX_MIRROR_RATE, MAX_PRIORITY, Mirror, Redirect, Rule, SourceNat,
};
pub use scalar::{DurationMs, Family, PortRange, Prefix, Protocol, Transport};
pub use service::{Affinity, MAX_SERVICE_LIMIT, Mode, Service, ServiceLimits, Timeouts};
pub use source::{MAX_FILE_BYTES, MAX_TOTAL_BYTES, STDIN, Source, read_sources};
pub use state::{Others, Plan, State};
pub use time::Timestamp;
pub use tree::{MAX_DEPTH, MAX_DOCUMENTS, MAX_NODES};
