//! Packet vectors: frames in, verdicts, frames and counters out, the same set for every tier.
//!
//! What it is: the text format of `data/*.vec` ([`vector`]), an encoder of its own ([`encode`]) that shares no code with
//! the data plane, and the comparison ([`compare`]).
//!
//! What it is not: a generator of expectations. What must come out is written by hand from the specification and never
//! recorded from a run.
//!
//! Entry point: [`vector::Suite::shipped`].

pub mod compare;
pub mod encode;
pub mod layer;
pub mod vector;
