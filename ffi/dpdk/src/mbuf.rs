//! One packet buffer. Everything here is field access: the layout is the installed header's, checked when it was bound.

use core::ptr::NonNull;

use crate::sys;

/// Bytes in front of a received or fresh frame (`RTE_PKTMBUF_HEADROOM` of the installed DPDK).
#[expect(
    clippy::cast_possible_truncation,
    reason = "a small constant of the headers; checked below"
)]
pub const HEADROOM: u16 = sys::RTE_PKTMBUF_HEADROOM as u16;
const _: () = assert!(sys::RTE_PKTMBUF_HEADROOM >= 128 && sys::RTE_PKTMBUF_HEADROOM < 1 << 16);

/// Where a frame is in its one buffer.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// First byte of the frame.
    pub data: NonNull<u8>,
    /// Bytes in front of it.
    pub headroom: u16,
    /// Its bytes.
    pub len: u16,
    /// Bytes behind it.
    pub tailroom: u16,
}

/// A packet buffer that the holder owns. Dropped, it goes back to its pool. As large as a pointer, so that an array of
/// `Option<Mbuf>` is what the drivers fill.
#[derive(Debug)]
#[repr(transparent)]
pub struct Mbuf(NonNull<sys::rte_mbuf>);

const _: () = assert!(size_of::<Option<Mbuf>>() == size_of::<*mut sys::rte_mbuf>());

// SAFETY: a buffer is memory with one owner; any thread may write it or give it back to its pool.
unsafe impl Send for Mbuf {}

impl Mbuf {
    /// Takes ownership of a buffer.
    ///
    /// # Safety
    ///
    /// `raw` must be an allocated mbuf that nothing else holds, of a pool that outlives this.
    #[inline]
    pub unsafe fn from_raw(raw: NonNull<sys::rte_mbuf>) -> Self {
        Self(raw)
    }

    /// Gives ownership away; the buffer leaks unless [`Mbuf::from_raw`] gets it back.
    #[inline]
    pub fn into_raw(self) -> NonNull<sys::rte_mbuf> {
        let raw = self.0;
        core::mem::forget(self);
        raw
    }

    #[inline]
    fn fields(&self) -> &sys::rte_mbuf {
        // SAFETY: an allocated mbuf (contract of `from_raw`), owned, so nobody writes it meanwhile.
        unsafe { self.0.as_ref() }
    }

    #[inline]
    fn fields_mut(&mut self) -> &mut sys::rte_mbuf {
        // SAFETY: as in `fields`, and `&mut self` is exclusive.
        unsafe { self.0.as_mut() }
    }

    /// First byte of the frame.
    #[inline]
    pub fn data(&self) -> NonNull<u8> {
        let fields = self.fields();
        let base = fields.buf_addr.cast::<u8>();
        // SAFETY: the offset is within the buffer, or `is_sound` says that it is not and the caller drops the frame.
        let data = unsafe { base.add(usize::from(fields.data_off)) };
        // SAFETY: a buffer is never at address zero.
        unsafe { NonNull::new_unchecked(data) }
    }

    /// Bytes of the frame in this buffer.
    #[inline]
    pub fn len(&self) -> u16 {
        self.fields().data_len
    }

    /// Whether the frame has no bytes.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Bytes in front of the frame.
    #[inline]
    pub fn headroom(&self) -> u16 {
        self.fields().data_off
    }

    /// Bytes behind the frame.
    #[inline]
    pub fn tailroom(&self) -> u16 {
        let fields = self.fields();
        fields
            .buf_len
            .saturating_sub(fields.data_off)
            .saturating_sub(fields.data_len)
    }

    /// Buffers that the frame is spread over.
    #[inline]
    pub fn segments(&self) -> u16 {
        self.fields().nb_segs
    }

    /// Whether the frame is one buffer, ours alone, and inside it: what [`Mbuf::data`] and the lengths promise. A driver
    /// that says otherwise is not believed.
    #[inline]
    pub fn is_sound(&self) -> bool {
        self.window().is_some()
    }

    /// What [`Mbuf::is_sound`] promises and where it is, in one look; `None` if it is not.
    #[inline]
    pub fn window(&self) -> Option<Window> {
        let fields = self.fields();
        let end = u32::from(fields.data_off) + u32::from(fields.data_len);
        // Two loads on purpose: drivers have just written these fields one by one, and a wider load would have to wait for
        // the stores.
        let is_whole = fields.refcnt == 1 && fields.nb_segs == 1;
        let tailroom = u32::from(fields.buf_len).checked_sub(end)?;
        // Not more than `buf_len`, which is 16 bits.
        let tailroom = u16::try_from(tailroom).unwrap_or(u16::MAX);
        is_whole.then(|| Window {
            data: self.data(),
            headroom: fields.data_off,
            len: fields.data_len,
            tailroom,
        })
    }

    /// Copies a frame of several buffers into its first one. `false` if it does not fit; then nothing changed.
    #[must_use]
    pub fn linearize(&mut self) -> bool {
        // SAFETY: an allocated mbuf with its chain, owned.
        unsafe { sys::march_mbuf_linearize(self.0.as_ptr()) == 0 }
    }

    /// Says where in the buffer the frame starts and how long it is. `false`, and nothing changes, if that is not inside it
    /// or the frame has several buffers.
    #[inline]
    #[must_use]
    pub fn set_window(&mut self, headroom: u16, len: u16) -> bool {
        let fields = self.fields_mut();
        if fields.nb_segs != 1 || u32::from(headroom) + u32::from(len) > u32::from(fields.buf_len) {
            return false;
        }
        fields.data_off = headroom;
        fields.data_len = len;
        fields.pkt_len = u32::from(len);
        true
    }

    /// The bytes of the frame in this buffer.
    pub fn bytes(&self) -> &[u8] {
        assert!(self.is_sound(), "a frame that is one whole buffer");
        // SAFETY: `len` bytes from `data` on are inside the buffer (just checked), which is initialised memory that we own.
        unsafe { core::slice::from_raw_parts(self.data().as_ptr(), usize::from(self.len())) }
    }

    /// The bytes of the frame in this buffer, writable.
    pub fn bytes_mut(&mut self) -> &mut [u8] {
        assert!(self.is_sound(), "a frame that is one whole buffer");
        // SAFETY: as in `bytes`, and `&mut self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.data().as_ptr(), usize::from(self.len())) }
    }

    /// Moves the start of the frame `count` bytes into the headroom.
    #[must_use]
    pub fn prepend(&mut self, count: u16) -> bool {
        let (Some(headroom), Some(len)) = (
            self.headroom().checked_sub(count),
            self.len().checked_add(count),
        ) else {
            return false;
        };
        self.set_window(headroom, len)
    }

    /// Takes `count` bytes off the start of the frame.
    #[must_use]
    pub fn adjust(&mut self, count: u16) -> bool {
        let (Some(headroom), Some(len)) = (
            self.headroom().checked_add(count),
            self.len().checked_sub(count),
        ) else {
            return false;
        };
        self.set_window(headroom, len)
    }
}

impl Drop for Mbuf {
    fn drop(&mut self) {
        // SAFETY: owned, so it can be given back, with its chain if it has one.
        unsafe { sys::march_mbuf_free(self.0.as_ptr()) };
    }
}
