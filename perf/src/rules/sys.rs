//! The raw interface of `rte_acl`: what bindgen made of the installed headers. Nothing here is checked; use [`super::acl`].
#![allow(
    missing_docs,
    dead_code,
    non_camel_case_types,
    non_snake_case,
    non_upper_case_globals,
    unused_qualifications,
    clippy::all,
    clippy::pedantic,
    clippy::undocumented_unsafe_blocks,
    clippy::multiple_unsafe_ops_per_block,
    reason = "generated"
)]

include!(concat!(env!("OUT_DIR"), "/acl.rs"));
