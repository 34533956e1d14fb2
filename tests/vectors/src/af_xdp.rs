//! The set over `AF_XDP` sockets on veth, behind the steering program.

use std::net::IpAddr;

use march_bpf_loader::{AddressSet, NatAddress, Steering, Transit};
use march_lcore::Lcore;
use march_port::xsk::{XskConfig, XskPort, XskTarget};
use march_tables::{Action, Config, Generation, Mode, Stance};

use crate::encode::parse_literal;
use crate::link::{PacketSocket, enter_namespace, veth};
use crate::rig::{Rig, Tally, Wire};
use crate::vector::Fixture;

/// The far ends of the links, and the programs in front of the sockets.
pub struct Links {
    peers: Vec<PacketSocket>,
    programs: Vec<Steering>,
}

impl Wire for Links {
    type Port = XskPort;
    const TIER: &'static str = "af_xdp";

    fn send(&mut self, _: &mut Lcore<XskPort>, port: usize, frame: &[u8]) -> Result<(), String> {
        self.peers[port].send(frame)
    }

    fn receive(&mut self, _: &mut Lcore<XskPort>, port: usize) -> Option<Vec<u8>> {
        self.peers[port].receive()
    }

    fn configure(&mut self, config: &Config) -> Result<(), String> {
        let set = address_set(config);
        for program in &mut self.programs {
            program.publish(&set).map_err(|error| error.to_string())?;
        }
        Ok(())
    }

    fn outside(&mut self, port: usize) -> Result<Tally, String> {
        let counters = self.programs[port]
            .counters()
            .map_err(|error| error.to_string())?;
        let drops: Vec<_> = counters.drops().collect();
        let sum = |value: fn(&march_bpf_loader::Tally) -> u64| {
            value(&counters.passed) + drops.iter().map(|(_, tally)| value(tally)).sum::<u64>()
        };
        let mut tally = Tally::from([
            ("rx_frames".to_owned(), sum(|tally| tally.packets)),
            ("rx_bytes".to_owned(), sum(|tally| tally.bytes)),
            ("punted".to_owned(), counters.passed.packets),
        ]);
        for (reason, count) in drops {
            tally.insert(format!("drop({reason})"), count.packets);
        }
        Ok(tally)
    }
}

/// What the programs are told: every address that is ours, the kernel's own, and whether anything else may concern us.
fn address_set(config: &Config) -> AddressSet {
    let nat = config.ports.iter().flat_map(|port| {
        let range = (port.nat4.first_port, port.nat4.last_port);
        let v4 = port.nat4.addresses.iter().copied().map(IpAddr::V4);
        let v6 = port.nat6.addresses.iter().copied().map(IpAddr::V6);
        v4.chain(v6).map(move |address| NatAddress {
            address,
            first_port: range.0,
            last_port: range.1,
        })
    });
    let acts = config.rules.iter().any(|rule| rule.action != Action::Drop);
    let lets_through = |port: &march_tables::PortTable| port.unmatched.transit == Stance::Allow;
    // Under `nat` the backends' replies go to the client's own address, which is nobody's here.
    let keeps_clients = |service: &march_tables::Service| service.mode == Mode::Nat;
    AddressSet {
        kernel: config.local.to_vec(),
        vips: config
            .services
            .iter()
            .map(|service| service.address)
            .collect(),
        nat: nat.collect(),
        transit: if acts
            || config.ports.iter().any(lets_through)
            || config.services.iter().any(keeps_clients)
        {
            Transit::Judged
        } else {
            Transit::Denied
        },
    }
}

/// An lcore over one `AF_XDP` port on veth for each port of `fixture`, in a namespace of this thread's own.
pub fn rig(fixture: &Fixture) -> Result<Rig<Links>, String> {
    enter_namespace()?;
    let mut links = Links {
        peers: Vec::new(),
        programs: Vec::new(),
    };
    let mut targets = Vec::new();
    for port in &fixture.ports {
        let mac = &fixture.names.values[port];
        veth(port, mac, &format!("{port}-far"))?;
        links
            .peers
            .push(PacketSocket::open(&format!("{port}-far"))?);
        targets.push(XskTarget {
            interface: port.clone(),
            queue: 0,
        });
    }
    let group =
        XskPort::group(&targets, &XskConfig::default()).map_err(|error| error.to_string())?;
    for port in group.ports() {
        let mac = parse_literal(&fixture.names.values[port.interface()], 6)
            .and_then(|bytes| bytes.try_into().ok())
            .ok_or_else(|| format!("{} has no MAC address", port.interface()))?;
        let program =
            program(port, mac).map_err(|error| format!("{}: {error}", port.interface()))?;
        links.programs.push(program);
    }
    Rig::new(links, group.into_ports(), Generation::empty())
}

fn program(port: &XskPort, mac: [u8; 6]) -> Result<Steering, march_bpf_loader::LoaderError> {
    let mut program = Steering::load()?;
    program.set_mac(mac)?;
    program.register_socket(port.queue(), port.socket())?;
    program.attach(port.interface())?;
    Ok(program)
}
