//! Who may enter, and to which backend: the decision that an lcore makes on a flow miss, made for one client here.

use core::net::SocketAddr;
use std::sync::Arc;

use march_tables::{Action, PoolId, ServiceId, Subject, Timeouts};
use march_wire::DropReason;
use march_wire::tuple::{Address, FiveTuple};

use crate::counters::ServiceCounters;
use crate::listen::Transport;
use crate::running::{BackendLife, Running};

/// The ingress port that rules see: a socket does not know which interface a client came through.
const NO_PORT: u16 = u16::MAX;

/// Hashes tried to find a backend that was not tried yet.
const PROBES: u64 = 32;

/// A client that rules and service lookup let in.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) service: Arc<ServiceCounters>,
    pub(crate) timeouts: Timeouts,
    pool: PoolId,
    hash: u64,
}

/// A client that was refused, and on whose account.
#[derive(Clone, Debug)]
pub(crate) struct Refused {
    pub(crate) reason: DropReason,
    pub(crate) service: Option<Arc<ServiceCounters>>,
}

/// Rules first, then the service.
pub(crate) fn admit(
    running: &Running,
    transport: Transport,
    client: SocketAddr,
    vip: SocketAddr,
) -> Result<Admitted, Refused> {
    let ports = (client.port(), vip.port());
    match (client, vip) {
        (SocketAddr::V4(client), SocketAddr::V4(vip)) => {
            decide(running, transport, *client.ip(), *vip.ip(), ports)
        }
        (SocketAddr::V6(client), SocketAddr::V6(vip)) => {
            decide(running, transport, *client.ip(), *vip.ip(), ports)
        }
        // Listeners are of one family each (IPV6_V6ONLY), so clients are of the same.
        _ => Err(Refused {
            reason: DropReason::BadIpVersion,
            service: None,
        }),
    }
}

fn decide<A: Address>(
    running: &Running,
    transport: Transport,
    src: A,
    dst: A,
    (src_port, dst_port): (u16, u16),
) -> Result<Admitted, Refused> {
    let protocol = transport.protocol();
    let tuple = FiveTuple {
        src,
        dst,
        src_port,
        dst_port,
        protocol,
    };
    let generation = &running.generation;
    let found: Option<ServiceId> = generation.services.lookup(dst, protocol, dst_port);
    let denied = generation
        .rules
        .classify(&Subject::of_tuple(tuple, NO_PORT))
        // What else there is sockets cannot do; who compiles refuses it, and here it lets nobody in.
        .is_some_and(|matched| !matches!(matched.action, Action::Allow | Action::Count));
    if denied {
        let service = found.map(|id| Arc::clone(running.service_counters(id)));
        return Err(Refused {
            reason: DropReason::RuleDrop,
            service,
        });
    }
    let Some(id) = found else {
        return Err(Refused {
            reason: DropReason::NoService,
            service: None,
        });
    };
    let service = generation.services.get(id);
    Ok(Admitted {
        service: Arc::clone(running.service_counters(id)),
        timeouts: service.timeouts,
        pool: service.pool,
        hash: service.affinity.hash(&tuple),
    })
}

impl Admitted {
    /// A backend that is not in `tried`. The first choice is the lcores' choice for the same tuple.
    pub(crate) fn backend<'a>(
        &self,
        running: &'a Running,
        tried: &[Arc<BackendLife>],
    ) -> Option<&'a Arc<BackendLife>> {
        (0..PROBES)
            .map_while(|probe| {
                // An odd multiplier walks the hash through slots far apart.
                let hash = self
                    .hash
                    .wrapping_add(probe.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                running.choose(self.pool, hash)
            })
            .find(|life| !tried.iter().any(|known| Arc::ptr_eq(known, life)))
    }
}
