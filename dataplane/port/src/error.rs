//! What can be wrong with the world when a port is opened.

use std::io;

/// A port could not be opened. Says what was asked for and what the system answered.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PortError {
    /// No interface of that name in this network namespace.
    #[error("no interface `{interface}`: {source}")]
    NoInterface {
        /// Name as given.
        interface: String,
        /// The system's answer.
        source: io::Error,
    },
    /// A step of setting up an `AF_XDP` socket failed.
    #[error("AF_XDP socket on `{interface}` queue {queue}: {step}: {source}")]
    Socket {
        /// Interface name.
        interface: String,
        /// Queue index.
        queue: u32,
        /// What was being done.
        step: &'static str,
        /// The system's answer.
        source: io::Error,
    },
    /// Memory for frames could not be had.
    #[error("{bytes} bytes of frame memory: {source}")]
    Memory {
        /// Bytes asked for.
        bytes: usize,
        /// The system's answer.
        source: io::Error,
    },
    /// A value in the configuration that cannot work.
    #[error("{field} = {value}: {reason}")]
    Config {
        /// Field of the configuration.
        field: &'static str,
        /// Its value.
        value: u64,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// DPDK refused.
    #[cfg(feature = "dpdk")]
    #[error(transparent)]
    Dpdk(#[from] march_dpdk::DpdkError),
}
