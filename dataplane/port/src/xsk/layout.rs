//! How chunks lie in the UMEM, and what an address of the kernel's means.

use crate::chunks::STRIDE;

/// Distance between chunks and the form of addresses.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layout {
    /// 2112 bytes apart, which needs the kernel's unaligned mode: the base of a chunk in the low 48 bits of an address and
    /// the offset in the upper 16. Frames spread over all cache sets.
    Coloured,
    /// 2048 bytes apart, for drivers that know aligned chunks only.
    PowerOfTwo,
}

const ALIGNED_STRIDE: u32 = 2048;

impl Layout {
    pub(super) const fn stride(self) -> u32 {
        match self {
            Self::Coloured => STRIDE,
            Self::PowerOfTwo => ALIGNED_STRIDE,
        }
    }

    pub(super) const fn umem_flags(self) -> u32 {
        match self {
            Self::Coloured => libc::XDP_UMEM_UNALIGNED_CHUNK_FLAG,
            Self::PowerOfTwo => 0,
        }
    }

    /// Address of a byte of a chunk as the kernel wants it in a descriptor.
    #[inline]
    pub(super) fn address(self, index: u32, offset: u32) -> u64 {
        match self {
            Self::Coloured => {
                (u64::from(index) * u64::from(STRIDE))
                    | (u64::from(offset) << libc::XSK_UNALIGNED_BUF_OFFSET_SHIFT)
            }
            Self::PowerOfTwo => u64::from(index) * u64::from(ALIGNED_STRIDE) + u64::from(offset),
        }
    }

    /// Chunk and offset of an address in a descriptor of the kernel's. Not checked against the number of chunks.
    #[inline]
    pub(super) fn split(self, address: u64) -> (u32, u32) {
        match self {
            Self::Coloured => {
                let ahead = address >> libc::XSK_UNALIGNED_BUF_OFFSET_SHIFT;
                let flat = (address & libc::XSK_UNALIGNED_BUF_ADDR_MASK) + ahead;
                divide(flat, STRIDE)
            }
            Self::PowerOfTwo => divide(address, ALIGNED_STRIDE),
        }
    }
}

#[inline]
fn divide(flat: u64, stride: u32) -> (u32, u32) {
    // An address beyond 2³² chunks becomes an index that no pool has.
    let index = u32::try_from(flat / u64::from(stride)).unwrap_or(u32::MAX);
    #[expect(clippy::cast_possible_truncation, reason = "a remainder of a `u32`")]
    let offset = (flat % u64::from(stride)) as u32;
    (index, offset)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_names_the_chunk_and_offset_it_was_made_of() {
        for layout in [Layout::Coloured, Layout::PowerOfTwo] {
            for index in [0, 1, 63, 12_287, 1 << 20] {
                for offset in [0, 1, 256, 300, layout.stride() - 1] {
                    assert_eq!(
                        layout.split(layout.address(index, offset)),
                        (index, offset),
                        "{layout:?}"
                    );
                }
            }
        }
        assert_eq!(Layout::PowerOfTwo.split(u64::MAX).0, u32::MAX);
    }
}
