//! The one frame type.

use march_wire::Buffer;

/// Which memory a frame lives in, and so who may free it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum FrameSource {
    /// A DPDK mbuf; `token` is the mbuf's address.
    Mbuf,
    /// A chunk of an `AF_XDP` UMEM; `token` is the chunk's address in the UMEM.
    Umem,
    /// A chunk of a memory port's arena; `token` is the chunk's index.
    Memory,
}

/// One packet buffer, owned. Not `Clone`, not `Copy`, no `Drop`.
#[derive(Debug)]
pub struct Frame {
    data: *mut u8,
    len: u32,
    headroom: u16,
    tailroom: u16,
    token: u64,
    source: FrameSource,
}
// The owner of this crate completes this: constructor (unsafe, crate-private), accessors, `Buffer` impl.
impl Buffer for Frame {
    fn bytes(&self) -> &[u8] {
        // SAFETY: `data` points to `len` initialised bytes that this frame owns alone (constructor's contract).
        unsafe { core::slice::from_raw_parts(self.data, self.len as usize) }
    }
    fn bytes_mut(&mut self) -> &mut [u8] {
        // SAFETY: as in `bytes`, and `&mut self` is exclusive.
        unsafe { core::slice::from_raw_parts_mut(self.data, self.len as usize) }
    }
    fn headroom(&self) -> usize {
        usize::from(self.headroom)
    }
    fn tailroom(&self) -> usize {
        usize::from(self.tailroom)
    }
    fn prepend(&mut self, _count: usize) -> bool {
        false
    }
    fn resize(&mut self, _len: usize) -> bool {
        false
    }
}
