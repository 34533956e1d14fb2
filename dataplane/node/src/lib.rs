//! The node agent: everything around the lcores that is not on a lcore.
//!
//! It mirrors the kernel, finds the tier that each port can run, takes interfaces and gives them back, compiles what the
//! control daemon sends into what the lcores, the BPF maps and the socket tier run, and keeps the last good revision on
//! disk so that the node starts without the daemon. It is not on the packet path: nothing here is called per packet
//! except the pump between a TAP twin and the rings of an lcore.
//!
//! Entry point: `run` of the binary; each module is usable, and tested, alone.
//!
//! Invariants: what is changed on the machine is journalled, and the journal synced, before it is changed; a revision
//! that cannot be compiled leaves the running generation untouched; failing to start one tier never stops a lower one.
#![deny(unsafe_code)]

pub mod agent;
pub mod compile;
pub mod contents;
pub mod engine;
pub mod explain;
pub mod flood;
pub mod health;
pub mod journal;
pub mod kernel;
pub mod ladder;
pub mod last_good;
pub mod metrics;
pub mod ports;
pub mod rule_hits;
pub mod session;
pub mod takeover;
pub mod telemetry;
pub mod trace;
pub mod twin;
