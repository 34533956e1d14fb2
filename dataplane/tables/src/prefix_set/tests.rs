use super::*;
use proptest::prelude::*;
use std::collections::BTreeSet;

type Oracle = BTreeSet<(IpAddr, u8)>;

fn longest(oracle: &Oracle, address: IpAddr) -> Option<u8> {
    let family = Family::of(address);
    (0..=family.bits()).rev().find(|length| {
        let prefix = IpPrefix::containing(address, *length).expect("a length of the family");
        oracle.contains(&(prefix.address(), *length))
    })
}

fn looked_up(set: &PrefixSet, address: IpAddr) -> Option<u8> {
    match address {
        IpAddr::V4(address) => set.longest(address),
        IpAddr::V6(address) => set.longest(address),
    }
}

/// Everything that a set says, against the oracle. Probes are the edges of every prefix.
fn check(set: &PrefixSet, oracle: &Oracle) {
    assert_eq!(set.len(), oracle.len());
    let listed: Oracle = set
        .iter()
        .map(|prefix| (prefix.address(), prefix.length()))
        .collect();
    assert_eq!(&listed, oracle);
    assert_eq!(set.iter().count(), oracle.len());
    for (address, length) in oracle {
        for probe in edges(*address, *length) {
            assert_eq!(
                looked_up(set, probe),
                longest(oracle, probe),
                "{probe} at {address}/{length}"
            );
        }
    }
}

/// First and last address of a prefix, and the ones beside them.
fn edges(address: IpAddr, length: u8) -> Vec<IpAddr> {
    match address {
        IpAddr::V4(address) => {
            let first = u32::from(address);
            let last = first | u32::MAX.checked_shr(length.into()).unwrap_or(0);
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .map(|number| IpAddr::from(Ipv4Addr::from(number)))
                .to_vec()
        }
        IpAddr::V6(address) => {
            let first = u128::from(address);
            let last = first | u128::MAX.checked_shr(length.into()).unwrap_or(0);
            [first, last, first.wrapping_sub(1), last.wrapping_add(1)]
                .map(|number| IpAddr::from(Ipv6Addr::from(number)))
                .to_vec()
        }
    }
}

fn prefix(address: IpAddr, length: u8) -> IpPrefix {
    IpPrefix::containing(address, length).expect("a length of the family")
}

/// Prefixes that crowd: few leading bits, so that they nest, touch and fill pages and chunks.
fn crowded() -> impl Strategy<Value = IpPrefix> {
    let v4 =
        (0_u32..4, 0_u32..2, 0_u32..1 << 10, 0_u8..=32).prop_map(|(top, page, low, length)| {
            prefix(
                Ipv4Addr::from(top << 30 | page << 16 | low << 6 | low & 63).into(),
                length,
            )
        });
    let v6 =
        (0_u128..3, 0_u128..64, 0_u128..64, 0_u8..=128).prop_map(|(top, upper, lower, length)| {
            prefix(
                Ipv6Addr::from(top << 126 | upper << 64 | upper << 100 | lower).into(),
                length,
            )
        });
    prop_oneof![v4, v6]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    /// A sequence of edits is the same as the oracle's after each of them, and the sets before stay what they were.
    #[test]
    fn edits_agree_with_the_naive_search(
        edits in prop::collection::vec(
            (prop::collection::vec(crowded(), 0..300), any::<[prop::sample::Index; 24]>(), prop::collection::vec(crowded(), 0..8)),
            1..6,
        ),
    ) {
        let mut set = PrefixSet::default();
        let mut oracle = Oracle::new();
        for (add, known, unknown) in edits {
            let present: Vec<_> = oracle.iter().copied().collect();
            let mut remove = unknown;
            if !present.is_empty() {
                remove.extend(known.iter().map(|index| index.get(&present)).map(|(address, length)| prefix(*address, *length)));
            }
            let before = (set.clone(), oracle.clone());
            set = set.with_changes(&add, &remove);
            for prefix in &remove {
                oracle.remove(&(prefix.address(), prefix.length()));
            }
            oracle.extend(add.iter().map(|prefix| (prefix.address(), prefix.length())));
            check(&set, &oracle);
            check(&before.0, &before.1);
        }
        // Down to nothing, in two steps.
        let all: Vec<_> = set.iter().collect();
        let (first, second) = all.split_at(all.len() / 2);
        let set = set.with_changes(&[], first);
        oracle = second.iter().map(|prefix| (prefix.address(), prefix.length())).collect();
        check(&set, &oracle);
        let set = set.with_changes(&[], second);
        prop_assert!(set.is_empty());
        prop_assert!(set.memory_bytes() <= PrefixSet::default().memory_bytes());
    }

    #[test]
    fn one_at_a_time_is_all_at_once(prefixes in prop::collection::vec(crowded(), 0..400), probes in prop::collection::vec(crowded(), 50)) {
        let whole = PrefixSet::new(&prefixes);
        let grown = prefixes.iter().fold(PrefixSet::default(), |set, prefix| set.with_changes(&[*prefix], &[]));
        prop_assert_eq!(whole.len(), grown.len());
        for probe in probes {
            prop_assert_eq!(looked_up(&whole, probe.address()), looked_up(&grown, probe.address()));
        }
    }
}

#[test]
fn the_longest_prefix_of_the_family_counts() {
    let prefixes =
        ["10.0.0.0/8", "10.1.0.0/16", "2001:db8::/32"].map(|text| text.parse().expect("a prefix"));
    let set = PrefixSet::new(&prefixes);
    assert_eq!(set.longest(Ipv4Addr::new(10, 1, 2, 3)), Some(16));
    assert_eq!(set.longest(Ipv4Addr::new(10, 2, 2, 3)), Some(8));
    assert_eq!(set.longest(Ipv4Addr::new(11, 2, 2, 3)), None);
    assert_eq!(
        set.longest(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1)),
        Some(32)
    );
    assert_eq!(set.longest(Ipv6Addr::LOCALHOST), None);
    assert_eq!(set.len(), 3);
}

#[test]
fn everything_of_every_length_is_found() {
    let address: IpAddr = "203.0.113.77".parse().expect("an address");
    let all: Vec<_> = (0..=32).map(|length| prefix(address, length)).collect();
    let mut set = PrefixSet::new(&all);
    for length in (0..=32).rev() {
        assert_eq!(looked_up(&set, address), Some(length));
        set = set.with_changes(&[], &[prefix(address, length)]);
    }
    assert_eq!(looked_up(&set, address), None);
    let address: IpAddr = "2001:db8:1:2:3:4:5:6".parse().expect("an address");
    let all: Vec<_> = (0..=128).map(|length| prefix(address, length)).collect();
    let mut set = PrefixSet::new(&all);
    for length in (0..=128).rev() {
        assert_eq!(looked_up(&set, address), Some(length));
        set = set.with_changes(&[], &[prefix(address, length)]);
    }
    assert_eq!(looked_up(&set, address), None);
}

/// Every other address of a page: as many ranges as there can be.
#[test]
fn a_page_may_be_full() {
    let addresses = |step: usize| (0..=u16::MAX).step_by(step);
    let host = |low: u16| prefix(Ipv4Addr::from(0xc633_0000 | u32::from(low)).into(), 32);
    let set = PrefixSet::new(&addresses(2).map(host).collect::<Vec<_>>());
    for low in addresses(1) {
        let address = Ipv4Addr::from(0xc633_0000 | u32::from(low));
        assert_eq!(
            set.longest(address),
            (low % 2 == 0).then_some(32),
            "{address}"
        );
    }
    let all = set.with_changes(&addresses(1).map(host).collect::<Vec<_>>(), &[]);
    assert_eq!(all.len(), 1 << 16);
    assert!(
        addresses(1)
            .all(|low| all.longest(Ipv4Addr::from(0xc633_0000 | u32::from(low))) == Some(32))
    );
}

/// A change of one prefix leaves all other pages where they are.
#[test]
fn a_change_shares_the_rest() {
    let v4 = (0..40_000_u32).map(|number| prefix(Ipv4Addr::from(number << 16 | number).into(), 32));
    let v6 = (0..40_000_u128)
        .map(|number| prefix(Ipv6Addr::from(0x2001 << 112 | number << 80).into(), 48));
    let set = PrefixSet::new(&v4.chain(v6).collect::<Vec<_>>());
    let one4: IpPrefix = "0.7.1.0/24".parse().expect("a prefix");
    let one6: IpPrefix = "2001:0:7:8::/64".parse().expect("a prefix");
    let next = set.with_changes(&[one4, one6], &[]);
    assert_eq!(next.len(), set.len() + 2);
    assert_eq!(next.v4.shared_with(&set.v4), 40_000 - 1);
    let (shared, count) = next.upper6.shared_with(&set.upper6);
    assert!(count - shared <= 2, "{shared} of {count} chunks are shared");
    let back = next.with_changes(&[], &[one4, one6]);
    assert_eq!(back.len(), set.len());
    assert_eq!(back.longest(Ipv4Addr::new(0, 7, 1, 1)), None);
}
