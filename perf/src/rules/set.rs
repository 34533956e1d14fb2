//! Generated rule sets: access lists, firewalls and chains after the shapes that ClassBench's seeds are known for, and two
//! adversarial kinds. A set is a function of its profile, its size and the family, whatever machine makes it.

use std::collections::HashSet;

use march_tables::PortRange;
use march_wire::ip::{ICMP, ICMPV6, TCP, UDP};
use march_wire::tuple::Family;

use super::filter::{Block, Filter};
use crate::clock::Random;

/// What kind of rules.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Profile {
    /// Access lists: few wildcards, long prefixes, exact destination ports.
    Acl,
    /// Firewalls: every third address is a wildcard, many port ranges.
    Fw,
    /// Chains of a packet filter: in between.
    Ipc,
    /// Prefixes of every length, unique port ranges on both sides, half of the source ports any.
    Hard1,
    /// The same with half of either address any and no source port any.
    Hard2,
}

impl Profile {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::Acl, Self::Fw, Self::Ipc, Self::Hard1, Self::Hard2];

    /// Its name in tables.
    pub fn name(self) -> &'static str {
        match self {
            Self::Acl => "acl",
            Self::Fw => "fw",
            Self::Ipc => "ipc",
            Self::Hard1 => "hard1",
            Self::Hard2 => "hard2",
        }
    }

    fn mix(self) -> Option<&'static Mix> {
        match self {
            Self::Acl => Some(&ACL),
            Self::Fw => Some(&FW),
            Self::Ipc => Some(&IPC),
            Self::Hard1 | Self::Hard2 => None,
        }
    }
}

/// In which order a set's rules are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Order {
    /// What matches less comes first, so that no rule is hidden behind one that covers it.
    Narrow,
    /// As generated: a wide rule may come first and hide most of the set.
    Random,
}

impl Order {
    /// Its name on the command line.
    pub fn name(self) -> &'static str {
        match self {
            Self::Narrow => "narrow",
            Self::Random => "random",
        }
    }
}

/// How often what occurs, in thousandths.
struct Mix {
    /// By length class, see [`LENGTHS4`].
    source_lengths: [u64; 9],
    destination_lengths: [u64; 9],
    source_ports: PortMix,
    ports: PortMix,
    /// TCP, UDP, ICMP; the rest is any.
    protocols: [u64; 3],
}

/// Kinds of port ranges, in thousandths; the rest is any.
struct PortMix {
    /// One well-known port.
    known: u64,
    /// One port, any number.
    exact: u64,
    /// From 1024 up.
    high: u64,
    /// A range somewhere, this wide at most.
    range: u64,
    widest: u64,
}

const ACL: Mix = Mix {
    source_lengths: [20, 10, 50, 30, 350, 50, 80, 50, 360],
    destination_lengths: [10, 10, 40, 30, 280, 70, 120, 60, 380],
    source_ports: PortMix {
        known: 10,
        exact: 0,
        high: 0,
        range: 0,
        widest: 1,
    },
    ports: PortMix {
        known: 406,
        exact: 174,
        high: 30,
        range: 120,
        widest: 1000,
    },
    protocols: [750, 180, 30],
};

const FW: Mix = Mix {
    source_lengths: [420, 20, 60, 20, 140, 30, 40, 20, 250],
    destination_lengths: [300, 10, 50, 30, 130, 40, 60, 30, 350],
    source_ports: PortMix {
        known: 120,
        exact: 0,
        high: 80,
        range: 50,
        widest: 5000,
    },
    ports: PortMix {
        known: 224,
        exact: 96,
        high: 160,
        range: 100,
        widest: 5000,
    },
    protocols: [620, 200, 50],
};

const IPC: Mix = Mix {
    source_lengths: [120, 40, 100, 60, 220, 50, 70, 40, 300],
    destination_lengths: [100, 40, 100, 60, 220, 50, 70, 40, 320],
    source_ports: PortMix {
        known: 80,
        exact: 0,
        high: 40,
        range: 20,
        widest: 2000,
    },
    ports: PortMix {
        known: 315,
        exact: 135,
        high: 80,
        range: 100,
        widest: 1000,
    },
    protocols: [620, 200, 50],
};

/// Prefix lengths of the length classes.
const LENGTHS4: [u8; 9] = [0, 8, 16, 20, 24, 26, 28, 30, 32];
const LENGTHS6: [u8; 9] = [0, 24, 32, 44, 48, 56, 60, 64, 128];

const KNOWN: [u16; 30] = [
    80, 443, 53, 22, 25, 110, 143, 21, 23, 3306, 1521, 389, 636, 8080, 8443, 123, 161, 445, 139,
    135, 1433, 5060, 993, 995, 3389, 69, 514, 179, 2049, 111,
];

/// Makes filters, one after another.
struct Generator {
    profile: Profile,
    family: Family,
    random: Random,
    /// Where the addresses of either side cluster.
    sites: [Vec<u128>; 2],
}

/// `count` different filters, in the order in which they are looked at, and `spare` more that are in no set yet.
pub fn generate(
    profile: Profile,
    family: Family,
    (count, spare): (usize, usize),
    order: Order,
) -> (Vec<Filter>, Vec<Filter>) {
    let mut generator = Generator::new(profile, family, count);
    let mut seen = HashSet::new();
    let mut filters = Vec::with_capacity(count + spare);
    while filters.len() < count + spare {
        let filter = generator.filter();
        if seen.insert(filter) {
            filters.push(filter);
        }
    }
    let spare = filters.split_off(count);
    if order == Order::Narrow {
        filters.sort_by_key(|filter| filter.scope(family));
    }
    (filters, spare)
}

impl Generator {
    fn new(profile: Profile, family: Family, count: usize) -> Self {
        let seed = 0x9e37_79b9_7f4a_7c15_u64;
        let salt = profile as u64 + 1 + 16 * (count as u64) + (u64::from(family.bits()) << 40);
        let mut random = Random::new(seed.wrapping_mul(salt));
        // The first numbers of neighbouring seeds are alike.
        for _ in 0..16 {
            random.next();
        }
        let sites = (count / 20).clamp(16, 1024);
        let mut side = || (0..sites).map(|_| site(family, &mut random)).collect();
        let sites = [side(), side()];
        Self {
            profile,
            family,
            random,
            sites,
        }
    }

    fn filter(&mut self) -> Filter {
        match self.profile.mix() {
            Some(mix) => self.mixed(mix),
            None => self.hard(),
        }
    }

    fn mixed(&mut self, mix: &Mix) -> Filter {
        let lengths = match self.family {
            Family::V4 => LENGTHS4,
            Family::V6 => LENGTHS6,
        };
        let protocol = match pick(&mix.protocols, &mut self.random) {
            0 => Some(TCP),
            1 => Some(UDP),
            2 if self.family == Family::V4 => Some(ICMP),
            2 => Some(ICMPV6),
            _ => None,
        };
        let source = lengths[pick(&mix.source_lengths, &mut self.random)];
        let destination = lengths[pick(&mix.destination_lengths, &mut self.random)];
        let (source, destination) = (self.block(0, source), self.block(1, destination));
        let (source_ports, ports) = match protocol {
            Some(TCP | UDP) => (self.ports(&mix.source_ports), self.ports(&mix.ports)),
            _ => (PortRange::ALL, PortRange::ALL),
        };
        let mut filter = Filter {
            source,
            destination,
            source_ports,
            ports,
            protocol,
        };
        // Everything, or everything of one protocol, would be the end of the set.
        let is_all = source.length == 0 && destination.length == 0;
        if is_all && source_ports == PortRange::ALL && ports == PortRange::ALL {
            filter.ports = exactly(self.random.below(1 << 16) as u16);
            filter.protocol = Some(TCP);
        }
        filter
    }

    fn hard(&mut self) -> Filter {
        let bits = self.family.bits();
        let random = &mut self.random;
        let block = |random: &mut Random, is_any: bool| {
            let length = random.below(u64::from(bits) + 1) as u8;
            let address = u128::from(random.next()) << 64 | u128::from(random.next());
            Block::around(address, if is_any { 0 } else { length }, self.family)
        };
        let range = |random: &mut Random| {
            let first = random.below(1 << 16);
            PortRange {
                first: first as u16,
                last: (first + random.below((1 << 16) - first)) as u16,
            }
        };
        let half = |random: &mut Random, profile| {
            let is_heads = random.below(2) == 0;
            is_heads && self.profile == profile
        };
        let is_any = half(random, Profile::Hard2);
        let source = block(random, is_any);
        let is_any = half(random, Profile::Hard2);
        let destination = block(random, is_any);
        let source_ports = if half(random, Profile::Hard1) {
            PortRange::ALL
        } else {
            range(random)
        };
        Filter {
            source,
            destination,
            source_ports,
            ports: range(random),
            protocol: Some(if random.below(2) == 0 { TCP } else { UDP }),
        }
    }

    /// A block of `length` near one of the side's sites; some sites have many more rules than others.
    fn block(&mut self, side: usize, length: u8) -> Block {
        let random = &mut self.random;
        let sites = &self.sites[side];
        let skew = random.below(1 << 16) * random.below(1 << 16) * sites.len() as u64;
        let site = sites[(skew >> 32) as usize];
        let within = match self.family {
            // Twelve bits below the site, sometimes sixteen.
            Family::V4 => {
                let far = if random.below(4) == 0 {
                    random.below(1 << 16)
                } else {
                    0
                };
                u128::from(random.below(1 << 12) | far)
            }
            // A subnet of the site, and a low or a random interface identifier.
            Family::V6 => {
                let subnet = random.below(1 << 12) << (random.below(2) * 4);
                let host = if random.below(2) == 0 {
                    random.below(1 << 8)
                } else {
                    random.next()
                };
                u128::from(subnet) << 64 | u128::from(host)
            }
        };
        Block::around(site | within, length, self.family)
    }

    fn ports(&mut self, mix: &PortMix) -> PortRange {
        let random = &mut self.random;
        match pick(&[mix.known, mix.exact, mix.high, mix.range], random) {
            0 => exactly(KNOWN[random.below(KNOWN.len() as u64) as usize]),
            1 => exactly(random.below(1 << 16) as u16),
            2 => PortRange {
                first: 1024,
                last: u16::MAX,
            },
            3 => {
                let first = random.below(60_000) as u16;
                PortRange {
                    first,
                    last: first + 1 + random.below(mix.widest) as u16,
                }
            }
            _ => PortRange::ALL,
        }
    }
}

/// Where a site's addresses begin: 16 or 20 bits of IPv4; 32 or 44 bits of IPv6 below `2000::/3`.
fn site(family: Family, random: &mut Random) -> u128 {
    let is_wide = random.below(2) == 0;
    let number = u128::from(random.next());
    match family {
        Family::V4 if is_wide => number & 0xffff_0000,
        Family::V4 => number & 0xffff_f000,
        Family::V6 => {
            let bits = if is_wide { 32 } else { 44 };
            let number = (number << 64) & (u128::MAX >> 3) | 1 << 125;
            number & (u128::MAX << (128 - bits))
        }
    }
}

fn exactly(port: u16) -> PortRange {
    PortRange {
        first: port,
        last: port,
    }
}

/// Which of the shares, in thousandths, a random number falls into; their count if in none.
fn pick(shares: &[u64], random: &mut Random) -> usize {
    let mut left = random.below(1000);
    for (index, share) in shares.iter().enumerate() {
        if left < *share {
            return index;
        }
        left -= share;
    }
    shares.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    const FAMILIES: [Family; 2] = [Family::V4, Family::V6];

    #[test]
    fn a_set_is_the_same_every_time_and_has_no_rule_twice() {
        for profile in Profile::ALL {
            for family in FAMILIES {
                let make = || generate(profile, family, (1000, 10), Order::Narrow);
                let (filters, spare) = make();
                assert_eq!((filters.clone(), spare.clone()), make());
                let all: HashSet<Filter> = filters.into_iter().chain(spare).collect();
                assert_eq!(all.len(), 1010);
            }
        }
    }

    #[test]
    fn no_rule_is_hidden_behind_a_wider_one() {
        for profile in Profile::ALL {
            for family in FAMILIES {
                let (filters, _) = generate(profile, family, (1000, 0), Order::Narrow);
                for (index, filter) in filters.iter().enumerate() {
                    let hidden = filters[..index].iter().find(|wide| wide.covers(filter));
                    assert_eq!(hidden, None, "{profile:?} {filter:?}");
                }
            }
        }
    }

    #[test]
    fn shares_add_up() {
        for mix in [&ACL, &FW, &IPC] {
            assert_eq!(mix.source_lengths.iter().sum::<u64>(), 1000);
            assert_eq!(mix.destination_lengths.iter().sum::<u64>(), 1000);
            assert!(mix.protocols.iter().sum::<u64>() < 1000);
        }
    }

    #[test]
    fn packets_of_a_rule_match_it() {
        let mut random = Random::new(5);
        for profile in Profile::ALL {
            for family in FAMILIES {
                let (filters, _) = generate(profile, family, (500, 0), Order::Random);
                for filter in filters {
                    assert!(
                        filter.matches(&filter.packet(family, &mut random)),
                        "{filter:?}"
                    );
                }
            }
        }
    }
}
