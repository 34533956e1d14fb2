//! The gRPC interface of MarchProxy: package `marchproxy.v1`.
//!
//! What it is: the generated messages and services ([`v1`]), how errors travel in a status ([`status`]), and how to
//! reach or offer them on a unix socket ([`connect`]). What it is not: it neither validates documents (`march-model`)
//! nor decides anything. Entry points: [`v1::control_client`], [`v1::node_client`] and their servers. Invariant: the
//! `.proto` files are the contract; fields are only ever added.
#![forbid(unsafe_code)]

/// Messages and services of package `marchproxy.v1`, generated from `proto/`.
#[allow(
    missing_docs,
    clippy::pedantic,
    rustdoc::all,
    unused_qualifications,
    reason = "generated; the .proto files carry the documentation"
)]
pub mod v1 {
    tonic::include_proto!("marchproxy.v1");
}
