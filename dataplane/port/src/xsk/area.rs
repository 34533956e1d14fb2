//! The memory of a UMEM: one anonymous mapping, in huge pages when the machine has some to spare.

use core::ptr::{self, NonNull};
use std::io;

use crate::PortError;
use crate::chunks::Memory;

/// Bytes of a huge page.
const HUGE_PAGE: usize = 2 << 20;

/// What the memory is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pages {
    /// 2 MB pages from the huge page pool.
    Huge,
    /// Ordinary pages, with transparent huge pages asked for.
    Ordinary,
}

#[derive(Debug)]
pub(super) struct Area {
    base: NonNull<u8>,
    bytes: usize,
    pages: Pages,
}

impl Area {
    /// At least `bytes` bytes, zeroed.
    pub(super) fn new(bytes: usize) -> Result<Self, PortError> {
        let bytes = bytes.next_multiple_of(HUGE_PAGE);
        // Populated here, because a huge page that is missing at first touch is a SIGBUS and not an error.
        let populate = libc::MAP_POPULATE;
        if let Ok(base) = map_anonymous(bytes, populate | libc::MAP_HUGETLB) {
            return Ok(Self {
                base,
                bytes,
                pages: Pages::Huge,
            });
        }
        let base = map_anonymous(bytes, 0).map_err(|source| PortError::Memory { bytes, source })?;
        // SAFETY: the range is the mapping just made; the advice changes no contents. Refusal only costs speed.
        unsafe { libc::madvise(base.as_ptr().cast(), bytes, libc::MADV_HUGEPAGE) };
        Ok(Self {
            base,
            bytes,
            pages: Pages::Ordinary,
        })
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn pages(&self) -> Pages {
        self.pages
    }

    /// Whether `len` bytes from `offset` on lie in one huge page, so that a device sees them contiguous.
    pub(super) fn is_in_one_page(offset: usize, len: usize) -> bool {
        offset / HUGE_PAGE == (offset + len - 1) / HUGE_PAGE
    }
}

fn map_anonymous(bytes: usize, flags: libc::c_int) -> io::Result<NonNull<u8>> {
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | flags;
    // SAFETY: a new anonymous mapping at an address of the kernel's choice touches no existing memory.
    let base = unsafe {
        libc::mmap(
            ptr::null_mut(),
            bytes,
            libc::PROT_READ | libc::PROT_WRITE,
            flags,
            -1,
            0,
        )
    };
    if base == libc::MAP_FAILED {
        return Err(io::Error::last_os_error());
    }
    NonNull::new(base.cast()).ok_or_else(|| io::Error::other("the kernel mapped address zero"))
}

impl Memory for Area {
    fn base(&self) -> NonNull<u8> {
        self.base
    }
}

impl Drop for Area {
    fn drop(&mut self) {
        // SAFETY: exactly the mapping that `new` made, unmapped once. A kernel or device that still uses the pages holds
        // its own references to them.
        unsafe { libc::munmap(self.base.as_ptr().cast(), self.bytes) };
    }
}
