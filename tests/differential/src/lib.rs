//! The data plane next to the definition: generated configurations and packets, decided by both, and nothing may differ.
//!
//! What it is: episodes of a few hundred packets over one small world (few addresses, few ports, nested prefixes, so that rules
//! really match), with time passing and configurations changing in between; the pipeline runs over buffers in memory, the
//! reference beside it, and verdicts, drop reasons, bytes and counters are compared. What it is not: a test of I/O.
//!
//! Entry point: [`episode::run`] with a seed. The same seed is the same episode, so a difference is found again. To see that
//! differences are found at all, [`mutant::Mutation`] gives the data plane another configuration than the reference has.
#![forbid(unsafe_code)]

pub mod buffer;
pub mod config;
pub mod dice;
pub mod episode;
pub mod frames;
pub mod mutant;
pub mod pending;
pub mod rig;
pub mod rules;
pub mod tally;
pub mod universe;
