//! Header views over untrusted bytes, five-tuples, checksums, and the words for what happened to a frame.
//!
//! No allocation, no panic on any input, no `unsafe`, no `std`: the XDP program uses the same code over
//! `(data, data_end)` that the lcores use over a slice. See [`cursor`] for how.
//!
//! **Entry points.** [`parse::parse`] decodes any frame with every check; [`fast::v4`] and [`fast::v6`] recognise the one
//! shape that makes up nearly all traffic and leave the rest to it. The modules named after a protocol read and build
//! that protocol's messages in place.
//!
//! **What it is not.** No policy, no tables, no state: what a packet is, never what should happen to it.
//!
//! **Invariants.** An offset in a returned value is inside the frame that was parsed. A function that changes a frame
//! takes it as it was parsed; where it returns `None` or `false` the frame was not what the caller said, and what is in
//! it then is unspecified. Numbers are host order, except in [`fast`] and [`checksum`], which say so.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(feature = "build")]
extern crate alloc;
#[cfg(test)]
extern crate std;

pub mod arp;
pub mod buffer;
#[cfg(feature = "build")]
pub mod build;
pub mod checksum;
pub mod cursor;
pub mod ethernet;
pub mod fast;
pub mod icmp;
pub mod ip;
pub mod nd;
pub mod parse;
pub mod quote;
#[cfg(all(test, feature = "build"))]
mod strategy;
pub mod tcp;
pub mod tuple;
pub mod verdict;

pub use buffer::Buffer;
pub use cursor::Cursor;
pub use ethernet::Mac;
pub use parse::{Fragment, IpPacket, L4, Packet, parse};
pub use tuple::{Address, Family, FiveTuple, IpPrefix};
pub use verdict::{DropReason, Verdict};
