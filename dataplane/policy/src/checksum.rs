//! The Internet checksum, in full (RFC 1071), word by word.

use core::net::IpAddr;

/// One's complement sum of 16-bit words in network order, folded; an odd last byte is padded with 0. Zero only for zeroes.
pub(crate) fn sum(bytes: &[u8]) -> u16 {
    let mut total: u64 = 0;
    for word in bytes.chunks(2) {
        let high = word.first().copied().unwrap_or(0);
        let low = word.get(1).copied().unwrap_or(0);
        total += u64::from(u16::from_be_bytes([high, low]));
    }
    add(total)
}

fn add(mut total: u64) -> u16 {
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    u16::try_from(total).unwrap_or(0)
}

/// The bytes of the pseudo-header (RFC 793; RFC 8200, section 8.1).
pub(crate) fn pseudo_header(src: IpAddr, dst: IpAddr, protocol: u8, len: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    for address in [src, dst] {
        match address {
            IpAddr::V4(address) => bytes.extend(address.octets()),
            IpAddr::V6(address) => bytes.extend(address.octets()),
        }
    }
    bytes.extend(u32::try_from(len).unwrap_or(0).to_be_bytes());
    bytes.extend([0, 0, 0, protocol]);
    bytes
}

/// The field that makes `covered` (its own field zero) right.
pub(crate) fn field_for(covered: &[u8]) -> u16 {
    !sum(covered)
}

/// The field that keeps a sum: `before` is what the covered bytes summed up to, field included, `covered` are the bytes now, with
/// zero in the field. A checksum that was right stays right, one that was wrong stays as wrong as it was: forwarding repairs
/// nothing.
pub(crate) fn field_keeping(before: u16, covered: &[u8]) -> u16 {
    match add(u64::from(before) + u64::from(!sum(covered))) {
        // Both are the number 0; on the wire it is 0.
        0xffff => 0,
        field => field,
    }
}
