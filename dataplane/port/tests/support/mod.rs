//! What the conformance tests share: a network namespace per thread, an XDP program that redirects everything into the
//! sockets, a raw socket as the far end of a cable, and the suite itself.

#![allow(dead_code, reason = "each test binary uses its part")]
#![allow(
    clippy::cast_possible_truncation,
    clippy::cast_possible_wrap,
    clippy::cast_sign_loss,
    reason = "small numbers of the tests' own and plain C interfaces"
)]

pub mod namespace;
pub mod raw;
pub mod redirect;
pub mod suite;
