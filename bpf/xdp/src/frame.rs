//! The cursor over `(data, data_end)`: the bounds check in the one form that the verifier follows.

use aya_ebpf::programs::XdpContext;
use march_wire::Cursor;

/// No read begins beyond this: the verifier wants a bound on an offset before it is added to a packet pointer, and keeps
/// track of packet pointers only below 64 KiB.
pub const OFFSET_MAX: usize = 0x7fff;

/// One frame, as the driver put it in memory.
#[derive(Clone, Copy)]
pub struct Frame {
    data: usize,
    end: usize,
}

impl Frame {
    #[inline(always)]
    pub fn new(context: &XdpContext) -> Frame {
        Frame {
            data: context.data(),
            end: context.data_end(),
        }
    }
}

impl Cursor for Frame {
    #[inline(always)]
    fn read<const N: usize>(&self, offset: usize) -> Option<[u8; N]> {
        if offset > OFFSET_MAX {
            return None;
        }
        let start = self.data + offset;
        if start + N > self.end {
            return None;
        }
        // SAFETY: `start` to `start + N` lies between `data` and `data_end`; a byte array has no alignment.
        Some(unsafe { *(start as *const [u8; N]) })
    }

    #[inline(always)]
    fn len(&self) -> usize {
        // Opaque, or the compiler concludes from a length that was compared that a pointer need not be.
        core::hint::black_box(self.end - self.data)
    }
}
