//! The addresses of one generation, and the map entries that they become.

use std::collections::BTreeMap;
use std::net::IpAddr;

use march_bpf_abi::{
    AddressEntry, AddressKey, PortConfig, ROLE_KERNEL, ROLE_NAT, ROLE_TRANSIT, ROLE_VIP,
};
use march_wire::{IpPrefix, Mac};

/// What becomes of unicast that is neither ours nor the kernel's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Transit {
    /// Dropped as `no_service`: no rule allows any.
    #[default]
    Denied,
    /// To the socket, where rules decide.
    Judged,
}

/// An address that flows are translated to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NatAddress {
    /// The address.
    pub address: IpAddr,
    /// First port of the range.
    pub first_port: u16,
    /// Last port of the range, inclusive. The range counts only where the address is the kernel's as well; a dedicated
    /// address is taken as a whole.
    pub last_port: u16,
}

/// Whose address is whose, on one port. Where blocks overlap the longest prefix decides.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct AddressSet {
    /// The kernel's own, link-local ones included.
    pub kernel: Vec<IpAddr>,
    /// Addresses and blocks with services.
    pub vips: Vec<IpPrefix>,
    /// Addresses of the NAT pools.
    pub nat: Vec<NatAddress>,
    /// What becomes of the rest.
    pub transit: Transit,
}

impl AddressSet {
    /// Prefix length, key and entry of everything in the set, and of the rest.
    pub(crate) fn entries(&self) -> Vec<(u32, AddressKey, AddressEntry)> {
        let mut blocks: BTreeMap<IpPrefix, AddressEntry> = BTreeMap::new();
        for address in &self.kernel {
            blocks.entry(IpPrefix::host(*address)).or_default().roles |= ROLE_KERNEL;
        }
        for block in &self.vips {
            blocks.entry(*block).or_default().roles |= ROLE_VIP;
        }
        for nat in &self.nat {
            let entry = blocks.entry(IpPrefix::host(nat.address)).or_default();
            entry.roles |= ROLE_NAT;
            (entry.first_port, entry.last_port) = (nat.first_port, nat.last_port);
        }
        let rest = AddressEntry {
            roles: match self.transit {
                Transit::Denied => 0,
                Transit::Judged => ROLE_TRANSIT,
            },
            ..AddressEntry::default()
        };
        let ours = blocks.into_iter().map(|(block, entry)| {
            let (bits, key) = AddressKey::of(block);
            (bits, key, entry)
        });
        ours.chain([(AddressKey::EVERYTHING_BITS, AddressKey::EVERYTHING, rest)])
            .collect()
    }
}

/// [`AddressKey`] as aya's maps want it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct PodKey(pub AddressKey);

// SAFETY: `repr(C)` of integers without padding (asserted in `march-bpf-abi`), valid for any bytes.
unsafe impl aya::Pod for PodKey {}

/// [`AddressEntry`] as aya's maps want it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct PodEntry(pub AddressEntry);

// SAFETY: `repr(C)` of integers without padding (asserted in `march-bpf-abi`), valid for any bytes.
unsafe impl aya::Pod for PodEntry {}

/// [`PortConfig`] as aya's maps want it.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(crate) struct PodPort(PortConfig);

// SAFETY: `repr(C)` of integers without padding (asserted in `march-bpf-abi`), valid for any bytes.
unsafe impl aya::Pod for PodPort {}

impl PodPort {
    pub(crate) fn of(mac: Mac) -> PodPort {
        PodPort(PortConfig { mac, reserved: 0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_of_one_address_meet_in_one_entry() {
        let address: IpAddr = "192.0.2.1".parse().unwrap();
        let set = AddressSet {
            kernel: vec![address],
            vips: vec!["198.51.100.0/24".parse().unwrap()],
            nat: vec![NatAddress {
                address,
                first_port: 20_000,
                last_port: 32_767,
            }],
            transit: Transit::Judged,
        };
        let entries = set.entries();
        let shared = AddressEntry {
            roles: ROLE_KERNEL | ROLE_NAT,
            first_port: 20_000,
            last_port: 32_767,
        };
        let vip = AddressEntry {
            roles: ROLE_VIP,
            ..AddressEntry::default()
        };
        let rest = AddressEntry {
            roles: ROLE_TRANSIT,
            ..AddressEntry::default()
        };
        assert_eq!(entries.len(), 3);
        assert!(entries.contains(&(AddressKey::V4_BITS, AddressKey::v4([192, 0, 2, 1]), shared)));
        assert!(entries.contains(&(56, AddressKey::v4([198, 51, 100, 0]), vip)));
        assert!(entries.contains(&(0, AddressKey::EVERYTHING, rest)));
    }
}
