//! Header views over untrusted bytes, five-tuples, checksums, and the words for what happened to a frame.
//!
//! No allocation, no panic on any input, no `unsafe`, no `std`: the XDP program uses the same code over
//! `(data, data_end)` that the lcores use over a slice. See [`cursor`] for how.
#![no_std]
#![forbid(unsafe_code)]

#[cfg(test)]
extern crate std;

pub mod buffer;
pub mod verdict;

pub use buffer::Buffer;
pub use verdict::{DropReason, Verdict};
