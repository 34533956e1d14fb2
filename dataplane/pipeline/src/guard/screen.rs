//! The guard of a port, over a whole burst: every IP packet that came to the port's own MAC address, whatever becomes of it.
//! What links need to work at all (ARP, frames to a group, neighbour discovery) is never held up here.

use march_flow::{Rate, SourceKey};
use march_tables::{LimitId, LimitScope, LimitUnit, PortGuard, Standing};
use march_wire::tuple::Address;
use march_wire::{Buffer, DropReason, Family, IpPacket, Packet, Verdict, ethernet, nd};

use crate::BURST;
use crate::burst::Stage;
use crate::context::Now;
use crate::guard::{Sources, rate_of};
use crate::rewrite::IpVersion;

/// What the guard said of a burst, a bit for each frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Screened {
    /// Dropped; their verdicts say why.
    pub dropped: u64,
    /// From a source that the guard's sets allow.
    pub allowed: u64,
}

/// The limit of each source, ready to be taken from.
struct Each {
    id: LimitId,
    scope: LimitScope,
    unit: LimitUnit,
    rate: Rate,
}

impl Each {
    fn of(guard: &PortGuard) -> Option<Self> {
        let (id, limit) = guard.per_source()?;
        Some(Self {
            id,
            scope: limit.scope,
            unit: limit.unit,
            rate: rate_of(limit),
        })
    }

    fn units(&self, frame: &[u8]) -> u64 {
        match self.unit {
            LimitUnit::Packets => 1,
            LimitUnit::Bits => frame.len() as u64 * 8,
        }
    }
}

/// The packets that the parse stage of a family recognised; those that are dropped leave the stage.
#[inline(never)]
pub(crate) fn screen_staged<F: IpVersion, B: Buffer>(
    guard: &PortGuard,
    stage: &mut Stage<F::Pair>,
    sources: &mut Sources,
    now: Now,
    frames: &[B],
    verdicts: &mut [Verdict],
) -> Screened {
    let mut screened = Screened::default();
    let mut limited = Limited::new();
    let each = Each::of(guard);
    for packet in stage.packets() {
        let (source, _) = F::addresses(packet.key.addresses);
        let frame = usize::from(packet.frame);
        match guard.standing(source) {
            Standing::Blocked => screened.drop(frame, DropReason::Blocked, verdicts),
            Standing::Allowed => screened.allowed |= 1 << frame,
            Standing::Unlisted => {
                if let Some(each) = &each {
                    let key = sources.key(each.id, each.scope, source);
                    sources.prefetch(key);
                    limited.push(frame, key);
                }
            }
        }
    }
    if let Some(each) = &each {
        for (frame, key) in limited.iter() {
            let units = frames
                .get(frame)
                .map_or(0, |frame| each.units(frame.bytes()));
            if !sources.take_at(key, &each.rate, units, now) {
                screened.drop(frame, DropReason::SourceRate, verdicts);
            }
        }
    }
    if screened.dropped != 0 {
        stage.keep(!screened.dropped);
    }
    screened
}

/// The frames that no stage recognised, a bit each in `left`.
#[cold]
#[inline(never)]
pub(crate) fn screen_unrecognised<B: Buffer>(
    guard: &PortGuard,
    mac: ethernet::Mac,
    mut left: u64,
    sources: &mut Sources,
    now: Now,
    frames: &[B],
    verdicts: &mut [Verdict],
) -> Screened {
    let mut screened = Screened::default();
    while left != 0 {
        let index = left.trailing_zeros() as usize;
        left &= left - 1;
        let Some(frame) = frames.get(index).map(B::bytes) else {
            continue;
        };
        if ethernet::destination(frame) != Some(mac) {
            continue;
        }
        // What cannot be parsed has a reason of its own.
        let Ok(Packet::Ip(packet)) = march_wire::parse(frame) else {
            continue;
        };
        if nd::is_neighbour(&packet) && packet.ttl == u8::MAX {
            continue;
        }
        let verdict = match packet.family {
            Family::V4 => judge::<core::net::Ipv4Addr>(guard, sources, now, &packet, frame),
            Family::V6 => judge::<core::net::Ipv6Addr>(guard, sources, now, &packet, frame),
        };
        match verdict {
            Ok(Standing::Allowed) => screened.allowed |= 1 << index,
            Ok(_) => {}
            Err(reason) => screened.drop(index, reason, verdicts),
        }
    }
    screened
}

fn judge<A: Address>(
    guard: &PortGuard,
    sources: &mut Sources,
    now: Now,
    packet: &IpPacket,
    frame: &[u8],
) -> Result<Standing, DropReason> {
    let Some((source, _)) = packet.addresses::<A, _>(frame) else {
        return Ok(Standing::Unlisted);
    };
    let standing = guard.standing(source);
    match (standing, Each::of(guard)) {
        (Standing::Blocked, _) => Err(DropReason::Blocked),
        (Standing::Allowed, _) | (_, None) => Ok(standing),
        (Standing::Unlisted, Some(each)) => {
            let key = sources.key(each.id, each.scope, source);
            if sources.take_at(key, &each.rate, each.units(frame), now) {
                Ok(standing)
            } else {
                Err(DropReason::SourceRate)
            }
        }
    }
}

impl Screened {
    #[inline]
    fn drop(&mut self, frame: usize, reason: DropReason, verdicts: &mut [Verdict]) {
        if let Some(verdict) = verdicts.get_mut(frame) {
            *verdict = Verdict::Drop(reason);
            self.dropped |= 1 << frame;
        }
    }
}

impl core::ops::BitOrAssign for Screened {
    fn bitor_assign(&mut self, other: Self) {
        self.dropped |= other.dropped;
        self.allowed |= other.allowed;
    }
}

/// Frames whose source has a bucket, between the two passes.
struct Limited {
    frames: [u8; BURST],
    keys: [SourceKey; BURST],
    count: usize,
}

impl Limited {
    fn new() -> Self {
        Self {
            frames: [0; BURST],
            keys: [SourceKey::default(); BURST],
            count: 0,
        }
    }

    #[inline]
    fn push(&mut self, frame: usize, key: SourceKey) {
        let places = self
            .frames
            .get_mut(self.count)
            .zip(self.keys.get_mut(self.count));
        if let (Some((place, of)), Ok(frame)) = (places, u8::try_from(frame)) {
            (*place, *of) = (frame, key);
            self.count += 1;
        }
    }

    fn iter(&self) -> impl Iterator<Item = (usize, SourceKey)> + '_ {
        let frames = self.frames.iter().map(|frame| usize::from(*frame));
        frames.zip(self.keys.iter().copied()).take(self.count)
    }
}
