//! The floor: what one core can do at least time for a full-NAT packet, with nothing of the product in it.
//!
//! It is the yardstick of the pipeline benchmark, measured in the same process and the same minute, because absolute
//! times move from machine to machine. Per frame: Ethernet, IPv4 header with checksum, lengths, fragment word, TTL, TCP or
//! UDP header; a keyed hash of the five-tuple; a bucket of tags; the entry with its whole key compared; both addresses,
//! both ports, TTL and checksums rewritten (RFC 1624, from deltas kept in the entry); both MAC addresses; counters of the
//! flow and of its service; one receive descriptor read, one transmit descriptor written. It has no rules, no expiry, no
//! TCP state machine, no generations and no misses: a product's ratio to it says what those cost.

mod forward;
mod table;

pub use forward::{Floor, Frames, tuple_of};
