//! What every implementation of `Port` must do, whatever is behind it.

use std::time::{Duration, Instant};

use march_port::{BURST, Frame, Port};
use march_wire::Buffer;

/// How long anything may take to arrive before the test gives up on it.
const DEADLINE: Duration = Duration::from_secs(20);

/// Two ports that share a pool, and the far ends of their cables.
pub trait Cabled {
    type P: Port;
    fn ports(&mut self) -> &mut [Self::P; 2];
    /// Sends a frame from the far end of a port's cable. May be called more often than anyone receives.
    fn send(&mut self, port: usize, frame: &[u8]);
    /// The next frame at the far end of a port's cable.
    fn receive(&mut self, port: usize) -> Option<Vec<u8>>;
    /// Frames of the pool that are in somebody's hands, as far as the implementation can say.
    fn frames_out(&mut self) -> usize;
    /// Lets things settle that only happen when the far end or a device is looked at.
    fn settle(&mut self) {}
}

/// A frame that says which one it is: an experimental Ethernet type, a number, and bytes that depend on it.
pub fn numbered(number: u32, len: usize) -> Vec<u8> {
    let mut frame = vec![0x02, 0, 0, 0, 0, 2, 0x02, 0, 0, 0, 0, 1, 0x88, 0xb5];
    frame.extend(number.to_be_bytes());
    frame
        .extend((frame.len()..len).map(|at| (at as u32).wrapping_mul(number | 1).to_be_bytes()[3]));
    frame
}

pub fn number_of(frame: &[u8]) -> u32 {
    u32::from_be_bytes(frame[14..18].try_into().expect("a numbered frame"))
}

/// Calls `step` until it says that it is done; fails the test when that takes too long.
pub fn until(what: &str, mut step: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !step() {
        assert!(Instant::now() < deadline, "timed out: {what}");
        std::thread::yield_now();
    }
}

fn burst() -> Vec<Frame> {
    Vec::with_capacity(BURST)
}

/// Receives `count` frames on a port.
fn receive_frames<C: Cabled>(cabled: &mut C, port: usize, count: usize) -> Vec<Frame> {
    let (mut all, mut one) = (Vec::new(), burst());
    until("frames received", || {
        cabled.settle();
        let port = &mut cabled.ports()[port];
        port.poll();
        let before = one.len();
        let got = port.rx_burst(&mut one);
        assert_eq!(one.len(), before + got);
        assert!(one.len() <= BURST);
        all.append(&mut one);
        all.len() >= count
    });
    assert_eq!(all.len(), count);
    all
}

/// Transmits all frames, as often as it takes.
fn transmit<C: Cabled>(cabled: &mut C, port: usize, frames: &mut Vec<Frame>) {
    until("frames transmitted", || {
        let port = &mut cabled.ports()[port];
        port.tx_burst(frames);
        port.poll();
        frames.is_empty()
    });
}

fn far_end<C: Cabled>(cabled: &mut C, port: usize, count: usize) -> Vec<Vec<u8>> {
    let mut received = Vec::new();
    until("frames at the far end", || {
        cabled.ports()[port].poll();
        cabled.settle();
        received.extend(core::iter::from_fn(|| cabled.receive(port)));
        received.len() >= count
    });
    assert_eq!(received.len(), count);
    received
}

fn no_frame_is_out<C: Cabled>(cabled: &mut C) {
    until("every frame back in the pool or with the device", || {
        for port in cabled.ports() {
            port.poll();
        }
        cabled.settle();
        cabled.frames_out() == 0
    });
}

/// Bytes, lengths, order and headroom of what is received.
pub fn receives_the_same_bytes<C: Cabled>(cabled: &mut C) {
    let sent: Vec<Vec<u8>> = (0..200u32)
        .map(|number| numbered(number, 60 + number as usize * 7))
        .collect();
    for frames in sent.chunks(50) {
        for frame in frames {
            cabled.send(0, frame);
        }
        let received = receive_frames(cabled, 0, frames.len());
        for (frame, sent) in received.iter().zip(frames) {
            assert_eq!(frame.bytes(), sent);
            assert!(
                frame.headroom() >= 128,
                "{} bytes of headroom",
                frame.headroom()
            );
        }
        for frame in received {
            cabled.ports()[0].free(frame);
        }
    }
    no_frame_is_out(cabled);
}

/// A frame received on one port leaves on the other with its bytes where they were.
pub fn forwards_between_ports_in_place<C: Cabled>(cabled: &mut C) {
    for number in 0..100u32 {
        cabled.send(0, &numbered(number, 300));
    }
    let mut frames = receive_frames(cabled, 0, 100);
    for frame in &mut frames {
        let last = frame.len() - 1;
        frame.bytes_mut()[last] = 0x5a;
    }
    transmit(cabled, 1, &mut frames);
    for (number, frame) in far_end(cabled, 1, 100).into_iter().enumerate() {
        let mut expected = numbered(number as u32, 300);
        expected[299] = 0x5a;
        assert_eq!(frame, expected);
    }
    no_frame_is_out(cabled);
}

/// Headroom and tailroom reach the wire.
pub fn prepend_and_resize_reach_the_wire<C: Cabled>(cabled: &mut C) {
    cabled.send(0, &numbered(7, 100));
    cabled.send(0, &numbered(8, 100));
    cabled.send(0, &numbered(9, 100));
    let mut frames = receive_frames(cabled, 0, 3);
    let outer = numbered(1000, 64);
    assert!(frames[0].prepend(outer.len()));
    frames[0].bytes_mut()[..outer.len()].copy_from_slice(&outer);
    assert!(frames[1].resize(80));
    assert!(frames[2].resize(140));
    frames[2].bytes_mut()[100..].fill(0xee);
    transmit(cabled, 1, &mut frames);
    let received = far_end(cabled, 1, 3);
    assert_eq!(received[0], [&outer[..], &numbered(7, 100)].concat());
    assert_eq!(received[1], numbered(8, 100)[..80]);
    assert_eq!(received[2], [&numbered(9, 100)[..], &[0xee; 40]].concat());
    no_frame_is_out(cabled);
}

/// A frame of our own making.
pub fn allocated_frames_are_sent<C: Cabled>(cabled: &mut C) {
    let mut frame = cabled.ports()[0]
        .allocate()
        .expect("a pool that is not dry");
    assert!(frame.headroom() >= 128);
    assert_eq!(frame.len(), 0);
    assert!(frame.resize(600));
    frame.bytes_mut().copy_from_slice(&numbered(3, 600));
    transmit(cabled, 0, &mut vec![frame]);
    assert_eq!(far_end(cabled, 0, 1)[0], numbered(3, 600));
    no_frame_is_out(cabled);
}

/// More frames than the transmit ring holds: what it does not take stays, in order, and nothing is lost.
pub fn a_full_ring_leaves_the_rest_in_order<C: Cabled>(cabled: &mut C, frames: u32) {
    let mut waiting = Vec::new();
    for number in 0..frames {
        let mut frame = cabled.ports()[1]
            .allocate()
            .expect("a pool that is not dry");
        assert!(frame.resize(64));
        frame.bytes_mut().copy_from_slice(&numbered(number, 64));
        waiting.push(frame);
    }
    let mut refused = false;
    let mut taken = 0;
    let mut received = Vec::new();
    until("everything sent", || {
        let port = &mut cabled.ports()[1];
        let before = waiting.len();
        let count = port.tx_burst(&mut waiting);
        assert_eq!(before - count, waiting.len());
        taken += count as u32;
        refused |= count < before;
        if let Some(first) = waiting.first() {
            assert_eq!(
                number_of(first.bytes()),
                taken,
                "the rest starts where the ring stopped"
            );
            port.poll();
            received.extend(core::iter::from_fn(|| cabled.receive(1)));
        }
        waiting.is_empty()
    });
    assert!(refused, "the ring was never full");
    received.extend(far_end(cabled, 1, frames as usize - received.len()));
    for (number, frame) in received.iter().enumerate() {
        assert_eq!(number_of(frame), number as u32);
    }
    no_frame_is_out(cabled);
}

/// Many frames from one port to the other, in rounds: as many come out as went in, and the pool is whole afterwards.
pub fn never_leaks<C: Cabled>(cabled: &mut C, frames: u32, round: u32) {
    let mut one = burst();
    let (mut sent, mut forwarded, mut received) = (0u32, 0u32, 0u32);
    let deadline = Instant::now() + 6 * DEADLINE;
    while received < frames {
        assert!(
            Instant::now() < deadline,
            "{sent} sent, {forwarded} forwarded, {received} received"
        );
        while sent < frames && sent - received < round {
            cabled.send(0, &numbered(sent, 60));
            sent += 1;
        }
        cabled.settle();
        let ports = cabled.ports();
        ports[0].poll();
        forwarded += ports[0].rx_burst(&mut one) as u32;
        ports[1].tx_burst(&mut one);
        ports[1].poll();
        while let Some(frame) = cabled.receive(1) {
            assert_eq!(number_of(&frame), received);
            received += 1;
        }
    }
    assert_eq!((sent, forwarded, received), (frames, frames, frames));
    no_frame_is_out(cabled);
    for port in cabled.ports() {
        assert_eq!(
            port.device_counters(),
            march_port::DeviceCounters::default()
        );
        assert_eq!(port.counters_probe().read(), port.device_counters());
    }
}
