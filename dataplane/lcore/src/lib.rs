//! Pinned poll loops: frames from the ports through the pipeline and out again, run to completion.
//!
//! What it is: one thread per lcore on a core that [`Machine`] chose near the NIC; the loop that moves bursts between
//! [`march_port`] and [`march_pipeline`]; the bounded rings to the agent; the generation handoff; the lcore's own counters.
//! What it is not: it decides nothing about a packet and knows no device.
//!
//! Entry points: [`start`] for a running lcore, [`Lcore`] with [`Lcore::turn`] for a simulation that brings its own clock.
//!
//! Invariants:
//!
//! - After start an lcore never allocates, locks, logs, formats or makes a system call outside its port (with
//!   [`Idle::Relax`] it sleeps when nothing came for a while: that is the point of it).
//! - The generation and the time are read once per turn; every frame of a turn sees the same ones.
//! - Frames are owned by the lcore from `rx_burst` until `tx_burst` takes them or they are freed. Between two turns the
//!   only frames that it owns are held ones, and both equations of [`march_pipeline::PortCounters`] hold.
//! - Port `i` of an lcore's group is `PortId` `i` of every generation.
#![deny(unsafe_code)]

mod announce;
mod clock;
mod counters;
mod egress;
mod machine;
mod poll;
mod ring;
mod start;
mod sysfs;
mod trace;

pub use clock::Clock;
pub use counters::{BURST_BUCKETS, LcoreCounters};
pub use machine::{Cpu, Machine, PlacementError};
pub use poll::{Command, Idle, Lcore, Parts};
pub use ring::{FrameReceiver, FrameSender, frame_ring};
pub use start::{LcoreError, LcoreHandle, Settings, start};
pub use sysfs::{SYSFS, interface_node};
pub use trace::{FilterError, HEAD, Head, Trace, TraceFilter, TraceRecord};
