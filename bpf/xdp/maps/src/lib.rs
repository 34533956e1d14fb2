//! The maps of `steer`, in a crate of their own because of BTF.
//!
//! A map of maps is declared by BTF type information, which the linker makes from debug information. The kernel refuses
//! what it makes of Rust enums with data, of which the decoders have many. So this crate alone is compiled with full
//! debug information, and the rest with line tables only.
#![no_std]

use aya_ebpf::btf_maps::{Array, ArrayOfMaps, LpmTrie, PerCpuArray, XskMap};
use aya_ebpf::macros::btf_map;
use march_bpf_abi::{ADDRESSES_MAX, AddressEntry, AddressKey, PortConfig, QUEUES_MAX, Slot, Tally};

/// The addresses of one generation, by longest prefix.
pub type AddressSet = LpmTrie<AddressKey, AddressEntry, { ADDRESSES_MAX as usize }>;

/// The published address set: one, or none yet.
#[btf_map]
pub static ADDRESSES: ArrayOfMaps<AddressSet, 1> = ArrayOfMaps::new();

/// What the port is.
#[btf_map]
pub static PORT: Array<PortConfig, 1> = Array::new();

/// What was counted, by [`Slot`].
#[btf_map]
pub static COUNTERS: PerCpuArray<Tally, { Slot::COUNT }> = PerCpuArray::new();

/// The sockets, by receive queue.
#[btf_map]
pub static SOCKETS: XskMap<{ QUEUES_MAX as usize }> = XskMap::new();
