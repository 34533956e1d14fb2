//! The set over DPDK's `net_af_packet` on veth. One EAL for the process: at most one such rig.

use march_dpdk::{Eal, EalConfig, Memory, Promiscuous};
use march_lcore::Lcore;
use march_port::dpdk::{DpdkConfig, DpdkPort};
use march_tables::{Config, Generation};

use crate::link::{PacketSocket, enter_namespace, veth};
use crate::rig::{Rig, Tally, Wire};
use crate::vector::Fixture;

/// The far ends of the links.
pub struct Links {
    peers: Vec<PacketSocket>,
}

impl Wire for Links {
    type Port = DpdkPort;
    const TIER: &'static str = "dpdk";

    fn send(&mut self, _: &mut Lcore<DpdkPort>, port: usize, frame: &[u8]) -> Result<(), String> {
        self.peers[port].send(frame)
    }

    fn receive(&mut self, _: &mut Lcore<DpdkPort>, port: usize) -> Option<Vec<u8>> {
        self.peers[port].receive()
    }

    fn configure(&mut self, _: &Config) -> Result<(), String> {
        Ok(())
    }

    fn outside(&mut self, _: usize) -> Result<Tally, String> {
        Ok(Tally::new())
    }
}

/// An lcore over one port for each port of `fixture`, in a namespace of this thread's own.
pub fn rig(fixture: &Fixture) -> Result<Rig<Links>, String> {
    enter_namespace()?;
    let eal = Eal::init(&EalConfig {
        file_prefix: format!("march-vectors-{}", std::process::id()),
        memory: Memory::Ordinary { megabytes: 256 },
        ..EalConfig::default()
    })
    .map_err(|error| error.to_string())?;
    let mut links = Links { peers: Vec::new() };
    let mut numbers = Vec::new();
    for (index, port) in fixture.ports.iter().enumerate() {
        veth(port, &fixture.names.values[port], &format!("{port}-far"))?;
        links
            .peers
            .push(PacketSocket::open(&format!("{port}-far"))?);
        let device = format!("net_af_packet{index},iface={port}");
        numbers.push(
            eal.attach(&device)
                .map_err(|error| format!("{device}: {error}"))?,
        );
    }
    let config = DpdkConfig {
        // Frames for other MAC addresses are the pipeline's to refuse.
        promiscuous: Promiscuous::On,
        ..DpdkConfig::default()
    };
    let group = DpdkPort::group(&eal, &numbers, &config).map_err(|error| error.to_string())?;
    Rig::new(links, group.into_ports(), Generation::empty())
}
