//! Memory for tables and packet buffers: 2 MB pages asked for with `madvise`, touched once, indexed without a branch.

use std::io;
use std::ptr::NonNull;

const HUGE_PAGE: usize = 2 << 20;

/// A power-of-two number of `T`, zeroed. An index is masked, so that every access is in bounds without a check.
pub struct Arena<T> {
    data: NonNull<T>,
    mask: usize,
    mapping: NonNull<libc::c_void>,
    mapped: usize,
}

/// Types for which all-zero bytes are a value.
///
/// # Safety
/// The implementor is plain data without padding that matters, niches or references.
pub unsafe trait Zeroable: Copy {}

// SAFETY: bytes have no invalid values.
unsafe impl<const N: usize> Zeroable for [u8; N] {}

impl<T: Zeroable> Arena<T> {
    /// At least `len` elements, rounded up to a power of two, on huge pages if the kernel has them.
    pub fn new(len: usize) -> io::Result<Self> {
        let len = len.max(1).next_power_of_two();
        let bytes = (len * size_of::<T>()).next_multiple_of(HUGE_PAGE);
        let mapped = bytes + HUGE_PAGE;
        // SAFETY: an anonymous private mapping at an address of the kernel's choice touches no other memory.
        let mapping = unsafe {
            libc::mmap(
                std::ptr::null_mut(),
                mapped,
                libc::PROT_READ | libc::PROT_WRITE,
                libc::MAP_PRIVATE | libc::MAP_ANONYMOUS,
                -1,
                0,
            )
        };
        if mapping == libc::MAP_FAILED {
            return Err(io::Error::last_os_error());
        }
        let mapping = NonNull::new(mapping).ok_or_else(io::Error::last_os_error)?;
        let start = mapping.addr().get().next_multiple_of(HUGE_PAGE);
        let data = mapping.with_addr(start.try_into().map_err(io::Error::other)?);
        // SAFETY: the range lies inside the mapping just made; the advice changes no contents.
        unsafe { libc::madvise(data.as_ptr(), bytes, libc::MADV_HUGEPAGE) };
        // SAFETY: `bytes` bytes from `data` are inside the mapping, writable, and nobody else knows them.
        unsafe { std::ptr::write_bytes(data.cast::<u8>().as_ptr(), 0, bytes) };
        Ok(Self {
            data: data.cast(),
            mask: len - 1,
            mapping,
            mapped,
        })
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        self.mask + 1
    }

    /// Element `index` modulo the length.
    #[inline]
    pub fn at(&self, index: usize) -> &T {
        // SAFETY: the masked index is below the length.
        let element = unsafe { self.data.add(index & self.mask) };
        // SAFETY: elements were zeroed, which is a value of `T`, and `&self` keeps writers away.
        unsafe { element.as_ref() }
    }

    /// Element `index` modulo the length.
    #[inline]
    pub fn at_mut(&mut self, index: usize) -> &mut T {
        // SAFETY: the masked index is below the length.
        let mut element = unsafe { self.data.add(index & self.mask) };
        // SAFETY: as in `at`, and `&mut self` is exclusive.
        unsafe { element.as_mut() }
    }

    /// Where element `index` modulo the length is, for prefetching.
    #[inline]
    pub fn address(&self, index: usize) -> *const T {
        self.data.as_ptr().wrapping_add(index & self.mask)
    }
}

impl<T> Drop for Arena<T> {
    fn drop(&mut self) {
        // SAFETY: the mapping was made by `new`, belongs to this value alone, and no reference into it outlives it.
        unsafe { libc::munmap(self.mapping.as_ptr(), self.mapped) };
    }
}

/// Asks for the cache line at `address`. A hint: any address is allowed.
#[inline]
pub fn prefetch<T>(address: *const T) {
    use std::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
    // SAFETY: a prefetch faults on no address.
    unsafe { _mm_prefetch::<_MM_HINT_T0>(address.cast()) };
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn indices_wrap() {
        let mut arena = Arena::<[u8; 64]>::new(1000).unwrap();
        assert_eq!(arena.len(), 1024);
        arena.at_mut(1024 + 5)[3] = 7;
        assert_eq!(arena.at(5)[3], 7);
        assert_eq!(arena.address(5).addr() % 64, 0);
    }
}
