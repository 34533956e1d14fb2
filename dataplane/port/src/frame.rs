//! The one frame type: a window of bytes inside one buffer of one pool.

use core::ptr::NonNull;

use march_wire::Buffer;

/// Which memory a frame lives in, and so who may free it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameSource {
    /// A DPDK mbuf; the token is the mbuf's address.
    Mbuf,
    /// A chunk of an `AF_XDP` UMEM; the token is the chunk's index.
    Umem,
    /// A chunk of a memory port's arena; the token is the chunk's index.
    Memory,
}

/// What a port says of a buffer when it makes a [`Frame`] of it.
#[derive(Clone, Copy)]
pub(crate) struct FrameParts {
    /// First byte of the Ethernet header.
    pub data: NonNull<u8>,
    /// Bytes from `data` on that belong to the frame.
    pub len: u32,
    /// Bytes in front of `data` that belong to the same buffer.
    pub headroom: u16,
    /// Bytes behind the frame that belong to the same buffer.
    pub tailroom: u16,
    /// How the pool knows the buffer.
    pub token: u64,
    /// Which pool, unique in the process.
    pub pool: u32,
    /// Kind of memory.
    pub source: FrameSource,
}

/// One packet buffer, owned by whoever holds the value. Not `Clone`, not `Copy`, not `Send`, and without `Drop`: it
/// leaves by [`crate::Port::tx_burst`] or by [`crate::Port::free`] of a port that shares its pool.
///
/// 32 bytes, so that two share a cache line in a burst. The pipeline reads and writes only this and the bytes; what the
/// driver must know is written back to the mbuf or descriptor once, on transmission.
#[derive(Debug)]
#[must_use = "a frame has no destructor: transmit it or give it back to a port of its pool"]
pub struct Frame {
    data: NonNull<u8>,
    token: u64,
    len: u32,
    pool: u32,
    headroom: u16,
    tailroom: u16,
    source: FrameSource,
}

const _: () = assert!(size_of::<Frame>() == 32);

impl Frame {
    /// Makes the frame of a buffer.
    ///
    /// # Safety
    ///
    /// `headroom + len + tailroom` bytes around `data` must be one live allocation, initialised, that nothing else reads or
    /// writes until the frame was transmitted or freed, and the pool must outlive the frame.
    #[inline(always)]
    #[expect(clippy::inline_always, reason = "a call would build the frame twice")]
    pub(crate) unsafe fn from_parts(parts: FrameParts) -> Self {
        let FrameParts {
            data,
            len,
            headroom,
            tailroom,
            token,
            pool,
            source,
        } = parts;
        Self {
            data,
            token,
            len,
            pool,
            headroom,
            tailroom,
            source,
        }
    }

    /// Which kind of memory the frame lives in.
    pub fn source(&self) -> FrameSource {
        self.source
    }

    /// Length of the frame in bytes, Ethernet header included, no FCS.
    #[expect(
        clippy::len_without_is_empty,
        reason = "an empty frame is no state that anyone asks for"
    )]
    pub fn len(&self) -> usize {
        self.len as usize
    }

    pub(crate) fn token(&self) -> u64 {
        self.token
    }

    pub(crate) fn pool(&self) -> u32 {
        self.pool
    }

    pub(crate) fn headroom_bytes(&self) -> u16 {
        self.headroom
    }

    pub(crate) fn len_bytes(&self) -> u32 {
        self.len
    }
}

impl Buffer for Frame {
    #[inline]
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` points to `len` initialised bytes that this frame owns alone (contract of `from_parts`, kept by
        // `prepend` and `resize`).
        unsafe { core::slice::from_raw_parts(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.data.as_ptr(), self.len as usize) }
    }

    #[inline]
    fn headroom(&self) -> usize {
        usize::from(self.headroom)
    }

    #[inline]
    fn tailroom(&self) -> usize {
        usize::from(self.tailroom)
    }

    #[inline]
    fn prepend(&mut self, count: usize) -> bool {
        let Ok(count) = u16::try_from(count) else {
            return false;
        };
        let Some(headroom) = self.headroom.checked_sub(count) else {
            return false;
        };
        // SAFETY: `count <= headroom` bytes in front of `data` belong to the same buffer.
        self.data = unsafe { self.data.sub(usize::from(count)) };
        self.headroom = headroom;
        self.len += u32::from(count);
        true
    }

    #[inline]
    fn resize(&mut self, len: usize) -> bool {
        let room = self.len as usize + usize::from(self.tailroom);
        let Some(left) = room.checked_sub(len) else {
            return false;
        };
        // A frame that was cut may leave more room than the field can say; the rest is unused until the next owner.
        self.tailroom = u16::try_from(left).unwrap_or(u16::MAX);
        self.len = u32::try_from(len).unwrap_or(u32::MAX);
        true
    }

    #[inline]
    fn prefetch(&self) {
        #[cfg(target_arch = "x86_64")]
        {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            let line = self.data.as_ptr().cast_const().cast::<i8>();
            // SAFETY: a prefetch reads nothing and cannot fault, whatever the address.
            unsafe { _mm_prefetch::<_MM_HINT_T0>(line) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame_over(buffer: &mut [u8], at: usize, len: usize) -> Frame {
        let tailroom = buffer.len() - at - len;
        let data = NonNull::new(buffer[at..].as_mut_ptr()).expect("slices are never null");
        // SAFETY: the tests use the buffer only through the frame while it lives.
        unsafe {
            Frame::from_parts(FrameParts {
                data,
                len: u32::try_from(len).expect("small"),
                headroom: u16::try_from(at).expect("small"),
                tailroom: u16::try_from(tailroom).expect("small"),
                token: 0,
                pool: 0,
                source: FrameSource::Memory,
            })
        }
    }

    #[test]
    fn prepend_takes_headroom_and_keeps_the_bytes() {
        let mut buffer = [0u8; 64];
        buffer[16..20].copy_from_slice(b"data");
        let mut frame = frame_over(&mut buffer, 16, 4);
        assert!(frame.prepend(2));
        frame.bytes_mut()[..2].copy_from_slice(b"ab");
        assert_eq!(frame.bytes(), b"abdata");
        assert_eq!((frame.headroom(), frame.tailroom()), (14, 44));
        assert!(!frame.prepend(15));
        assert!(!frame.prepend(usize::MAX));
        assert!(frame.prepend(14));
        assert_eq!((frame.headroom(), frame.len()), (0, 20));
    }

    #[test]
    fn resize_cuts_and_grows_within_the_buffer() {
        let mut buffer = [7u8; 32];
        let mut frame = frame_over(&mut buffer, 8, 8);
        assert!(frame.resize(24));
        assert_eq!((frame.len(), frame.tailroom()), (24, 0));
        assert!(!frame.resize(25));
        assert_eq!(frame.len(), 24);
        assert!(frame.resize(0));
        assert_eq!((frame.len(), frame.tailroom()), (0, 24));
        assert!(frame.bytes().is_empty());
    }
}
