//! The bounds of the tier, fixed when it starts.

use core::time::Duration;

/// How much the tier may use, and how long it tries. Every service shares these.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// TCP connections relayed at once; one more is reset and counted `table_full`. Each holds two file descriptors.
    pub connections: usize,
    /// UDP sessions at once; a new client beyond it is dropped and counted `table_full`. Each holds one descriptor.
    pub udp_sessions: usize,
    /// Listening sockets at once. A service with a prefix needs one per address and port.
    pub listeners: usize,
    /// How long one attempt to reach a backend may take.
    pub connect_timeout: Duration,
    /// How many backends are tried for one connection.
    pub connect_attempts: u32,
    /// How long the UDP sessions of a removed service may go on.
    pub udp_drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections: 16_384,
            udp_sessions: 16_384,
            listeners: 4_096,
            connect_timeout: Duration::from_secs(3),
            connect_attempts: 3,
            udp_drain: Duration::from_mins(1),
        }
    }
}
