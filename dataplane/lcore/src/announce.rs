//! Gratuitous ARP and unsolicited neighbour advertisements for addresses that are new here.

use core::net::IpAddr;
use std::sync::Arc;

use march_pipeline::Now;
use march_port::{Frame, Port};
use march_tables::{Announcement, Generation};
use march_wire::{Buffer, arp, nd};

/// Frames per turn, so that a thousand VIPs do not fill a transmit ring.
const PER_TURN: usize = 16;
/// Each address is announced this often, as a switch may lose the first one while it learns that the link is up.
const ROUNDS: u8 = 2;
const ROUND_MS: u32 = 1_000;

/// What is being announced.
///
/// It holds whole generations, not their address lists: letting go of one then never frees anything, as the publisher
/// still holds it.
pub(crate) struct Announcer {
    /// What the network had been told before; `None` at start, and when all is told.
    told: Option<Arc<Generation>>,
    /// What it is being told.
    telling: Arc<Generation>,
    next: usize,
    rounds_left: u8,
    /// When the next round starts.
    due_ms: Option<u32>,
}

impl Announcer {
    /// Starts telling everything of `generation`.
    pub fn new(generation: &Arc<Generation>) -> Self {
        Self {
            told: None,
            telling: Arc::clone(generation),
            next: 0,
            rounds_left: ROUNDS,
            due_ms: None,
        }
    }

    /// A new generation runs: starts telling what is new in it. What was half told is told again.
    pub fn on_generation(&mut self, generation: &Arc<Generation>) {
        if self.rounds_left == 0 {
            self.told = Some(Arc::clone(&self.telling));
        }
        let is_same = Arc::ptr_eq(&self.telling.local, &generation.local);
        self.telling = Arc::clone(generation);
        if !is_same {
            self.next = 0;
            self.rounds_left = ROUNDS;
            self.due_ms = None;
        }
    }

    /// True when there is nothing to tell now.
    #[inline]
    pub fn is_quiet(&self) -> bool {
        self.rounds_left == 0
    }

    /// Hands the next few frames to `send`, which puts them out of the port of that number.
    pub fn step<P: Port>(
        &mut self,
        now: Now,
        ports: &mut [P],
        mut send: impl FnMut(&mut [P], usize, Frame),
    ) {
        if self.is_quiet() || self.due_ms.is_some_and(|due_ms| is_before(now.ms, due_ms)) {
            return;
        }
        let list = self.telling.local.announcements();
        let rest = list.get(self.next..).unwrap_or_default();
        for announcement in rest.iter().take(PER_TURN) {
            self.next += 1;
            let port = usize::from(announcement.port);
            if self.is_told(announcement) || port >= ports.len() {
                continue;
            }
            if let Some(frame) = self.frame(&mut ports[port], announcement) {
                send(ports, port, frame);
            }
        }
        if self.next >= list.len() {
            self.next = 0;
            self.rounds_left -= 1;
            self.due_ms = Some(now.ms.wrapping_add(ROUND_MS));
        }
        if self.is_quiet() {
            self.told = None;
        }
    }

    /// Whether an earlier generation said the same. Lists are sorted.
    fn is_told(&self, announcement: &Announcement) -> bool {
        self.told.as_ref().is_some_and(|told| {
            told.local
                .announcements()
                .binary_search(announcement)
                .is_ok()
        })
    }

    fn frame<P: Port>(&self, port: &mut P, announcement: &Announcement) -> Option<Frame> {
        let mac = self.telling.port(announcement.port)?.mac;
        let mut frame = port.allocate()?;
        let len = match announcement.address {
            IpAddr::V4(_) => arp::FRAME_LEN,
            IpAddr::V6(_) => nd::FRAME_LEN,
        };
        let written = frame.resize(len)
            && match announcement.address {
                IpAddr::V4(address) => arp::announcement(frame.bytes_mut(), mac, address).is_some(),
                IpAddr::V6(address) => nd::announcement(frame.bytes_mut(), mac, address).is_some(),
            };
        if !written {
            port.free(frame);
            return None;
        }
        Some(frame)
    }
}

/// Whether `ms` is before `due_ms` on the wrapping clock.
fn is_before(ms: u32, due_ms: u32) -> bool {
    ms.wrapping_sub(due_ms) > u32::MAX / 2
}
