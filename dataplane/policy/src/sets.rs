//! Address sets, as the reference sees them: is an address in a set, and by how long a prefix.

use core::net::IpAddr;
use std::sync::Arc;

use march_tables::{AddressSet, SetId};
use march_wire::tuple::IpPrefix;

/// The sets of one configuration.
pub trait AddressSets: Send + Sync {
    /// Length of the longest prefix of `set` that holds `address`; `None` if none does or there is no such set.
    fn longest(&self, set: SetId, address: IpAddr) -> Option<u8>;
}

/// Sets as lists of prefixes, searched from end to end: the definition.
#[derive(Clone, Debug, Default)]
pub struct PrefixLists(pub Vec<Vec<IpPrefix>>);

impl AddressSets for PrefixLists {
    fn longest(&self, set: SetId, address: IpAddr) -> Option<u8> {
        let prefixes = self.0.get(usize::from(set))?;
        let holding = prefixes.iter().filter(|prefix| prefix.contains(address));
        holding.map(|prefix| prefix.length()).max()
    }
}

/// Sets as the running generation has them, where nobody kept the lists: up to a million prefixes each.
#[derive(Clone, Debug)]
pub struct CompiledSets(pub Arc<[AddressSet]>);

impl AddressSets for CompiledSets {
    fn longest(&self, set: SetId, address: IpAddr) -> Option<u8> {
        let set = self.0.get(usize::from(set))?;
        match address {
            IpAddr::V4(address) => set.prefixes.longest(address),
            IpAddr::V6(address) => set.prefixes.longest(address),
        }
    }
}
