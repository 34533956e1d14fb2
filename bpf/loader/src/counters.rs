//! What the program counted.

use std::borrow::Borrow;

use aya::maps::{MapData, MapError, PerCpuArray};
use march_bpf_abi::{Slot, Tally};
use march_wire::DropReason;

/// The program's counters, summed over all CPUs. `seen = passed + redirected + dropped`, once no frame is on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Counters {
    /// Every frame that arrived.
    pub seen: Tally,
    /// Given to the kernel: the port's punted frames.
    pub passed: Tally,
    /// Given to a socket. What its ring had no room for is in the socket's own statistics.
    pub redirected: Tally,
    /// Dropped, by [`DropReason`].
    dropped: [Tally; DropReason::COUNT],
}

impl Counters {
    pub(crate) fn read<T: Borrow<MapData>>(
        map: &PerCpuArray<T, PodTally>,
    ) -> Result<Counters, MapError> {
        let sum = |slot: Slot| -> Result<Tally, MapError> {
            let mut total = Tally::default();
            for PodTally(cpu) in map.get(&slot.index(), 0)?.iter() {
                total.packets += cpu.packets;
                total.bytes += cpu.bytes;
            }
            Ok(total)
        };
        let mut dropped = [Tally::default(); DropReason::COUNT];
        for (total, reason) in dropped.iter_mut().zip(DropReason::ALL) {
            *total = sum(Slot::Dropped(*reason))?;
        }
        let (passed, redirected) = (sum(Slot::Passed)?, sum(Slot::Redirected)?);
        // Last, so that a frame in between is never in an outcome without being seen.
        Ok(Counters {
            seen: sum(Slot::Seen)?,
            passed,
            redirected,
            dropped,
        })
    }

    /// Frames dropped for one reason.
    pub fn dropped(&self, reason: DropReason) -> Tally {
        self.dropped[reason as usize]
    }

    /// Frames dropped, reason by reason.
    pub fn drops(&self) -> impl Iterator<Item = (DropReason, Tally)> + '_ {
        DropReason::ALL.iter().copied().zip(self.dropped)
    }
}

/// [`Tally`] as aya's maps want it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct PodTally(pub Tally);

// SAFETY: `repr(C)` of integers without padding (asserted in `march-bpf-abi`), valid for any bytes.
unsafe impl aya::Pod for PodTally {}
