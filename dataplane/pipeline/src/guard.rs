//! What stands before the flow table: block lists, and how much each source may send.

mod sources;

pub(crate) use sources::{Sources, rate_of};
