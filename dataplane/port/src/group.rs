//! All ports of one lcore, on their way to its thread.

use crate::Port;

/// The ports of one lcore, which share one pool of buffers, moved to the lcore's thread as one thing.
///
/// The ports themselves are not `Send`: they share their pool without locks, so they must never be on two threads. The
/// group is, and [`PortGroup::into_ports`] on the lcore's thread takes it apart.
///
/// ```
/// use march_port::mem::{MemConfig, MemPort};
/// use march_port::{Frame, Port, PortGroup, BURST};
///
/// let group: PortGroup<MemPort> = MemPort::group(2, MemConfig::default());
/// std::thread::spawn(move || {
///     let mut ports = group.into_ports();
///     let mut burst: Vec<Frame> = Vec::with_capacity(BURST);
///     ports[0].inject(&[0; 60]).unwrap();
///     assert_eq!(ports[0].rx_burst(&mut burst), 1);
///     ports[1].tx_burst(&mut burst);
///     ports[1].poll();
/// })
/// .join()
/// .unwrap();
/// ```
#[derive(Debug)]
pub struct PortGroup<P> {
    ports: Vec<P>,
}

// SAFETY: only two constructors exist. `of_pool` requires that the ports are the only owners of what they share, so moving
// all of them moves every reference to it; `from_ports` requires `P: Send`. Taking the group apart consumes it, after which
// the ports' own `!Send` keeps them on that thread.
unsafe impl<P> Send for PortGroup<P> {}

impl<P: Port> PortGroup<P> {
    /// A group of all the ports that share a pool.
    ///
    /// # Safety
    ///
    /// Whatever unsynchronised state the ports share must be reachable through these ports alone.
    pub(crate) unsafe fn of_pool(ports: Vec<P>) -> Self {
        Self { ports }
    }

    /// A group of ports that share nothing, for other implementations of [`Port`].
    pub fn from_ports(ports: Vec<P>) -> Self
    where
        P: Send,
    {
        Self { ports }
    }

    /// The ports, for what the agent needs of them before they leave: descriptors, names, counter probes.
    pub fn ports(&self) -> &[P] {
        &self.ports
    }

    /// Takes the group apart. Call it on the thread that will poll the ports: it makes the thread known to the drivers
    /// ([`Port::enter_thread`]).
    pub fn into_ports(self) -> Vec<P> {
        P::enter_thread();
        self.ports
    }
}
