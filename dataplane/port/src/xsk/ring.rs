//! The four rings that an `AF_XDP` socket shares with the kernel: acquire slots, touch their data, release them.
//!
//! Single producer, single consumer; indices run freely and wrap at 2³². The side that writes an index publishes with
//! `Release`, the other reads with `Acquire`. What the kernel wrote is not believed: counts are clamped to the ring's size
//! and slots are reached through the mask. Kernel document: `Documentation/networking/af_xdp.rst`.

use core::marker::PhantomData;
use core::ptr::{self, NonNull};
use core::sync::atomic::{AtomicU32, Ordering};
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};

/// One ring's mapping and where its parts are.
#[derive(Debug)]
struct Ring<T> {
    mapping: NonNull<u8>,
    bytes: usize,
    producer: NonNull<AtomicU32>,
    consumer: NonNull<AtomicU32>,
    flags: NonNull<AtomicU32>,
    slots: NonNull<T>,
    size: u32,
    slot_type: PhantomData<T>,
}

impl<T: Copy> Ring<T> {
    /// Maps a ring of `size` slots (a power of two) at `page_offset` of the socket, laid out as the kernel said.
    fn map(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        size: u32,
        at: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        debug_assert!(size.is_power_of_two());
        let offset_of = |offset: u64| usize::try_from(offset).map_err(io::Error::other);
        let slots_at = offset_of(at.desc)?;
        let bytes = slots_at + size as usize * size_of::<T>();
        let index_at = |offset: u64| {
            let offset = offset_of(offset)?;
            let fits =
                offset + size_of::<u32>() <= bytes && offset.is_multiple_of(align_of::<u32>());
            if fits {
                Ok(offset)
            } else {
                Err(io::Error::other("ring layout outside its mapping"))
            }
        };
        let (producer, consumer, flags) = (
            index_at(at.producer)?,
            index_at(at.consumer)?,
            index_at(at.flags)?,
        );
        if !slots_at.is_multiple_of(align_of::<T>()) {
            return Err(io::Error::other("ring slots are not aligned"));
        }
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        let sharing = libc::MAP_SHARED | libc::MAP_POPULATE;
        // SAFETY: a new mapping at an address of the kernel's choice touches no existing memory.
        let mapping = unsafe {
            libc::mmap(
                ptr::null_mut(),
                bytes,
                protection,
                sharing,
                socket.as_raw_fd(),
                page_offset,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping.cast::<u8>())
            .ok_or_else(|| io::Error::other("mapped at address zero"))?;
        let part = |offset: usize| {
            // SAFETY: every offset was checked to be inside `bytes`, and the mapping is that long.
            unsafe { mapping.add(offset) }
        };
        let (producer, consumer) = (part(producer).cast(), part(consumer).cast());
        let (flags, slots) = (part(flags).cast(), part(slots_at).cast());
        Ok(Self {
            mapping,
            bytes,
            producer,
            consumer,
            flags,
            slots,
            size,
            slot_type: PhantomData,
        })
    }

    #[inline]
    fn producer(&self) -> &AtomicU32 {
        // SAFETY: an aligned word inside the mapping (checked in `map`), which lives as long as `self`.
        unsafe { self.producer.as_ref() }
    }

    #[inline]
    fn consumer(&self) -> &AtomicU32 {
        // SAFETY: as in `producer`.
        unsafe { self.consumer.as_ref() }
    }

    #[inline]
    fn needs_wakeup(&self) -> bool {
        // SAFETY: as in `producer`.
        let flags = unsafe { self.flags.as_ref() };
        flags.load(Ordering::Relaxed) & libc::XDP_RING_NEED_WAKEUP != 0
    }

    #[inline]
    fn slot(&self, index: u32) -> NonNull<T> {
        // SAFETY: masked to `size - 1`, and `map` made room for `size` slots.
        unsafe { self.slots.add((index & (self.size - 1)) as usize) }
    }
}

impl<T> Drop for Ring<T> {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `map` made, unmapped once.
        unsafe { libc::munmap(self.mapping.as_ptr().cast(), self.bytes) };
    }
}

/// A ring that we fill and the kernel empties: fill and transmit.
#[derive(Debug)]
pub(super) struct Producer<T> {
    ring: Ring<T>,
    /// Our index: slots below it were published.
    published: u32,
    /// The kernel's index when we last looked.
    taken: u32,
}

impl<T: Copy> Producer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        size: u32,
        at: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, size, at)?;
        let published = ring.producer().load(Ordering::Relaxed);
        let taken = ring.consumer().load(Ordering::Acquire);
        Ok(Self {
            ring,
            published,
            taken,
        })
    }

    /// Slots that can be written now, at most `wanted`. Looks at the kernel's index only when what it knows is too little.
    #[inline]
    pub(super) fn acquire(&mut self, wanted: u32) -> u32 {
        let mut room = self.room();
        if room < wanted {
            self.taken = self.ring.consumer().load(Ordering::Acquire);
            room = self.room();
        }
        room.min(wanted)
    }

    #[inline]
    fn room(&self) -> u32 {
        self.ring
            .size
            .saturating_sub(self.published.wrapping_sub(self.taken))
    }

    /// Writes the slot `ahead` of the first unpublished one; `ahead` is below what `acquire` returned.
    #[inline]
    pub(super) fn set(&mut self, ahead: u32, value: T) {
        let slot = self.ring.slot(self.published.wrapping_add(ahead));
        // SAFETY: the slot is inside the ring, and the kernel does not read it before `release` publishes it.
        unsafe { slot.write(value) };
    }

    /// Publishes the next `count` slots, all of which were set.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        self.published = self.published.wrapping_add(count);
        self.ring
            .producer()
            .store(self.published, Ordering::Release);
    }

    /// Whether the kernel has yet to take something that was published.
    #[inline]
    pub(super) fn is_pending(&mut self) -> bool {
        if self.published != self.taken {
            self.taken = self.ring.consumer().load(Ordering::Acquire);
        }
        self.published != self.taken
    }

    #[inline]
    pub(super) fn needs_wakeup(&self) -> bool {
        self.ring.needs_wakeup()
    }
}

/// A ring that the kernel fills and we empty: receive and completion.
#[derive(Debug)]
pub(super) struct Consumer<T> {
    ring: Ring<T>,
    /// Our index: slots below it were given back.
    returned: u32,
    /// The kernel's index when we last looked.
    filled: u32,
}

impl<T: Copy> Consumer<T> {
    pub(super) fn map(
        socket: BorrowedFd<'_>,
        page_offset: libc::off_t,
        size: u32,
        at: &libc::xdp_ring_offset,
    ) -> io::Result<Self> {
        let ring = Ring::map(socket, page_offset, size, at)?;
        let returned = ring.consumer().load(Ordering::Relaxed);
        let filled = ring.producer().load(Ordering::Acquire);
        Ok(Self {
            ring,
            returned,
            filled,
        })
    }

    /// Slots that can be read now, at most `wanted`.
    #[inline]
    pub(super) fn acquire(&mut self, wanted: u32) -> u32 {
        let mut ready = self.filled.wrapping_sub(self.returned);
        if ready < wanted {
            self.filled = self.ring.producer().load(Ordering::Acquire);
            ready = self.filled.wrapping_sub(self.returned);
        }
        ready.min(self.ring.size).min(wanted)
    }

    /// Reads the slot `ahead` of the first unread one; `ahead` is below what `acquire` returned.
    #[inline]
    pub(super) fn get(&self, ahead: u32) -> T {
        let slot = self.ring.slot(self.returned.wrapping_add(ahead));
        // SAFETY: the slot is inside the ring and any bits are a valid `T` (plain integers); the kernel published it and
        // does not write it before `release` gives it back.
        unsafe { slot.read() }
    }

    /// Gives the next `count` slots back to the kernel.
    #[inline]
    pub(super) fn release(&mut self, count: u32) {
        self.returned = self.returned.wrapping_add(count);
        self.ring.consumer().store(self.returned, Ordering::Release);
    }
}
