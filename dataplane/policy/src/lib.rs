//! The definition of what happens to a packet: (configuration, state, packet) in, decision with every reason out.
//!
//! What it is: the reference. Every tier must come to the same verdict, the same bytes and the same counts; where one does
//! not, it has a bug. Lists are searched from the front, checksums are computed in full, state is a map. What it is not: fast,
//! and never on an lcore; it shares no look-up, no rewrite and no transition table with the pipeline, only the parser and the
//! hash that balances ([`march_tables::Maglev`], which must be the same everywhere).
//!
//! Entry point: [`Policy::decide`]. What the data plane may choose freely (a source port out of a NAT pool, whose turn it is) is
//! given to it as [`Chance`]; [`Policy::follow`] reads it from what the data plane did. Two things that bound the data plane are not
//! here: its tables are never full, and which source gets which bucket never depends on others.
//!
//! # What happens to a packet, in this order
//!
//! 1. A checksum that a local peer left to hardware is completed, where the port says that this can be.
//! 2. The parser's checks; ARP and other link protocols end here: answered, for the kernel, or not for us at all.
//! 3. `guard`: of the sets that hold the source the longest prefix decides; then the rate of each source.
//! 4. Whose address it is: the kernel's and groups are punted, neighbour solicitations for ours answered.
//! 5. Fragments: rules are asked, then they are dropped. ICMP errors go to the flow that they quote. Echo to our own addresses is
//!    answered.
//! 6. `known`: a packet of a flow. If the policy changed since the flow was judged, it is judged again as its opening packet.
//! 7. `first`: source that can be, rules or the port's default, redirect or service, TCP that can open, TTL, the service's limits,
//!    backend, translation.
//! 8. `send`: TTL, next hop, MTU, the rule's limit, mirror, rewrite, mark.
//!
//! Invariants: a packet gets exactly one verdict; one that is not sent on and not answered keeps its bytes (but for 1); one that
//! is held left neither a flow nor a changed one behind.
#![forbid(unsafe_code)]

mod answer;
mod checksum;
mod decide;
mod decision;
mod error;
mod facts;
mod first;
mod flows;
mod follow;
mod guard;
mod known;
mod limit;
mod link;
mod place;
mod policy;
mod rewrite;
mod rule;
mod send;
mod sets;
mod tcp;

pub use decide::{Arrival, Chance};
pub use decision::{
    AddressOwner, BackendUse, Counter, Decision, FlowUse, Guarded, Hop, LimitUse, Mirrored, Moved,
    Parsed, RuleUse, ServiceUse, Translated,
};
pub use facts::Tuple;
pub use flows::{Direction, Flow, Life, Opening, State, Way};
pub use follow::Observed;
pub use place::{Place, Placed, place_of_rule, place_of_service};
pub use policy::Policy;
pub use rule::{Seen, Towards, matches};
pub use sets::{AddressSets, CompiledSets, PrefixLists};
