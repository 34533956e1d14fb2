//! Addresses and ports as they stand in a packet: native loads of wire-order bytes, so that no swap is ever needed
//! on the hot path.

/// A source and a destination address of one family, in the order in which a packet carries them.
pub trait AddressPair: Copy + Eq + Default + core::fmt::Debug + Send + 'static {
    /// The same pair with its ends swapped.
    #[must_use]
    fn swapped(self) -> Self;
    /// The 64-bit words that a hash reads, folded to two under the seed: a fold that everybody can compute is one for
    /// which everybody can find addresses that fold to the same.
    fn words(self, seed: HashSeed) -> (u64, u64);
    /// One's complement sum of all 16-bit words, not folded: below 2^20.
    fn sum(self) -> u32;
}

/// Two IPv4 addresses: the eight bytes at offset 12 of the IPv4 header, loaded natively.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct Ipv4Pair(pub u64);

/// Two IPv6 addresses: the 32 bytes at offset 8 of the IPv6 header, loaded natively as four words.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
#[repr(transparent)]
pub struct Ipv6Pair(pub [u64; 4]);

/// One's complement sum of the four 16-bit words of a natively loaded 64-bit word, not folded.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the sum of four words has 18 bits"
)]
const fn sum_u64(word: u64) -> u32 {
    // Two 32-bit halves with room for the carries, then the 16-bit words: at most 4 * 0xffff.
    let pairs = (word & 0x0000_ffff_0000_ffff) + ((word >> 16) & 0x0000_ffff_0000_ffff);
    ((pairs & 0xffff_ffff) + (pairs >> 32)) as u32
}

impl AddressPair for Ipv4Pair {
    #[inline]
    fn swapped(self) -> Self {
        Self(self.0.rotate_left(32))
    }
    #[inline]
    fn words(self, _seed: HashSeed) -> (u64, u64) {
        (self.0, 0)
    }
    #[inline]
    fn sum(self) -> u32 {
        sum_u64(self.0)
    }
}

impl AddressPair for Ipv6Pair {
    #[inline]
    fn swapped(self) -> Self {
        let [a, b, c, d] = self.0;
        Self([c, d, a, b])
    }
    #[inline]
    fn words(self, seed: HashSeed) -> (u64, u64) {
        // Constants of their own keep swapped addresses from cancelling out.
        let [a, b, c, d] = self.0;
        (
            multiply_fold(
                a ^ seed.0 ^ 0x2d35_8dcc_aa6c_78a5,
                b ^ seed.1 ^ 0x8bb8_4b93_962e_acc9,
            ),
            multiply_fold(
                c ^ seed.1 ^ 0x4b33_a62e_d433_d4a3,
                d ^ seed.0 ^ 0x4d5a_2da5_1de1_aa47,
            ),
        )
    }
    #[inline]
    fn sum(self) -> u32 {
        let [a, b, c, d] = self.0;
        sum_u64(a) + sum_u64(b) + sum_u64(c) + sum_u64(d)
    }
}

/// What a flow is found by: the five-tuple as the packet carries it.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct Key<A> {
    /// Source and destination address.
    pub addresses: A,
    /// Source port in the first two bytes in memory, destination port in the last two; for ICMP echo the identifier twice.
    pub ports: u32,
    /// IP protocol number.
    pub protocol: u8,
}

impl<A: AddressPair> Key<A> {
    /// The key of packets going the other way, if nothing were rewritten.
    #[inline]
    #[must_use]
    pub fn swapped(self) -> Self {
        Self {
            addresses: self.addresses.swapped(),
            ports: self.ports.rotate_left(16),
            protocol: self.protocol,
        }
    }

    /// Keyed hash. `seed` is secret and drawn at start, so that nobody can choose keys that collide.
    #[inline]
    pub fn hash(&self, seed: HashSeed) -> u64 {
        let (low, high) = self.addresses.words(seed);
        let tail = u64::from(self.ports) | u64::from(self.protocol) << 32;
        let first = multiply_fold(low ^ seed.0, tail ^ high.rotate_left(17) ^ seed.1);
        multiply_fold(
            first ^ seed.0.rotate_left(29),
            seed.1 ^ 0x5899_65cc_7537_4cc3 ^ high,
        )
    }
}

/// The secret of a table's hash.
#[derive(Clone, Copy, Debug)]
pub struct HashSeed(pub u64, pub u64);

/// 64 x 64 -> 128 bit product, folded: every input bit reaches every output bit.
#[inline]
#[expect(
    clippy::cast_possible_truncation,
    reason = "the two halves are taken apart on purpose"
)]
pub(crate) const fn multiply_fold(a: u64, b: u64) -> u64 {
    let product = (a as u128).wrapping_mul(b as u128);
    (product as u64) ^ ((product >> 64) as u64)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sum_is_the_sum_of_words() {
        for word in [0, 1, u64::MAX, 0x0001_0002_0003_0004, 0xffff_0000_ffff_1234] {
            let expected = (0..4).map(|i| (word >> (16 * i)) & 0xffff).sum::<u64>();
            assert_eq!(u64::from(sum_u64(word)), expected);
        }
    }

    #[test]
    fn swapping_twice_is_identity() {
        let v4 = Ipv4Pair(0x0102_0304_0506_0708);
        assert_eq!(v4.swapped().0, 0x0506_0708_0102_0304);
        assert_eq!(v4.swapped().swapped(), v4);
        let v6 = Ipv6Pair([1, 2, 3, 4]);
        assert_eq!(v6.swapped().0, [3, 4, 1, 2]);
        assert_eq!(v6.swapped().swapped(), v6);
    }

    #[test]
    fn hash_depends_on_every_field_and_on_the_seed() {
        let seed = HashSeed(1, 2);
        let key = Key {
            addresses: Ipv6Pair([1, 2, 3, 4]),
            ports: 5,
            protocol: 6,
        };
        let base = key.hash(seed);
        for i in 0..4 {
            let mut addresses = key.addresses;
            addresses.0[i] ^= 1 << 40;
            assert_ne!(
                Key { addresses, ..key }.hash(seed),
                base,
                "address word {i}"
            );
        }
        assert_ne!(Key { ports: 4, ..key }.hash(seed), base);
        assert_ne!(
            Key {
                protocol: 17,
                ..key
            }
            .hash(seed),
            base
        );
        assert_ne!(key.hash(HashSeed(1, 3)), base);
        assert_ne!(key.hash(HashSeed(2, 2)), base);
        assert_ne!(key.swapped().hash(seed), base);
    }

    /// A product with 0 is 0 whatever the other factor: no address may bring the 0 along without knowing the seed.
    #[test]
    fn no_choice_of_addresses_collides_under_every_seed() {
        let published = [
            0x2d35_8dcc_aa6c_78a5,
            0x8bb8_4b93_962e_acc9,
            0x4b33_a62e_d433_d4a3,
            0x4d5a_2da5_1de1_aa47,
        ];
        let seed = HashSeed(0x1234_5678_9abc_def1, 0x0fed_cba9_8765_4321);
        for at in 0..4 {
            let hash = |other: u64| {
                let mut words = [1, 2, 3, 4];
                words[at] = published[at];
                words[at ^ 1] = other;
                let key = Key {
                    addresses: Ipv6Pair(words),
                    ports: 5,
                    protocol: 6,
                };
                key.hash(seed)
            };
            assert_ne!(hash(100), hash(101), "address word {at}");
        }
    }
}
