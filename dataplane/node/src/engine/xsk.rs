//! Opening `AF_XDP` ports.

use march_bpf_loader::Steering;
use march_port::PortGroup;
use march_port::xsk::{XskConfig, XskMode, XskPort, XskTarget};

use super::{EngineError, PlannedPort, Programs};

/// The receive queue that carries everything. More queues are for several lcores.
const QUEUE: u32 = 0;

/// The sockets of all ports and the program of each, loaded but not attached.
pub(super) struct Opened {
    pub group: PortGroup<XskPort>,
    pub steering: Vec<Steering>,
    pub modes: Vec<String>,
}

pub(super) fn open(
    ports: &[PlannedPort],
    macs: &[[u8; 6]],
    programs: &mut Programs,
) -> Result<Opened, EngineError> {
    for port in ports {
        refuse_many_queues(port)?;
    }
    let targets: Vec<XskTarget> = ports
        .iter()
        .map(|port| XskTarget {
            interface: port.interface.clone(),
            queue: QUEUE,
        })
        .collect();
    let group =
        XskPort::group(&targets, &XskConfig::default()).map_err(|error| blame(ports, &error))?;
    let mut steering = programs
        .take(ports.len())
        .map_err(|error| match ports.first() {
            Some(port) => EngineError::port(port, error),
            None => EngineError::Node(error),
        })?;
    let mut modes = Vec::with_capacity(ports.len());
    for (((port, socket), mac), program) in
        ports.iter().zip(group.ports()).zip(macs).zip(&mut steering)
    {
        program
            .set_mac(*mac)
            .map_err(|error| EngineError::port(port, error))?;
        program
            .register_socket(QUEUE, socket.socket())
            .map_err(|error| EngineError::port(port, error))?;
        modes.push(match socket.mode() {
            XskMode::ZeroCopy => "zero-copy".to_owned(),
            XskMode::Copy => "copy".to_owned(),
        });
    }
    Ok(Opened {
        group,
        steering,
        modes,
    })
}

/// Frames that the NIC puts into another queue than ours would never be seen.
fn refuse_many_queues(port: &PlannedPort) -> Result<(), EngineError> {
    let directory = format!("/sys/class/net/{}/queues", port.interface);
    let queues = std::fs::read_dir(directory).map_or(1, |entries| {
        entries
            .filter_map(Result::ok)
            .filter(|entry| entry.file_name().to_string_lossy().starts_with("rx-"))
            .count()
    });
    if queues <= 1 {
        return Ok(());
    }
    let reason = format!(
        "{} receives on {queues} queues and this node drives one; reduce them: ethtool -L {} combined 1",
        port.interface, port.interface
    );
    Err(EngineError::port(port, reason))
}

/// The port whose interface the error speaks of, else the first.
fn blame(ports: &[PlannedPort], error: &march_port::PortError) -> EngineError {
    let text = error.to_string();
    let port = ports
        .iter()
        .find(|port| text.contains(&format!("`{}`", port.interface)))
        .or(ports.first());
    port.map_or_else(
        || EngineError::Node(text.clone()),
        |port| EngineError::port(port, &text),
    )
}
