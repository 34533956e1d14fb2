//! What stands before the flow table and beside it: block lists and the rate of each source, what services let clients open,
//! and the share of the kernel's traffic that strangers cannot take.
//!
//! SYN cookies would stand in [`admission`]: where a handshake is refused today, a cookie could be the answer.

mod admission;
mod punt;
mod screen;
mod sources;

pub(crate) use admission::Admission;
pub(crate) use punt::{Claim, PuntShare, claim_of};
pub(crate) use screen::{Screened, screen_staged, screen_unrecognised};
pub(crate) use sources::{Sources, rate_of};
