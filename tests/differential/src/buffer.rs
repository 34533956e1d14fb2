//! A frame in memory of its own, with room to grow.

use march_wire::Buffer;

/// Room on either side: more than any answer needs.
const ROOM: usize = 128;

/// One frame.
#[derive(Clone, Debug)]
pub struct Memory {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl Memory {
    /// A copy of `frame`.
    #[must_use]
    pub fn of(frame: &[u8]) -> Self {
        let mut bytes = vec![0xa5; ROOM];
        bytes.extend_from_slice(frame);
        bytes.resize(bytes.len() + ROOM, 0xa5);
        Self {
            bytes,
            start: ROOM,
            end: ROOM + frame.len(),
        }
    }
}

impl Buffer for Memory {
    fn bytes(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    fn bytes_mut(&mut self) -> &mut [u8] {
        &mut self.bytes[self.start..self.end]
    }

    fn headroom(&self) -> usize {
        self.start
    }

    fn tailroom(&self) -> usize {
        self.bytes.len() - self.end
    }

    fn prepend(&mut self, count: usize) -> bool {
        let start = self.start.checked_sub(count);
        self.start = start.unwrap_or(self.start);
        start.is_some()
    }

    fn resize(&mut self, len: usize) -> bool {
        let fits = self.start + len <= self.bytes.len();
        if fits {
            self.end = self.start + len;
        }
        fits
    }
}
