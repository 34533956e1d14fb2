//! The lab: the whole product between real clients and servers, in network namespaces of its own.
//!
//! What it is: a network ([`topology`]) inside private namespaces ([`sandbox`]), real servers ([`servers`]) and clients that know a
//! right answer ([`load`], curl, iperf3), the product as it runs in production ([`product`]) or the kernel's own forwarding in its place
//! ([`baseline`]), and scenarios that find out whether everything is as it should be ([`scenario`]). What it is not: a benchmark with
//! figures to trust (`perf/`), or a place for unit tests. Entry points: the programs `lab` (one scenario) and `demo` (a tour).
//!
//! Invariants: nothing outlives the program that made it; nothing waits for time, only for conditions with a deadline; every check says
//! what it saw.
#![forbid(unsafe_code)]

pub mod baseline;
pub mod command;
pub mod documents;
pub mod findings;
pub mod flood;
pub mod frames;
pub mod lab;
pub mod load;
pub mod poll;
pub mod process;
pub mod product;
pub mod sandbox;
pub mod scenario;
pub mod servers;
pub mod table;
pub mod tier;
pub mod topology;
