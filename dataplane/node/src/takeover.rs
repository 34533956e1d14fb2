//! Taking interfaces from the kernel and giving them back.
//!
//! Every change goes through the journal first. Giving back is the same code at an orderly exit, at the next start after a
//! kill, and for `--detach`; it is idempotent, goes on after a failure, and keeps what failed in the journal.

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::path::Path;
use std::time::Duration;

use rtnetlink::Handle;
use rtnetlink::packet_core::{Emitable, ParseableParametrized};
use rtnetlink::packet_route::RouteNetlinkMessage;
use rtnetlink::packet_route::address::AddressMessage;
use rtnetlink::packet_route::route::RouteMessage;

use crate::journal::{Entry, Journal, JournalError};
use crate::kernel::change::{self, Added, Arp, Multicast};
use crate::kernel::{KernelError, Prefix, sysctl};
use crate::last_good::{hex, unhex};

/// How long an interface may take to come back after its driver was given back.
const INTERFACE_RETURN: Duration = Duration::from_secs(5);

/// What can go wrong while taking or giving back.
#[derive(Debug, thiserror::Error)]
pub enum TakeoverError {
    /// The journal could not be written, so nothing was changed.
    #[error(transparent)]
    Journal(#[from] JournalError),
    /// The kernel refused.
    #[error(transparent)]
    Kernel(#[from] KernelError),
    /// A PCI device would not change its driver.
    #[error("{path}: {error}")]
    Driver {
        /// The file that was written.
        path: String,
        /// Why.
        error: std::io::Error,
    },
}

/// What an interface carried when it was taken.
#[derive(Debug, Default)]
pub struct Carried {
    /// Its addresses.
    pub addresses: Vec<AddressMessage>,
    /// Routes through it that its addresses alone do not bring.
    pub routes: Vec<RouteMessage>,
    /// Its index.
    pub link: u32,
}

/// The owner of the journal.
#[derive(Debug)]
pub struct Takeover {
    journal: Journal,
    handle: Handle,
    /// Until when interfaces may come back whose devices were just given to their drivers.
    return_by: Option<tokio::time::Instant>,
}

impl Takeover {
    /// Opens the journal in `state_dir`.
    pub fn open(state_dir: &Path, handle: Handle) -> Result<Self, TakeoverError> {
        Ok(Self {
            journal: Journal::open(state_dir)?,
            handle,
            return_by: None,
        })
    }

    /// How many changes are to be given back.
    #[must_use]
    pub fn outstanding(&self) -> usize {
        self.journal.entries().len()
    }

    /// Gives everything back. Returns what could not be, in words; that stays in the journal.
    pub async fn give_back(&mut self) -> Vec<String> {
        let mut entries = self.journal.entries().to_vec();
        entries.sort_by_key(rank);
        let mut failures = Vec::new();
        for entry in entries {
            match self
                .undo(&entry)
                .await
                .and_then(|()| Ok(self.journal.remove(&entry)?))
            {
                Ok(()) => {
                    if matches!(entry, Entry::Driver { .. }) {
                        self.return_by = Some(tokio::time::Instant::now() + INTERFACE_RETURN);
                    }
                    tracing::info!(event = "takeover.given_back", what = %describe(&entry), "given back");
                }
                Err(error) => {
                    tracing::error!(event = "takeover.give_back_failed", what = %describe(&entry), %error, "not given back");
                    failures.push(format!("{}: {error}", describe(&entry)));
                }
            }
        }
        failures
    }

    /// Gives back what concerns one interface and leaves the rest.
    pub async fn give_back_interface(&mut self, name: &str) -> Vec<String> {
        let mut entries: Vec<Entry> = self
            .journal
            .entries()
            .iter()
            .filter(|entry| concerns(entry, name))
            .cloned()
            .collect();
        entries.sort_by_key(rank);
        let mut failures = Vec::new();
        for entry in entries {
            if let Err(error) = self
                .undo(&entry)
                .await
                .and_then(|()| Ok(self.journal.remove(&entry)?))
            {
                failures.push(format!("{}: {error}", describe(&entry)));
            }
        }
        failures
    }

    /// Writes a setting that is given back later. What already holds `value` is left alone.
    pub fn set_sysctl(&mut self, path: &str, value: &str) -> Result<(), TakeoverError> {
        let before = sysctl::read(path)?;
        if before == value {
            return Ok(());
        }
        let is_known = self
            .journal
            .entries()
            .iter()
            .any(|entry| matches!(entry, Entry::Sysctl { path: known, .. } if known == path));
        if !is_known {
            self.journal.add(Entry::Sysctl {
                path: path.to_owned(),
                value: before,
            })?;
        }
        Ok(sysctl::write(path, value)?)
    }

    /// Keeps the kernel from routing what arrives on an interface.
    pub fn stop_forwarding(&mut self, interface: &str) -> Result<(), TakeoverError> {
        for family in ["ipv4", "ipv6"] {
            let path = sysctl::interface_path(family, interface, "forwarding");
            if Path::new(&path).exists() {
                self.set_sysctl(&path, "0")?;
            }
        }
        Ok(())
    }

    /// Makes the set of blackhole routes exactly `wanted`.
    pub async fn set_blackholes(&mut self, wanted: &BTreeSet<Prefix>) -> Result<(), TakeoverError> {
        let present: BTreeSet<Prefix> = self
            .journal
            .entries()
            .iter()
            .filter_map(|entry| match entry {
                Entry::Blackhole { address, len } => Some(Prefix {
                    address: *address,
                    len: *len,
                }),
                _ => None,
            })
            .collect();
        for prefix in wanted.difference(&present) {
            self.journal.add(Entry::Blackhole {
                address: prefix.address,
                len: prefix.len,
            })?;
            if let Err(error) = change::add_blackhole(&self.handle, *prefix).await {
                // Struck out once it is surely not there, so that the next call tries again.
                change::remove_blackhole(&self.handle, *prefix).await?;
                self.journal.remove(&Entry::Blackhole {
                    address: prefix.address,
                    len: prefix.len,
                })?;
                return Err(error.into());
            }
        }
        for prefix in present.difference(wanted) {
            change::remove_blackhole(&self.handle, *prefix).await?;
            self.journal.remove(&Entry::Blackhole {
                address: prefix.address,
                len: prefix.len,
            })?;
        }
        Ok(())
    }

    /// Puts a service's address on an interface. One that is there already is not ours to take away.
    pub async fn put_service_address(
        &mut self,
        address: IpAddr,
        interface: &str,
    ) -> Result<(), TakeoverError> {
        let entry = Entry::ServiceAddress {
            address,
            interface: interface.to_owned(),
        };
        let is_ours = self.journal.entries().contains(&entry);
        let link = self.index_of(interface).await?;
        self.journal.add(entry.clone())?;
        let added = change::add_service_address(&self.handle, address, link).await?;
        if added == Added::AlreadyThere && !is_ours {
            self.journal.remove(&entry)?;
        }
        Ok(())
    }

    /// Takes a service's address off an interface, if it was put there.
    pub async fn drop_service_address(
        &mut self,
        address: IpAddr,
        interface: &str,
    ) -> Result<(), TakeoverError> {
        let entry = Entry::ServiceAddress {
            address,
            interface: interface.to_owned(),
        };
        if self.journal.entries().contains(&entry) {
            self.undo(&entry).await?;
            self.journal.remove(&entry)?;
        }
        Ok(())
    }

    /// Writes down what an interface carries, then takes it all off. The interface stays up.
    pub async fn take_addresses(
        &mut self,
        interface: &str,
        link: u32,
    ) -> Result<Carried, TakeoverError> {
        let addresses = change::addresses_of(&self.handle, link).await?;
        let routes = change::routes_through(&self.handle, link).await?;
        for address in &addresses {
            self.journal.add(Entry::Address {
                interface: interface.to_owned(),
                text: change::describe_address(address),
                message: encode(&RouteNetlinkMessage::NewAddress(address.clone())),
            })?;
        }
        for route in &routes {
            self.journal.add(Entry::Route {
                interface: interface.to_owned(),
                index: link,
                text: change::describe_route(route),
                message: encode(&RouteNetlinkMessage::NewRoute(route.clone())),
            })?;
        }
        for address in &addresses {
            change::remove_address(&self.handle, address).await?;
        }
        tracing::info!(
            event = "takeover.addresses_taken",
            interface,
            addresses = addresses.len(),
            routes = routes.len(),
            "addresses and routes taken off the interface"
        );
        Ok(Carried {
            addresses,
            routes,
            link,
        })
    }

    /// Puts what was taken onto another interface: the twin.
    pub async fn put_on(&self, carried: &Carried, link: u32) -> Result<(), TakeoverError> {
        for address in &carried.addresses {
            change::add_address(&self.handle, address, link).await?;
        }
        for route in &carried.routes {
            if let Err(error) = change::add_route(&self.handle, route, carried.link, link).await {
                tracing::warn!(event = "takeover.route_not_moved", %error, "a route could not be moved to the twin");
            }
        }
        Ok(())
    }

    /// Makes the kernel deaf on an interface whose frames a packet socket takes: no IPv6, no ARP, nothing received.
    pub async fn silence(&mut self, interface: &str, link: u32) -> Result<(), TakeoverError> {
        let disable_ipv6 = sysctl::interface_path("ipv6", interface, "disable_ipv6");
        if Path::new(&disable_ipv6).exists() {
            self.set_sysctl(&disable_ipv6, "1")?;
        }
        let was = change::arp_of(&self.handle, link).await?;
        self.journal.add(Entry::ArpOff {
            interface: interface.to_owned(),
            was,
        })?;
        change::set_arp(&self.handle, link, Arp::Off).await?;
        self.journal.add(Entry::IngressDrop {
            interface: interface.to_owned(),
        })?;
        change::drop_ingress(interface).await?;
        Ok(())
    }

    /// Makes the device let in neighbour solicitations for addresses that the kernel does not have: the groups of services'
    /// addresses are none that the kernel has joined.
    pub async fn hear_all_multicast(
        &mut self,
        interface: &str,
        link: u32,
    ) -> Result<(), TakeoverError> {
        if change::multicast_of(&self.handle, link).await? == Multicast::All {
            return Ok(());
        }
        self.journal.add(Entry::AllMulticast {
            interface: interface.to_owned(),
        })?;
        Ok(change::set_multicast(&self.handle, link, Multicast::All).await?)
    }

    /// Takes the PCI device of an interface that is up from its kernel driver and binds it to `vfio-pci`.
    pub fn take_device(
        &mut self,
        interface: &str,
        device: &str,
        driver: &str,
    ) -> Result<(), TakeoverError> {
        self.journal.add(Entry::LinkUp {
            interface: interface.to_owned(),
        })?;
        self.journal.add(Entry::Driver {
            device: device.to_owned(),
            driver: driver.to_owned(),
        })?;
        bind(device, "vfio-pci")
    }

    async fn undo(&self, entry: &Entry) -> Result<(), TakeoverError> {
        match entry {
            Entry::Sysctl { path, value } if Path::new(path).exists() => {
                Ok(sysctl::write(path, value)?)
            }
            Entry::Sysctl { .. } => Ok(()),
            Entry::Blackhole { address, len } => Ok(change::remove_blackhole(
                &self.handle,
                Prefix {
                    address: *address,
                    len: *len,
                },
            )
            .await?),
            Entry::Address {
                interface, message, ..
            } => {
                let link = self.index_of(interface).await?;
                match decode(message) {
                    Some(RouteNetlinkMessage::NewAddress(address)) => {
                        Ok(change::add_address(&self.handle, &address, link).await?)
                    }
                    _ => Ok(()),
                }
            }
            Entry::Route {
                interface,
                index,
                message,
                ..
            } => {
                let link = self.index_of(interface).await?;
                match decode(message) {
                    Some(RouteNetlinkMessage::NewRoute(route)) => {
                        Ok(change::add_route(&self.handle, &route, *index, link).await?)
                    }
                    _ => Ok(()),
                }
            }
            Entry::AllMulticast { interface } => {
                let link = self.index_of(interface).await?;
                Ok(change::set_multicast(&self.handle, link, Multicast::Joined).await?)
            }
            Entry::ArpOff { interface, was } => {
                let link = self.index_of(interface).await?;
                Ok(change::set_arp(&self.handle, link, *was).await?)
            }
            Entry::IngressDrop { interface } => Ok(change::allow_ingress(interface).await?),
            Entry::Driver { device, driver } => bind(device, driver),
            Entry::LinkUp { interface } => {
                let link = self.index_of(interface).await?;
                Ok(change::set_up(&self.handle, link).await?)
            }
            Entry::ServiceAddress { address, interface } => {
                // An interface that is gone took the address with it.
                let Some(link) = change::index_of(&self.handle, interface).await? else {
                    return Ok(());
                };
                Ok(change::remove_service_address(&self.handle, *address, link).await?)
            }
        }
    }

    /// The interface's index now. A device that was just given back to its driver takes a moment to have one.
    async fn index_of(&self, interface: &str) -> Result<u32, KernelError> {
        loop {
            if let Some(index) = change::index_of(&self.handle, interface).await? {
                return Ok(index);
            }
            let is_over = |deadline| tokio::time::Instant::now() > deadline;
            if self.return_by.is_none_or(is_over) {
                return Err(KernelError::NoInterface(interface.to_owned()));
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }
}

/// The order of giving back: devices, then what makes an interface work, then what stands on it.
fn rank(entry: &Entry) -> u8 {
    match entry {
        Entry::Driver { .. } => 0,
        Entry::IngressDrop { .. } | Entry::ArpOff { .. } | Entry::AllMulticast { .. } => 1,
        Entry::Sysctl { .. } => 2,
        Entry::LinkUp { .. } => 3,
        Entry::Address { .. } => 4,
        Entry::Route { .. } => 5,
        Entry::Blackhole { .. } | Entry::ServiceAddress { .. } => 6,
    }
}

fn concerns(entry: &Entry, name: &str) -> bool {
    match entry {
        Entry::Address { interface, .. }
        | Entry::Route { interface, .. }
        | Entry::ArpOff { interface, .. }
        | Entry::AllMulticast { interface }
        | Entry::LinkUp { interface }
        | Entry::IngressDrop { interface } => interface == name,
        Entry::Sysctl { path, .. } => path.split('/').any(|part| part == name),
        Entry::Driver { .. } | Entry::Blackhole { .. } | Entry::ServiceAddress { .. } => false,
    }
}

fn describe(entry: &Entry) -> String {
    match entry {
        Entry::Sysctl { path, value } => format!("{path} = {value}"),
        Entry::Blackhole { address, len } => format!("blackhole route {address}/{len}"),
        Entry::Address {
            interface, text, ..
        } => format!("address {text} of {interface}"),
        Entry::Route {
            interface, text, ..
        } => format!("route {text} through {interface}"),
        Entry::ArpOff { interface, .. } => format!("ARP on {interface}"),
        Entry::AllMulticast { interface } => format!("multicast filter of {interface}"),
        Entry::IngressDrop { interface } => format!("reception by the kernel on {interface}"),
        Entry::Driver { device, driver } => format!("device {device} to driver {driver}"),
        Entry::LinkUp { interface } => format!("interface {interface} up"),
        Entry::ServiceAddress { address, interface } => {
            format!("service address {address} on {interface}")
        }
    }
}

fn encode(message: &RouteNetlinkMessage) -> String {
    let mut bytes = vec![0; message.buffer_len()];
    message.emit(&mut bytes);
    format!("{:04x}{}", message.message_type(), hex(&bytes))
}

fn decode(text: &str) -> Option<RouteNetlinkMessage> {
    let bytes = unhex(text)?;
    let (kind, body) = bytes.split_first_chunk::<2>()?;
    RouteNetlinkMessage::parse_with_param(body, u16::from_be_bytes(*kind)).ok()
}

fn bind(device: &str, driver: &str) -> Result<(), TakeoverError> {
    let write = |path: String, value: &str| {
        std::fs::write(&path, value).map_err(|error| TakeoverError::Driver { path, error })
    };
    let base = format!("/sys/bus/pci/devices/{device}");
    let current = std::fs::read_link(format!("{base}/driver")).ok();
    if current
        .as_ref()
        .and_then(|path| path.file_name())
        .is_some_and(|name| name == driver)
    {
        // A kill before the device changed hands left the override behind.
        return write(format!("{base}/driver_override"), "\n");
    }
    write(format!("{base}/driver_override"), driver)?;
    if current.is_some() {
        write(format!("{base}/driver/unbind"), device)?;
    }
    write("/sys/bus/pci/drivers_probe".to_owned(), device)?;
    // A single newline clears the override, so that the device behaves as before from now on.
    write(format!("{base}/driver_override"), "\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn netlink_messages_survive_the_journal() {
        let mut route = RouteMessage::default();
        route.header.destination_prefix_length = 8;
        route.header.address_family = rtnetlink::packet_route::AddressFamily::Inet;
        let address: IpAddr = "10.0.0.0".parse().expect("an address");
        route
            .attributes
            .push(rtnetlink::packet_route::route::RouteAttribute::Destination(
                address.into(),
            ));
        let message = RouteNetlinkMessage::NewRoute(route);
        assert_eq!(decode(&encode(&message)), Some(message));
        assert_eq!(decode("00"), None);
    }

    #[test]
    fn routes_come_back_after_their_addresses() {
        let address = Entry::Address {
            interface: "eth1".into(),
            text: String::new(),
            message: String::new(),
        };
        let route = Entry::Route {
            interface: "eth1".into(),
            index: 2,
            text: String::new(),
            message: String::new(),
        };
        let sysctl = Entry::Sysctl {
            path: "/proc/sys/net/ipv6/conf/eth1/disable_ipv6".into(),
            value: "0".into(),
        };
        assert!(rank(&sysctl) < rank(&address) && rank(&address) < rank(&route));
        assert!(concerns(&sysctl, "eth1") && !concerns(&sysctl, "eth"));
    }
}
