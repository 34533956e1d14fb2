//! Next hops: the table of adjacencies, and the map that finds one.

use core::net::IpAddr;

use march_wire::tuple::Address;

use crate::keyed::KeyedMap;
use crate::{AdjacencyId, PortId};

/// Whether a next hop's MAC address is known.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum AdjacencyState {
    /// Frames can go.
    Resolved,
    /// Frames wait, and the agent is asked to resolve it.
    #[default]
    Incomplete,
}

/// What sending to one next hop takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Adjacency {
    /// Destination MAC, then source MAC: the first twelve bytes of the frame.
    pub rewrite: [u8; 12],
    /// Egress port.
    pub port: PortId,
    /// Largest IP packet that fits out of the port, bytes.
    pub mtu: u16,
    /// Whether `rewrite` holds.
    pub state: AdjacencyState,
}

const _: () = assert!(size_of::<Adjacency>() == 18);
const _: () = assert!(core::mem::offset_of!(Adjacency, rewrite) == 0);

/// The key of every adjacency, and the way back.
#[derive(Clone, Debug, Default)]
pub struct Neighbours {
    /// The kernel bounds how many neighbours it learns, and the seed is random.
    ids: KeyedMap<(PortId, IpAddr), AdjacencyId>,
    keys: Vec<(PortId, IpAddr)>,
}

impl Neighbours {
    /// The adjacency of `address` on the link of `port`; `None` if nobody has asked for it yet.
    #[inline]
    pub fn get<A: Address>(&self, port: PortId, address: A) -> Option<AdjacencyId> {
        self.find(port, address.into())
    }

    #[inline]
    pub(crate) fn find(&self, port: PortId, address: IpAddr) -> Option<AdjacencyId> {
        self.ids.get(&(port, address)).copied()
    }

    /// Port and address that an adjacency stands for: what to resolve when it is incomplete.
    #[inline]
    pub fn key(&self, id: AdjacencyId) -> Option<(PortId, IpAddr)> {
        self.keys.get(usize::from(id)).copied()
    }

    /// Every key, by [`AdjacencyId`].
    pub(crate) fn keys(&self) -> &[(PortId, IpAddr)] {
        &self.keys
    }

    /// The id of a key, new if it has none; `None` when ids have run out.
    pub(crate) fn intern(&mut self, port: PortId, address: IpAddr) -> Option<AdjacencyId> {
        if let Some(id) = self.find(port, address) {
            return Some(id);
        }
        let id = AdjacencyId::try_from(self.keys.len())
            .ok()
            .filter(|id| *id != crate::NONE)?;
        self.keys.push((port, address));
        self.ids.insert((port, address), id);
        Some(id)
    }
}
