//! A pool of equal chunks in one piece of memory, shared by the ports of one lcore without locks.
//!
//! A chunk is either free, with a device (a fill, transmit or completion ring), or out as a [`Frame`]. The pool counts all
//! three and knows of each chunk whether a device has it, so that a ring that names a chunk it does not have is caught
//! instead of making two frames of one chunk.

use core::cell::UnsafeCell;
use core::ptr::NonNull;
use std::rc::Rc;

use crate::frame::{Frame, FrameParts, FrameSource};

/// Distance between two chunks: 33 cache lines. A power of two would put every frame's headers into the same two of the
/// 64 sets of an L1 cache; an odd number of lines walks through all of them.
pub(crate) const STRIDE: u32 = 2112;

/// Where the chunks of a pool are, and what gives the memory back.
pub(crate) trait Memory {
    /// First byte; the memory is initialised, writable, at least `count * stride` long and used through the pool alone.
    fn base(&self) -> NonNull<u8>;
}

/// What an owner of chunks may ask of how many there are and where they are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Census {
    /// All chunks of the pool.
    pub total: usize,
    /// Chunks that [`crate::Port::allocate`] could hand out now.
    pub free: usize,
    /// Chunks posted to a device for receiving, or sent and not yet completed.
    pub device: usize,
    /// Chunks out as frames: in bursts and queues.
    pub frames: usize,
}

/// The pool. One thread, through [`Shared`].
pub(crate) struct Chunks<M: Memory> {
    memory: Option<M>,
    base: NonNull<u8>,
    stride: u32,
    count: u32,
    /// Chunks in use; the rest of `count` were left out for good.
    total: usize,
    headroom: u16,
    pool: u32,
    source: FrameSource,
    /// Last freed is next used: it is the one that is still in a cache.
    free: Vec<u32>,
    with_device: Box<[u64]>,
    device: u32,
}

impl<M: Memory> Chunks<M> {
    /// A pool of `count` chunks, `stride` apart, whose fresh frames start `headroom` bytes into the chunk.
    pub(crate) fn new(
        memory: M,
        source: FrameSource,
        count: u32,
        stride: u32,
        headroom: u16,
    ) -> Self {
        assert!(
            u32::from(headroom) < stride && u16::try_from(stride).is_ok(),
            "chunk of {stride} with headroom {headroom}"
        );
        let base = memory.base();
        Self {
            memory: Some(memory),
            base,
            stride,
            count,
            total: count as usize,
            headroom,
            pool: crate::next_pool_id(),
            source,
            free: (0..count).rev().collect(),
            with_device: vec![0; count.div_ceil(64) as usize].into_boxed_slice(),
            device: 0,
        }
    }

    /// Takes the chunks for which `is_usable(offset in the memory)` is false out of use. Before the first allocation.
    pub(crate) fn keep_only(mut self, is_usable: impl Fn(usize) -> bool) -> Self {
        let stride = self.stride as usize;
        self.free
            .retain(|&index| is_usable(index as usize * stride));
        self.total = self.free.len();
        self
    }

    pub(crate) fn census(&self) -> Census {
        let (total, free, device) = (self.total, self.free.len(), self.device as usize);
        Census {
            total,
            free,
            device,
            frames: total - free - device,
        }
    }

    pub(crate) fn headroom(&self) -> u16 {
        self.headroom
    }

    pub(crate) fn free_count(&self) -> usize {
        self.free.len()
    }

    /// An empty frame with the pool's headroom.
    #[inline]
    pub(crate) fn allocate(&mut self) -> Option<Frame> {
        let index = self.free.pop()?;
        Some(self.frame(index, u32::from(self.headroom), 0))
    }

    /// Takes a frame back. A frame of another pool is a bug of the caller.
    #[inline]
    pub(crate) fn give_back(&mut self, frame: &Frame) {
        let index = self.index(frame);
        self.free.push(index);
    }

    /// The chunk that a frame of this pool lives in.
    #[inline]
    pub(crate) fn index(&self, frame: &Frame) -> u32 {
        assert_eq!(frame.pool(), self.pool, "frame of another pool");
        // `frame` made the token from a `u32`.
        #[expect(
            clippy::cast_possible_truncation,
            reason = "the token of this pool's frames is a chunk index"
        )]
        let index = frame.token() as u32;
        index
    }

    /// Where in its chunk a frame starts.
    #[inline]
    pub(crate) fn offset(frame: &Frame) -> u32 {
        u32::from(frame.headroom_bytes())
    }

    /// Moves a free chunk to a device.
    #[inline]
    pub(crate) fn take_for_device(&mut self) -> Option<u32> {
        let index = self.free.pop()?;
        self.mark_with_device(index);
        Some(index)
    }

    /// Moves the chunk of a frame to a device.
    #[inline]
    pub(crate) fn frame_to_device(&mut self, frame: &Frame) -> u32 {
        let index = self.index(frame);
        self.mark_with_device(index);
        index
    }

    #[inline]
    fn mark_with_device(&mut self, index: u32) {
        self.with_device[index as usize / 64] |= 1 << (index % 64);
        self.device += 1;
    }

    /// Takes a chunk back from a device. `false` if the index is no chunk or the device did not have it: then nothing
    /// changes, because the ring it came from cannot be believed.
    #[inline]
    fn unmark_with_device(&mut self, index: u32) -> bool {
        let Some(word) = self.with_device.get_mut(index as usize / 64) else {
            return false;
        };
        let bit = 1u64 << (index % 64);
        if *word & bit == 0 {
            return false;
        }
        *word &= !bit;
        self.device -= 1;
        true
    }

    /// A device filled a chunk: `len` bytes from `offset` on. `false` if the device did not have that chunk, or if the
    /// bytes are not all inside it (the chunk is then free again). If `true`, the chunk is the caller's, for
    /// [`Chunks::frame`].
    #[inline]
    pub(crate) fn accept_from_device(&mut self, index: u32, offset: u32, len: u32) -> bool {
        if !self.unmark_with_device(index) {
            return false;
        }
        let fits = offset
            .checked_add(len)
            .is_some_and(|end| end <= self.stride);
        if !fits {
            self.free.push(index);
        }
        fits
    }

    /// Takes back a chunk that became no frame.
    pub(crate) fn reject(&mut self, index: u32) {
        self.free.push(index);
    }

    /// A device is done with a chunk. `false` if it did not have it.
    #[inline]
    pub(crate) fn free_from_device(&mut self, index: u32) -> bool {
        let had = self.unmark_with_device(index);
        if had {
            self.free.push(index);
        }
        had
    }

    /// The frame of a chunk that was just taken from `free` or accepted from a device. `offset + len` is within the chunk.
    #[inline]
    pub(crate) fn frame(&self, index: u32, offset: u32, len: u32) -> Frame {
        debug_assert!(index < self.count && offset + len <= self.stride);
        // SAFETY: `index < count` and `offset < stride`, so the address is inside the memory.
        let data = unsafe {
            self.base
                .add(index as usize * self.stride as usize + offset as usize)
        };
        #[expect(
            clippy::cast_possible_truncation,
            reason = "both are at most the stride, which fits (checked in `new`)"
        )]
        let (headroom, tailroom) = (offset as u16, (self.stride - offset - len) as u16);
        let parts = FrameParts {
            data,
            len,
            headroom,
            tailroom,
            token: u64::from(index),
            pool: self.pool,
            source: self.source,
        };
        // SAFETY: the chunk is in nobody's hands (caller), the window is inside it, and `drop` keeps the memory alive as
        // long as a frame is out.
        unsafe { Frame::from_parts(parts) }
    }
}

impl<M: Memory> Drop for Chunks<M> {
    fn drop(&mut self) {
        // A frame that is still out points into the memory, and safe code may read it: keep the memory for good then.
        if self.census().frames != 0 {
            core::mem::forget(self.memory.take());
        }
    }
}

impl<M: Memory> core::fmt::Debug for Chunks<M> {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter
            .debug_struct("Chunks")
            .field("stride", &self.stride)
            .field("census", &self.census())
            .finish_non_exhaustive()
    }
}

/// Shared by the ports of one lcore: neither `Send` nor `Sync`, so all uses are on one thread.
#[derive(Debug)]
pub(crate) struct Shared<T>(Rc<UnsafeCell<T>>);

impl<T> Shared<T> {
    pub(crate) fn new(value: T) -> Self {
        Self(Rc::new(UnsafeCell::new(value)))
    }

    /// Another handle, for another port of the same lcore.
    pub(crate) fn share(&self) -> Self {
        Self(Rc::clone(&self.0))
    }

    /// Works on the value. `work` must not call `with` of the same value again; it is handed no way to.
    #[inline]
    pub(crate) fn with<R>(&self, work: impl FnOnce(&mut T) -> R) -> R {
        // SAFETY: the handle is on one thread, and the closures of this crate only touch `value` and locals, so no other
        // reference to the value exists while `work` runs.
        work(unsafe { &mut *self.0.get() })
    }
}
