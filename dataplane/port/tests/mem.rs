//! The memory ports under the common suite.

mod support;

use march_port::Port;
use march_port::mem::{MemConfig, MemPort};
use march_wire::Buffer;
use support::suite::{self, Cabled};

struct Memory([MemPort; 2]);

fn cabled(config: MemConfig) -> Memory {
    Memory(
        MemPort::group(2, config)
            .into_ports()
            .try_into()
            .expect("two ports"),
    )
}

impl Cabled for Memory {
    type P = MemPort;
    fn ports(&mut self) -> &mut [MemPort; 2] {
        &mut self.0
    }
    fn send(&mut self, port: usize, frame: &[u8]) {
        self.0[port].inject(frame).expect("room for a frame");
    }
    fn receive(&mut self, port: usize) -> Option<Vec<u8>> {
        let frame = self.0[port].collect()?;
        let bytes = frame.bytes().to_vec();
        self.0[port].free(frame);
        Some(bytes)
    }
    fn frames_out(&mut self) -> usize {
        self.0[0].census().frames
    }
}

#[test]
fn conforms() {
    let mut memory = cabled(MemConfig::default());
    suite::receives_the_same_bytes(&mut memory);
    suite::forwards_between_ports_in_place(&mut memory);
    suite::prepend_and_resize_reach_the_wire(&mut memory);
    suite::allocated_frames_are_sent(&mut memory);
}

#[test]
fn a_full_ring_leaves_the_rest_in_order() {
    suite::a_full_ring_leaves_the_rest_in_order(
        &mut cabled(MemConfig {
            tx_ring: 64,
            ..MemConfig::default()
        }),
        500,
    );
}

#[test]
fn never_leaks() {
    suite::never_leaks(&mut cabled(MemConfig::default()), 1_000_000, 64);
}
