use super::*;
use proptest::prelude::*;
use std::format;
use std::string::ToString;

fn prefix(text: &str) -> IpPrefix {
    text.parse().unwrap()
}

#[test]
fn prefixes_parse_and_print() {
    for text in [
        "10.0.0.0/8",
        "0.0.0.0/0",
        "192.0.2.1/32",
        "2001:db8::/32",
        "::/0",
        "2001:db8::1/128",
    ] {
        assert_eq!(prefix(text).to_string(), text);
    }
    assert_eq!(prefix("192.0.2.1"), prefix("192.0.2.1/32"));
    assert_eq!(prefix("2001:db8::1"), prefix("2001:db8::1/128"));
}

#[test]
fn refusals_name_the_problem() {
    let refused = |text: &str| text.parse::<IpPrefix>().unwrap_err();
    assert_eq!(
        refused("10.0.0.1/8"),
        PrefixError::HostBits {
            network: prefix("10.0.0.0/8")
        }
    );
    assert_eq!(
        refused("2001:db8::1/64"),
        PrefixError::HostBits {
            network: prefix("2001:db8::/64")
        }
    );
    for text in [
        "10.0.0.0/33",
        "10.0.0.0/+8",
        "10.0.0.0/",
        "10.0.0.0/-1",
        "10.0.0.0/256",
        "10.0.0.0/8/8",
    ] {
        assert_eq!(refused(text), PrefixError::Length { most: 32 }, "{text}");
    }
    assert_eq!(refused("::/129"), PrefixError::Length { most: 128 });
    for text in ["", "/8", "10.0.0/8", "host/8", "10.0.0.0.0"] {
        assert_eq!(refused(text), PrefixError::Address, "{text}");
    }
    assert_eq!(
        refused("10.0.0.1/8").to_string(),
        "host bits are set beyond the prefix length; the network is 10.0.0.0/8"
    );
}

#[test]
fn every_length_contains_its_edges_only() {
    let address = Ipv4Addr::new(203, 0, 113, 7);
    for length in 0..=32u8 {
        let block = IpPrefix::containing(address.into(), length).unwrap();
        let first = u32::try_from(number_of(block.address())).unwrap();
        let size = 1u64 << (32 - length);
        let last = first + u32::try_from(size - 1).unwrap();
        assert!(block.contains(address));
        assert!(
            block.contains(Ipv4Addr::from_bits(first)) && block.contains(Ipv4Addr::from_bits(last))
        );
        if let Some(before) = first.checked_sub(1) {
            assert!(!block.contains(Ipv4Addr::from_bits(before)), "{block}");
        }
        if let Some(after) = last.checked_add(1) {
            assert!(!block.contains(Ipv4Addr::from_bits(after)), "{block}");
        }
        assert!(!block.contains(Ipv6Addr::LOCALHOST));
    }
}

#[test]
fn covering_and_overlap() {
    assert!(prefix("10.0.0.0/8").covers(prefix("10.1.0.0/16")));
    assert!(!prefix("10.1.0.0/16").covers(prefix("10.0.0.0/8")));
    assert!(prefix("10.1.0.0/16").overlaps(prefix("10.0.0.0/8")));
    assert!(!prefix("10.1.0.0/16").overlaps(prefix("10.2.0.0/16")));
    assert!(!prefix("0.0.0.0/0").overlaps(prefix("::/0")));
}

#[test]
fn martians() {
    let impossible = ["0.0.0.0", "0.1.2.3", "127.0.0.1", "240.0.0.1"];
    for text in impossible {
        let address: Ipv4Addr = text.parse().unwrap();
        assert!(
            !address.is_possible_source() && !address.is_possible_destination(),
            "{text}"
        );
    }
    for text in ["224.0.0.1", "239.255.255.255", "255.255.255.255"] {
        let address: Ipv4Addr = text.parse().unwrap();
        assert!(
            !address.is_possible_source() && address.is_possible_destination(),
            "{text}"
        );
        assert!(address.is_group());
    }
    for text in [
        "1.0.0.1",
        "126.255.255.255",
        "128.0.0.1",
        "223.255.255.255",
        "10.0.0.1",
    ] {
        let address: Ipv4Addr = text.parse().unwrap();
        assert!(
            address.is_possible_source() && address.is_possible_destination(),
            "{text}"
        );
        assert!(!address.is_group());
    }
    for text in ["::", "::1", "::ffff:192.0.2.1"] {
        let address: Ipv6Addr = text.parse().unwrap();
        assert!(
            !address.is_possible_source() && !address.is_possible_destination(),
            "{text}"
        );
    }
    let group: Ipv6Addr = "ff02::1".parse().unwrap();
    assert!(!group.is_possible_source() && group.is_possible_destination() && group.is_group());
    let unicast: Ipv6Addr = "2001:db8::1".parse().unwrap();
    assert!(
        unicast.is_possible_source() && unicast.is_possible_destination() && !unicast.is_group()
    );
    let local: Ipv6Addr = "fe80::1".parse().unwrap();
    assert!(Address::is_link_local(local) && !Address::is_link_local(unicast));
}

fn round_trip<A: Address>(address: A) -> Result<(), TestCaseError> {
    prop_assert_eq!(A::from_number(address.to_number()), address);
    prop_assert_eq!(A::from_slice(address.to_octets().as_ref()), Some(address));
    prop_assert_eq!(A::from_ip(address.into()), Some(address));
    let bytes = address.to_octets();
    let expected = checksum::sum(bytes.as_ref());
    prop_assert_eq!(address.sum(), expected);
    prop_assert_eq!(A::from_slice(&bytes.as_ref()[1..]), None);
    let tuple = FiveTuple {
        src: address,
        dst: address,
        src_port: 1,
        dst_port: 2,
        protocol: 6,
    };
    prop_assert_eq!(tuple.reversed().reversed(), tuple);
    prop_assert_eq!(tuple.reversed().src_port, 2);
    Ok(())
}

proptest! {
    #[test]
    fn addresses_survive_every_form(v4: u32, v6: u128) {
        round_trip(Ipv4Addr::from_bits(v4))?;
        round_trip(Ipv6Addr::from_bits(v6))?;
    }

    #[test]
    fn printed_prefixes_parse_back(number: u128, length in 0..=128u8, four: bool) {
        let (address, length): (IpAddr, u8) = if four {
            (Ipv4Addr::from_number(number).into(), length % 33)
        } else {
            (Ipv6Addr::from_bits(number).into(), length)
        };
        let block = IpPrefix::containing(address, length).unwrap();
        prop_assert!(block.contains(address));
        prop_assert_eq!(format!("{block}").parse(), Ok(block));
        prop_assert_eq!(IpPrefix::new(address, length).is_ok(), block.address() == address);
    }
}
