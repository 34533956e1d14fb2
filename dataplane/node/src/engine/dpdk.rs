//! Opening DPDK ports.

use std::collections::BTreeMap;

use march_dpdk::{Devices, EalConfig, PortNumber};
use march_port::PortGroup;
use march_port::dpdk::{DpdkConfig, DpdkPort};

use super::{EngineError, PlannedPort};
use crate::kernel::state::Link;
use crate::ladder::{LinkFacts, Tier, VirtualDriver};
use crate::takeover::Takeover;

/// DPDK's environment: made with the first DPDK port, once per process, and kept.
#[derive(Debug, Default)]
pub struct Eal {
    started: Option<Result<march_dpdk::Eal, String>>,
    /// Names of virtual devices and pools are never used twice: closing them is not always at once.
    next: u32,
    /// PCI addresses of devices that were taken, by interface name, since the interface is gone with its driver.
    devices: BTreeMap<String, String>,
}

/// What is known of an opened device.
pub(super) struct Device {
    pub mac: [u8; 6],
    pub max_mtu: u32,
    pub driver: String,
}

/// The ports of the lcore and their devices.
pub(super) struct Opened {
    pub group: PortGroup<DpdkPort>,
    pub devices: Vec<Device>,
}

/// Takes a real device from the kernel for VFIO.
pub(super) fn take_device(
    port: &PlannedPort,
    link: &Link,
    takeover: &mut Takeover,
    eal: &mut Eal,
) -> Result<(), EngineError> {
    let facts = LinkFacts::gather(link);
    let pci = facts.pci.ok_or_else(|| {
        EngineError::port(port, format!("{} is not a PCI device", port.interface))
    })?;
    takeover.take_device(&port.interface, &pci.address, &pci.driver)?;
    eal.devices.insert(port.interface.clone(), pci.address);
    Ok(())
}

pub(super) fn open(ports: &[PlannedPort], eal: &mut Eal) -> Result<Opened, EngineError> {
    eal.start()?;
    let round = eal.next;
    eal.next += 1;
    let Some(Ok(running)) = &eal.started else {
        return Err(EngineError::Node("DPDK did not start".to_owned()));
    };
    let mut numbers: Vec<PortNumber> = Vec::with_capacity(ports.len());
    for (index, port) in ports.iter().enumerate() {
        let device = device_arguments(port, round, index, &eal.devices).ok_or_else(|| {
            EngineError::port(
                port,
                format!("the PCI address of {} is not known", port.interface),
            )
        })?;
        numbers.push(
            running
                .attach(&device)
                .map_err(|error| EngineError::port(port, error))?,
        );
    }
    let config = DpdkConfig {
        name: format!("marchproxy{round}"),
        ..DpdkConfig::default()
    };
    let group = DpdkPort::group(running, &numbers, &config)
        .map_err(|error| EngineError::Node(error.to_string()))?;
    let devices = group
        .ports()
        .iter()
        .zip(ports)
        .map(|(opened, port)| {
            let device = opened.device();
            let mac = device
                .mac()
                .map_err(|error| EngineError::port(port, error))?;
            let mtu = device
                .mtu()
                .map_err(|error| EngineError::port(port, error))?;
            Ok(Device {
                mac,
                max_mtu: u32::from(mtu),
                driver: device.driver().to_owned(),
            })
        })
        .collect::<Result<_, EngineError>>()?;
    Ok(Opened { group, devices })
}

fn device_arguments(
    port: &PlannedPort,
    round: u32,
    index: usize,
    taken: &BTreeMap<String, String>,
) -> Option<String> {
    let interface = &port.interface;
    match port.tier {
        Tier::DpdkVirtual(VirtualDriver::AfPacket) => Some(format!(
            "net_af_packet{round}x{index},iface={interface},framesz=2048,framecnt=1024,blocksz=16384"
        )),
        Tier::DpdkVirtual(VirtualDriver::AfXdp) => Some(format!(
            "net_af_xdp{round}x{index},iface={interface},busy_budget=0"
        )),
        Tier::DpdkVirtual(VirtualDriver::Tap) => {
            Some(format!("net_tap{round}x{index},iface={interface}"))
        }
        _ => taken.get(interface).cloned(),
    }
}

impl Eal {
    fn start(&mut self) -> Result<(), EngineError> {
        let devices = &self.devices;
        let started = self.started.get_or_insert_with(|| {
            let config = EalConfig {
                file_prefix: format!("marchdp{}", std::process::id()),
                devices: if devices.is_empty() {
                    Devices::NoPci
                } else {
                    Devices::Pci(devices.values().cloned().collect())
                },
                ..EalConfig::default()
            };
            march_dpdk::Eal::init(&config).map_err(|error| error.to_string())
        });
        match started {
            Ok(_) => Ok(()),
            Err(error) => Err(EngineError::Node(format!("DPDK does not start: {error}"))),
        }
    }
}
