//! Frames between an lcore and the agent: a bounded ring of buffers that were allocated at start.
//!
//! Frames of a port cannot leave their lcore (they are not `Send`, and their pool belongs to the port), so the bytes are
//! copied into one of the ring's own buffers. Buffers go round: free ones to the sender, filled ones to the receiver.

use std::sync::Arc;

use crossbeam_queue::ArrayQueue;
use march_tables::PortId;

/// Bytes that one buffer holds: larger than any frame of a port (their buffers have 4096 at most).
const SLOT_BYTES: usize = 4096;

#[derive(Debug)]
struct Slot {
    port: PortId,
    len: usize,
    bytes: Box<[u8]>,
}

#[derive(Debug)]
struct Ring {
    free: ArrayQueue<Slot>,
    filled: ArrayQueue<Slot>,
}

/// A ring of `slots` frames.
///
/// # Panics
/// If `slots` is 0.
#[must_use]
pub fn frame_ring(slots: usize) -> (FrameSender, FrameReceiver) {
    let ring = Ring {
        free: ArrayQueue::new(slots),
        filled: ArrayQueue::new(slots),
    };
    for _ in 0..slots {
        let slot = Slot {
            port: 0,
            len: 0,
            bytes: vec![0; SLOT_BYTES].into(),
        };
        ring.free.push(slot).expect("as many slots as places");
    }
    let ring = Arc::new(ring);
    (FrameSender(Arc::clone(&ring)), FrameReceiver(ring))
}

/// The end that frames go into.
#[derive(Debug)]
pub struct FrameSender(Arc<Ring>);

impl FrameSender {
    /// Copies a frame into the ring. `false` if the ring is full or the frame is longer than 4096 bytes.
    #[inline]
    #[must_use]
    pub fn send(&self, port: PortId, frame: &[u8]) -> bool {
        self.send_leaving(0, port, frame)
    }

    /// The same if that leaves `kept` of the ring's places free.
    #[inline]
    #[must_use]
    pub fn send_leaving(&self, kept: usize, port: PortId, frame: &[u8]) -> bool {
        if frame.len() > SLOT_BYTES || (kept > 0 && self.0.free.len() <= kept) {
            return false;
        }
        let Some(mut slot) = self.0.free.pop() else {
            return false;
        };
        slot.port = port;
        slot.len = frame.len();
        slot.bytes[..frame.len()].copy_from_slice(frame);
        // There are as many slots as places.
        self.0.filled.push(slot).is_ok()
    }
}

impl FrameSender {
    /// Frames that fit.
    pub fn capacity(&self) -> usize {
        self.0.free.capacity()
    }
}

/// The end that frames come out of.
#[derive(Debug)]
pub struct FrameReceiver(Arc<Ring>);

impl FrameReceiver {
    /// Shows the oldest frame and its port to `read`, then takes its buffer back. `None` if the ring is empty.
    #[inline]
    pub fn receive<R>(&self, read: impl FnOnce(PortId, &[u8]) -> R) -> Option<R> {
        let slot = self.0.filled.pop()?;
        let result = read(slot.port, &slot.bytes[..slot.len]);
        let returned = self.0.free.push(slot);
        debug_assert!(returned.is_ok(), "as many slots as places");
        Some(result)
    }

    /// Frames that wait.
    pub fn len(&self) -> usize {
        self.0.filled.len()
    }

    /// True where nothing waits.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.filled.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn is_bounded_in_order_and_reusable() {
        let (sender, receiver) = frame_ring(2);
        for round in 0_u8..5 {
            assert!(sender.send(1, &[round; 60]));
            assert!(sender.send(2, &[round + 100; 1514]));
            assert!(!sender.send(3, &[0]), "full");
            assert_eq!(receiver.len(), 2);
            assert_eq!(
                receiver.receive(|port, bytes| (port, bytes.to_vec())),
                Some((1, vec![round; 60]))
            );
            assert_eq!(
                receiver.receive(|port, bytes| (port, bytes.len())),
                Some((2, 1514))
            );
            assert!(receiver.receive(|_, _| ()).is_none());
        }
    }

    #[test]
    fn a_part_can_be_kept_for_others() {
        let (sender, receiver) = frame_ring(4);
        let taken = (0..4).filter(|_| sender.send_leaving(1, 0, &[1])).count();
        assert_eq!(taken, 3, "one place stays");
        assert!(sender.send(0, &[2]), "for whom it was kept");
        assert!(!sender.send(0, &[2]));
        assert_eq!(receiver.receive(|_, _| ()), Some(()));
        assert!(!sender.send_leaving(1, 0, &[1]));
        assert!(sender.send(0, &[2]));
    }

    #[test]
    fn refuses_what_does_not_fit() {
        let (sender, receiver) = frame_ring(1);
        assert!(!sender.send(0, &[0; SLOT_BYTES + 1]));
        assert!(sender.send(0, &[7; SLOT_BYTES]));
        assert_eq!(receiver.receive(|_, bytes| bytes.len()), Some(SLOT_BYTES));
    }

    #[test]
    fn nothing_is_lost_between_threads() {
        let (sender, receiver) = frame_ring(4);
        let reader = std::thread::spawn(move || {
            let mut expected = 0_u32;
            while expected < 10_000 {
                let got = receiver.receive(|_, bytes| bytes.to_vec());
                if let Some(bytes) = got {
                    assert_eq!(bytes, expected.to_be_bytes());
                    expected += 1;
                } else {
                    std::thread::yield_now();
                }
            }
        });
        for number in 0_u32..10_000 {
            while !sender.send(0, &number.to_be_bytes()) {
                std::thread::yield_now();
            }
        }
        reader.join().expect("every frame, in order");
    }
}
