//! Neighbours that the data plane sends to are kept resolved: the kernel asks, because the kernel is who others answer.
//!
//! A neighbour is asked for by `NTF_USE`, which makes the kernel treat it as just used: an unknown or failed entry is
//! solicited, a stale one is probed and its MAC stays valid meanwhile, a reachable one is left alone.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::{Duration, Instant};

use rtnetlink::Handle;
use rtnetlink::packet_core::{NLM_F_CREATE, NLM_F_REPLACE, NLM_F_REQUEST, NetlinkMessage};
use rtnetlink::packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use rtnetlink::packet_route::route::RouteType;
use rtnetlink::packet_route::{AddressFamily, RouteNetlinkMessage};

/// How often a neighbour in use is refreshed. Below the kernel's default `base_reachable_time` of 30 s halved by its
/// randomisation, so that an entry is probed soon after it turns stale.
pub const REFRESH: Duration = Duration::from_secs(5);

/// How soon one that does not answer is asked again.
pub const RETRY: Duration = Duration::from_millis(200);

/// At most this many next hops are asked for on behalf of packets; the rest wait for their turn.
const MAX_REQUESTED: usize = 4096;

/// A next hop asked for by a packet is kept this long after the last request.
const REQUEST_LIFETIME: Duration = Duration::from_mins(1);

/// Keeps next hops resolved. Driven by [`Resolver::tick`]; it owns no task.
#[derive(Debug)]
pub struct Resolver {
    handle: Handle,
    wanted: BTreeSet<(u32, IpAddr)>,
    requested: BTreeMap<(u32, IpAddr), Instant>,
    asked: BTreeMap<(u32, IpAddr), Instant>,
}

impl Resolver {
    /// A resolver that asks through `handle`.
    #[must_use]
    pub fn new(handle: Handle) -> Self {
        Self {
            handle,
            wanted: BTreeSet::new(),
            requested: BTreeMap::new(),
            asked: BTreeMap::new(),
        }
    }

    /// Sets the next hops that the running generation uses: (interface, address).
    pub fn set_wanted(&mut self, wanted: BTreeSet<(u32, IpAddr)>) {
        self.wanted = wanted;
    }

    /// Asks for one next hop now because a packet waits for it.
    pub fn request(&mut self, link: u32, address: IpAddr) {
        let now = Instant::now();
        let is_known = self.requested.contains_key(&(link, address));
        if !is_known && self.requested.len() >= MAX_REQUESTED {
            return;
        }
        self.requested.insert((link, address), now);
        self.ask(link, address, now, RETRY);
    }

    /// Asks again for whatever is due. `is_resolved` says what the mirror knows of a next hop.
    pub fn tick(&mut self, is_resolved: impl Fn(u32, IpAddr) -> bool) {
        let now = Instant::now();
        self.requested
            .retain(|_, since| now.duration_since(*since) < REQUEST_LIFETIME);
        let due: BTreeSet<_> = self
            .wanted
            .iter()
            .chain(self.requested.keys())
            .copied()
            .collect();
        self.asked.retain(|key, _| due.contains(key));
        for (link, address) in due {
            let every = if is_resolved(link, address) {
                REFRESH
            } else {
                RETRY
            };
            self.ask(link, address, now, every);
        }
    }

    fn ask(&mut self, link: u32, address: IpAddr, now: Instant, every: Duration) {
        if self
            .asked
            .get(&(link, address))
            .is_some_and(|last| now.duration_since(*last) < every)
        {
            return;
        }
        self.asked.insert((link, address), now);
        let mut message = NetlinkMessage::from(RouteNetlinkMessage::NewNeighbour(use_message(
            link, address,
        )));
        message.header.flags = NLM_F_REQUEST | NLM_F_CREATE | NLM_F_REPLACE;
        if let Err(error) = self.handle.notify(message) {
            tracing::warn!(event = "kernel.resolve.failed", %address, link, %error, "cannot ask for a neighbour");
        }
    }
}

fn use_message(link: u32, address: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.ifindex = link;
    message.header.state = NeighbourState::None;
    message.header.flags = NeighbourFlags::Use;
    message.header.kind = RouteType::Unspec;
    let destination = match address {
        IpAddr::V4(v4) => {
            message.header.family = AddressFamily::Inet;
            NeighbourAddress::Inet(v4)
        }
        IpAddr::V6(v6) => {
            message.header.family = AddressFamily::Inet6;
            NeighbourAddress::Inet6(v6)
        }
    };
    message
        .attributes
        .push(NeighbourAttribute::Destination(destination));
    message
}
