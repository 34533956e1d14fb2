//! The hash that [`Pool::choose`](crate::Pool::choose) wants: of what the service's affinity says.
//!
//! Without a secret and the same in every tier and on every node: a client that reaches another node of the same
//! generation is sent to the same backend. Flow tables, where colliding keys would be an attack, use a keyed hash.

use march_wire::tuple::{Address, FiveTuple};

use crate::Affinity;

/// Odd constants with mixed bits (the fractional parts of the golden ratio and of the square roots of 2, 3 and 5).
const MIX: [u64; 4] = [
    0x9e37_79b9_7f4a_7c15,
    0x6a09_e667_f3bc_c909,
    0xbb67_ae85_84ca_a73b,
    0x3c6e_f372_fe94_f82b,
];

impl Affinity {
    /// The hash of a new flow's first packet, as the client sent it.
    #[inline]
    pub fn hash<A: Address>(self, tuple: &FiveTuple<A>) -> u64 {
        let source = absorb(MIX[0], tuple.src.to_number());
        match self {
            Self::SourceIp => source,
            Self::FiveTuple => {
                let ports = u128::from(tuple.src_port) << 32 | u128::from(tuple.dst_port) << 16;
                absorb(
                    absorb(source, tuple.dst.to_number()),
                    ports | u128::from(tuple.protocol),
                )
            }
        }
    }
}

#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves of the number"
)]
fn absorb(state: u64, number: u128) -> u64 {
    fold(
        fold(state ^ number as u64, MIX[1]) ^ (number >> 64) as u64,
        MIX[2],
    ) ^ MIX[3]
}

/// 64 x 64 -> 128 bit product, its halves combined: every input bit reaches every output bit.
#[inline]
fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    #[expect(
        clippy::cast_possible_truncation,
        reason = "the two halves of the product"
    )]
    let (low, high) = (product as u64, (product >> 64) as u64);
    low ^ high
}

#[cfg(test)]
mod tests {
    use core::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    fn v4(client: u32, port: u16) -> FiveTuple<Ipv4Addr> {
        FiveTuple {
            src: Ipv4Addr::from_bits(client),
            dst: Ipv4Addr::new(192, 0, 2, 10),
            src_port: port,
            dst_port: 80,
            protocol: 6,
        }
    }

    #[test]
    fn source_affinity_looks_at_nothing_but_the_source() {
        let base = v4(0xc633_6401, 1024);
        let other = FiveTuple {
            dst: Ipv4Addr::LOCALHOST,
            dst_port: 443,
            protocol: 17,
            ..v4(0xc633_6401, 9)
        };
        assert_eq!(
            Affinity::SourceIp.hash(&base),
            Affinity::SourceIp.hash(&other)
        );
        assert_ne!(
            Affinity::SourceIp.hash(&base),
            Affinity::SourceIp.hash(&v4(0xc633_6402, 1024))
        );
    }

    #[test]
    fn five_tuple_affinity_looks_at_every_field() {
        let base = FiveTuple {
            src: Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1),
            dst: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 1),
            src_port: 5,
            dst_port: 80,
            protocol: 6,
        };
        let changed = [
            FiveTuple {
                src: Ipv6Addr::new(0x2001, 0xdb9, 0, 0, 0, 0, 0, 1),
                ..base
            },
            FiveTuple {
                dst: Ipv6Addr::new(0x2001, 0xdb8, 1, 0, 0, 0, 0, 2),
                ..base
            },
            FiveTuple {
                src_port: 6,
                ..base
            },
            FiveTuple {
                dst_port: 81,
                ..base
            },
            FiveTuple {
                protocol: 17,
                ..base
            },
            base.reversed(),
        ];
        for tuple in changed {
            assert_ne!(
                Affinity::FiveTuple.hash(&tuple),
                Affinity::FiveTuple.hash(&base),
                "{tuple}"
            );
        }
    }

    #[test]
    fn neighbouring_clients_spread_evenly() {
        let mut buckets = [0u32; 16];
        for client in 0..16_000 {
            let hash = Affinity::FiveTuple.hash(&v4(0x0a00_0000 + client, 40_000));
            buckets[usize::try_from(hash >> 60).expect("four bits")] += 1;
        }
        for count in buckets {
            assert!((850..1150).contains(&count), "{buckets:?}");
        }
    }
}
