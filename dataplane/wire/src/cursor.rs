//! How the decoders read bytes: the one interface that a slice and an XDP program's `(data, data_end)` share.
//!
//! Every read names a constant length and returns the bytes by value, so that an implementation needs exactly one bounds
//! check per read. The BPF verifier accepts such a check only as a comparison of pointers against `data_end`; for a
//! slice it is `get`.

/// Read-only, bounds-checked access to one frame. Offset 0 is the first byte of the Ethernet header.
pub trait Cursor: Copy {
    /// The `N` bytes from `offset` on, or `None` if any of them lies beyond the end.
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]>;

    /// Length of the frame in bytes.
    fn len(&self) -> usize;

    /// True for a frame without any byte.
    #[inline]
    fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// One byte.
    #[inline]
    fn read_u8(&self, offset: usize) -> Option<u8> {
        self.read::<1>(offset).map(|[byte]| byte)
    }

    /// A 16-bit number in network byte order.
    #[inline]
    fn read_u16(&self, offset: usize) -> Option<u16> {
        self.read(offset).map(u16::from_be_bytes)
    }

    /// A 32-bit number in network byte order.
    #[inline]
    fn read_u32(&self, offset: usize) -> Option<u32> {
        self.read(offset).map(u32::from_be_bytes)
    }
}

/// The cursor of userspace: a slice.
pub type SliceCursor<'a> = &'a [u8];

impl Cursor for SliceCursor<'_> {
    #[inline]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        self.get(offset..)?.first_chunk().copied()
    }

    #[inline]
    fn len(&self) -> usize {
        <[u8]>::len(self)
    }
}

/// Writes `value` at `offset`; `None` and no change if it does not fit.
#[inline]
pub(crate) fn put<const N: usize>(bytes: &mut [u8], offset: usize, value: [u8; N]) -> Option<()> {
    *bytes.get_mut(offset..)?.first_chunk_mut()? = value;
    Some(())
}

/// Writes a 16-bit number in network byte order.
#[inline]
pub(crate) fn put_u16(bytes: &mut [u8], offset: usize, value: u16) -> Option<()> {
    put(bytes, offset, value.to_be_bytes())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_stop_at_the_end() {
        let bytes: &[u8] = &[1, 2, 3, 4];
        assert_eq!(bytes.read::<4>(0), Some([1, 2, 3, 4]));
        assert_eq!(bytes.read::<2>(2), Some([3, 4]));
        assert_eq!(bytes.read::<2>(3), None);
        assert_eq!(bytes.read::<1>(4), None);
        assert_eq!(bytes.read::<0>(4), Some([]));
        assert_eq!(bytes.read::<1>(usize::MAX), None);
        assert_eq!(bytes.read_u16(1), Some(0x0203));
        assert_eq!(bytes.read_u32(0), Some(0x0102_0304));
        assert_eq!(bytes.read_u32(1), None);
        assert!(!Cursor::is_empty(&bytes));
    }

    #[test]
    fn writes_stop_at_the_end() {
        let mut bytes = [0u8; 4];
        assert_eq!(put_u16(&mut bytes, 2, 0x0102), Some(()));
        assert_eq!(put_u16(&mut bytes, 3, 0xffff), None);
        assert_eq!(bytes, [0, 0, 1, 2]);
    }
}
