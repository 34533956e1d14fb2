//! The floor's packet loop, in stages over 64 frames.

use super::table::{Entry, MISS, Table};
use crate::memory::prefetch;
use crate::traffic::{BUFFERS, Buffers, FRAME_LEN, Line, OUR_MAC, Tuple};

const BATCH: usize = 64;
const SERVICES: usize = 64;

/// Receive and transmit descriptors over the buffers.
pub struct Frames {
    buffers: Buffers,
    received: Vec<Descriptor>,
    transmitted: Vec<Descriptor>,
}

#[derive(Clone, Copy)]
#[repr(C)]
struct Descriptor {
    frame: *mut Line,
    len: u32,
    flags: u32,
}

impl Frames {
    /// Allocates them.
    pub fn new() -> std::io::Result<Self> {
        let mut buffers = Buffers::new()?;
        let received = (0..BUFFERS)
            .map(|index| Descriptor {
                frame: buffers.frame_mut(Buffers::line_of(index)),
                len: FRAME_LEN as u32,
                flags: 0,
            })
            .collect();
        let empty = Descriptor {
            frame: std::ptr::null_mut(),
            len: 0,
            flags: 0,
        };
        Ok(Self {
            received,
            transmitted: vec![empty; BUFFERS],
            buffers,
        })
    }

    /// The buffers, to write and to read frames between passes.
    pub fn buffers(&mut self) -> &mut Buffers {
        &mut self.buffers
    }
}

#[derive(Clone, Copy, Default)]
#[repr(C, align(16))]
struct NextHop {
    macs: [u8; 12],
    port: u32,
}

#[derive(Clone, Copy, Default)]
struct Traffic {
    packets: u64,
    bytes: u64,
}

/// What is kept of the batch's frames between the stages.
struct Staged {
    frame: [*mut Line; BATCH],
    len: [u32; BATCH],
    addresses: [u64; BATCH],
    ports: [u64; BATCH],
    hash: [u64; BATCH],
    entry: [u32; BATCH],
    valid: [u8; BATCH],
}

/// The table, the counters, and the batch in hand.
pub struct Floor {
    table: Table,
    next_hops: [NextHop; 64],
    services: [Traffic; SERVICES],
    staged: Staged,
    now: u32,
    /// Frames that no entry was found for, and frames that were not valid.
    pub lost: u64,
}

/// Both directions of session `id`: what comes in, and what goes out instead.
fn directions(id: u32) -> [(Tuple, Tuple); 2] {
    let protocol = if id & 1 == 0 { 6 } else { 17 };
    let client = 0x0a00_0000 | (id >> 4);
    let client_port = 1024 + ((id & 15) << 8 | (id >> 8) & 0xff) as u16;
    let backend = 0x0b00_0000 | (id % 1000);
    let (nat, nat_port) = (0x0c00_0000 | (id >> 15), 0x8000 | (id & 0x7fff) as u16);
    let tuple = |source, source_port, destination, destination_port| Tuple {
        source,
        destination,
        source_port,
        destination_port,
        protocol,
    };
    let vip = 0xc000_020a;
    [
        (
            tuple(client, client_port, vip, 80),
            tuple(nat, nat_port, backend, 8080),
        ),
        (
            tuple(backend, 8080, nat, nat_port),
            tuple(vip, 80, client, client_port),
        ),
    ]
}

/// The incoming five-tuple of entry number `entry`; even numbers are requests, odd ones their replies.
pub fn tuple_of(entry: u32) -> Tuple {
    directions(entry >> 1)[(entry & 1) as usize].0
}

fn key(tuple: &Tuple) -> (u64, u64) {
    let mut addresses = [0; 8];
    addresses[..4].copy_from_slice(&tuple.source.to_be_bytes());
    addresses[4..].copy_from_slice(&tuple.destination.to_be_bytes());
    let mut ports = [0; 8];
    ports[..2].copy_from_slice(&tuple.source_port.to_be_bytes());
    ports[2..4].copy_from_slice(&tuple.destination_port.to_be_bytes());
    ports[4] = tuple.protocol;
    (u64::from_le_bytes(addresses), u64::from_le_bytes(ports))
}

fn words(value: u64) -> u32 {
    (0..4)
        .map(|word| (value >> (16 * word)) as u32 & 0xffff)
        .sum()
}

#[inline]
fn fold(sum: u32) -> u32 {
    let sum = (sum & 0xffff) + (sum >> 16);
    ((sum & 0xffff) + (sum >> 16)) & 0xffff
}

fn entry_of(number: u32) -> Entry {
    let (incoming, outgoing) = directions(number >> 1)[(number & 1) as usize];
    let (addresses, ports) = key(&incoming);
    let (new_addresses, new_ports) = key(&outgoing);
    let ip_delta = fold(words(!addresses) + words(new_addresses));
    let l4_delta = fold(ip_delta + words(!ports & 0xffff_ffff) + words(new_ports & 0xffff_ffff));
    Entry {
        addresses,
        ports,
        new_addresses,
        new_ports: new_ports as u32,
        ip_delta: ip_delta as u16,
        l4_delta: l4_delta as u16,
        service: (number % SERVICES as u32) as u16,
        next_hop: (number & 63) as u16,
        last_seen: 0,
        packets: 0,
        bytes: 0,
        tcp_flags: 0,
        peer: number ^ 1,
    }
}

impl Floor {
    /// A table with `entries` entries, half of them requests, half replies.
    pub fn new(entries: u32) -> std::io::Result<Self> {
        let mut table = Table::new(entries as usize)?;
        for number in 0..entries {
            let entry = entry_of(number);
            *table.entries.at_mut(number as usize) = entry;
            assert!(
                table.insert(Table::hash(entry.addresses, entry.ports), number),
                "the table is sized for its entries"
            );
        }
        let next_hops = std::array::from_fn(|index| NextHop {
            macs: [2, 0, 0, 0, 1, index as u8, 2, 0, 0, 0, 0, 1],
            port: 0,
        });
        Ok(Self {
            table,
            next_hops,
            services: [Traffic::default(); SERVICES],
            staged: Staged {
                frame: [std::ptr::null_mut(); BATCH],
                len: [0; BATCH],
                addresses: [0; BATCH],
                ports: [0; BATCH],
                hash: [0; BATCH],
                entry: [MISS; BATCH],
                valid: [0; BATCH],
            },
            now: 0,
            lost: 0,
        })
    }

    /// Forwards every frame.
    #[inline(never)]
    pub fn pass(&mut self, frames: &mut Frames) {
        self.now += 1;
        let (received, _) = frames.received.as_chunks::<BATCH>();
        let (transmitted, _) = frames.transmitted.as_chunks_mut::<BATCH>();
        fetch(&received[0]);
        for (index, (batch, sent)) in received.iter().zip(transmitted).enumerate() {
            if let Some(next) = received.get(index + 1) {
                fetch(next);
            }
            self.parse(batch);
            self.probe();
            self.rewrite(sent);
        }
    }

    /// Parse, hash, ask for the bucket.
    #[inline]
    fn parse(&mut self, batch: &[Descriptor; BATCH]) {
        for (index, descriptor) in batch.iter().enumerate() {
            // SAFETY: the descriptors of a `Frames`, which `pass` has borrowed alone, each point to a line of its
            // buffers and no two to the same.
            let frame = unsafe { &*descriptor.frame };
            let (addresses, ports, valid) = parse(frame, descriptor.len);
            let hash = Table::hash(addresses, ports);
            self.table.prefetch_bucket(hash);
            self.staged.frame[index] = descriptor.frame;
            self.staged.len[index] = descriptor.len;
            self.staged.addresses[index] = addresses;
            self.staged.ports[index] = ports;
            self.staged.hash[index] = hash;
            self.staged.valid[index] = valid;
        }
    }

    /// Compare tags, ask for the entry.
    #[inline]
    fn probe(&mut self) {
        for (hash, entry) in self.staged.hash.iter().zip(&mut self.staged.entry) {
            *entry = self.table.candidate(*hash);
            self.table.prefetch_entry(*entry);
        }
    }

    /// Compare the key, rewrite, count.
    #[inline]
    fn rewrite(&mut self, sent: &mut [Descriptor; BATCH]) {
        for (index, sent) in sent.iter_mut().enumerate() {
            let (addresses, ports) = (self.staged.addresses[index], self.staged.ports[index]);
            let mut number = self.staged.entry[index];
            if (self.staged.valid[index] == 0) | (number == MISS) {
                self.lost += 1;
                continue;
            }
            let found = self.table.entries.at(number as usize);
            if (found.addresses != addresses) | (found.ports != ports) {
                number = self.table.find(self.staged.hash[index], addresses, ports);
                if number == MISS {
                    self.lost += 1;
                    continue;
                }
            }
            let entry = self.table.entries.at_mut(number as usize);
            let (line, len) = (self.staged.frame[index], self.staged.len[index]);
            // SAFETY: as in `parse`, which noted this pointer for the batch in hand.
            let frame = unsafe { &mut *line };
            rewrite(frame, entry);
            entry.packets += 1;
            entry.bytes += u64::from(len);
            entry.last_seen = self.now;
            let next_hop = &self.next_hops[usize::from(entry.next_hop) % 64];
            frame[..12].copy_from_slice(&next_hop.macs);
            let service = &mut self.services[usize::from(entry.service) % SERVICES];
            service.packets += 1;
            service.bytes += u64::from(len);
            *sent = Descriptor {
                frame: line,
                len,
                flags: next_hop.port,
            };
        }
    }
}

#[inline]
fn fetch(batch: &[Descriptor]) {
    for descriptor in batch {
        prefetch(descriptor.frame);
    }
}

#[inline]
fn load<const AT: usize, const N: usize>(frame: &Line) -> [u8; N] {
    std::array::from_fn(|index| frame[AT + index])
}

/// Key and whether the frame is one that may be forwarded, all conditions computed without a branch.
#[inline]
fn parse(frame: &Line, len: u32) -> (u64, u64, u8) {
    let destination = u64::from_le_bytes(load::<0, 8>(frame)) & 0xffff_ffff_ffff;
    let [a, b, c, d, e, f] = OUR_MAC;
    let ours = u64::from_le_bytes([a, b, c, d, e, f, 0, 0]);
    let shape = u32::from_le_bytes(load::<12, 4>(frame)) & 0x00ff_ffff;
    let first = u64::from_le_bytes(load::<14, 8>(frame));
    let second = u64::from_le_bytes(load::<22, 8>(frame));
    let third = u64::from(u32::from_le_bytes(load::<30, 4>(frame)));
    let (sum, carry) = first.overflowing_add(second);
    let (sum, again) = sum.overflowing_add(third);
    let sum = (sum >> 32) + (sum & 0xffff_ffff) + u64::from(carry) + u64::from(again);
    let sum = (sum >> 32) + (sum & 0xffff_ffff);
    let checksum = fold(((sum >> 16) + (sum & 0xffff)) as u32);
    let total = u32::from(u16::from_be_bytes(load::<16, 2>(frame)));
    let transport = total.wrapping_sub(20);
    let fragment = (first >> 48) & 0xff3f;
    let (ttl, protocol) = (frame[22], frame[23]);
    let udp_len = u32::from(u16::from_be_bytes(load::<38, 2>(frame)));
    let tcp_len = u32::from(frame[46] >> 4) * 4;
    let udp = (protocol == 17) & (udp_len >= 8) & (udp_len <= transport);
    let tcp = (protocol == 6) & (tcp_len >= 20) & (tcp_len <= transport);
    let valid = (len >= 60)
        & (destination == ours)
        & (shape == 0x0045_0008)
        & (checksum == 0xffff)
        & (total >= 28)
        & (total + 14 <= len)
        & (fragment == 0)
        & (ttl > 1)
        & (udp | tcp);
    let ports = u64::from(u32::from_le_bytes(load::<34, 4>(frame))) | u64::from(protocol) << 32;
    (
        u64::from_le_bytes(load::<26, 8>(frame)),
        ports,
        u8::from(valid),
    )
}

/// All ones for UDP. The empty assembly hides from the optimiser that this is a choice between two, which it would turn
/// into a branch that mixed traffic mispredicts every second time.
#[inline]
fn udp_mask(protocol: u8) -> u32 {
    let mut mask = 0_u32.wrapping_sub(u32::from(protocol == 17));
    // SAFETY: no instruction at all; the register keeps its value.
    unsafe {
        std::arch::asm!("/* {0:e} */", inout(reg) mask, options(pure, nomem, nostack, preserves_flags));
    };
    mask
}

/// Addresses, ports, TTL, checksums; and the union of the TCP flags seen.
#[inline]
fn rewrite(frame: &mut Line, entry: &mut Entry) {
    let word = u32::from_le_bytes(load::<22, 4>(frame));
    let udp = udp_mask((word >> 8) as u8);
    let checksum = !fold((!word >> 16) + u32::from(entry.ip_delta) + 0xfffe);
    let word = ((word & 0xffff) - 1) | checksum << 16;
    frame[22..26].copy_from_slice(&word.to_le_bytes());
    frame[26..34].copy_from_slice(&entry.new_addresses.to_le_bytes());
    frame[34..38].copy_from_slice(&entry.new_ports.to_le_bytes());
    // Offset 50 for TCP, 40 for UDP; masking keeps it inside the line for the compiler.
    let at = (0x32 - (0xa & udp)) as usize & 0x3e;
    let old = u32::from(u16::from_le_bytes([frame[at], frame[at + 1]]));
    let new = !fold((!old & 0xffff) + u32::from(entry.l4_delta)) & 0xffff;
    let zero_to_ones = (new.wrapping_sub(1) >> 16) & udp;
    let keep_none = 0_u32.wrapping_sub(old.wrapping_sub(1) >> 31) & udp;
    let new = ((new | zero_to_ones) & !keep_none) as u16;
    frame[at..at + 2].copy_from_slice(&new.to_le_bytes());
    entry.tcp_flags |= u32::from(frame[47] & 7) & !udp;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::traffic;

    #[test]
    fn every_frame_comes_out_right() {
        const ENTRIES: u32 = 10_000;
        let mut floor = Floor::new(ENTRIES).unwrap();
        let mut frames = Frames::new().unwrap();
        let buffers = frames.buffers();
        let number = |index: usize| index as u32 * 7 % ENTRIES;
        for index in 0..BUFFERS {
            traffic::write(
                buffers.frame_mut(Buffers::line_of(index)),
                &tuple_of(number(index)),
                0x10,
            );
        }
        floor.pass(&mut frames);
        let buffers = frames.buffers();
        assert_eq!(floor.lost, 0);
        for index in 0..BUFFERS {
            let frame = &buffers.frame(Buffers::line_of(index))[..FRAME_LEN];
            assert!(traffic::is_sound(frame), "frame {index}");
            let (_, outgoing) = directions(number(index) >> 1)[(number(index) & 1) as usize];
            assert_eq!(frame[26..30], outgoing.source.to_be_bytes());
            assert_eq!(frame[36..38], outgoing.destination_port.to_be_bytes());
        }
        let counted: u64 = floor.services.iter().map(|service| service.packets).sum();
        assert_eq!(counted, BUFFERS as u64);
    }
}
