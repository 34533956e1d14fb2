//! The set over memory ports: the pipeline and the lcore, no device.

use march_lcore::Lcore;
use march_port::mem::{MemConfig, MemPort};
use march_tables::{Config, Generation};

use crate::rig::{Rig, Tally, Wire};

/// No wire at all: frames are put into the ports' rings.
pub struct Memory;

impl Wire for Memory {
    type Port = MemPort;
    const TIER: &'static str = "mem";

    fn send(
        &mut self,
        lcore: &mut Lcore<MemPort>,
        port: usize,
        frame: &[u8],
    ) -> Result<(), String> {
        lcore.ports_mut()[port]
            .inject(frame)
            .map_err(|error| error.to_string())
    }

    fn receive(&mut self, lcore: &mut Lcore<MemPort>, port: usize) -> Option<Vec<u8>> {
        lcore.ports_mut()[port].collect_bytes()
    }

    fn configure(&mut self, _: &Config) -> Result<(), String> {
        Ok(())
    }

    fn outside(&mut self, _: usize) -> Result<Tally, String> {
        Ok(Tally::new())
    }

    fn patience(&self) -> std::time::Duration {
        // Nothing is under way outside of a turn.
        std::time::Duration::ZERO
    }
}

/// An lcore over `ports` memory ports.
pub fn rig(ports: usize) -> Result<Rig<Memory>, String> {
    let group = MemPort::group(ports, MemConfig::default());
    Rig::new(Memory, group.into_ports(), Generation::empty())
}
