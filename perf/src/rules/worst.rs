//! The slowest packets that can be found: what a stream made of them costs.
//!
//! A search by the clock: packets of the trace, packets at the corners of rules, mixtures of the fields of several, kept
//! by how long one lookup takes and mixed again. It finds slow packets, not the slowest: a lower bound.

use march_tables::Rules;
use march_wire::tuple::{Address, Family};

use super::filter::{Filter, Packet};
use crate::clock::{Random, percentile, to_f64, tsc};

/// Packets that are kept from one round of the search to the next, and make up the stream.
const KEPT: usize = 8192;
/// Rounds of the search.
const ROUNDS: usize = 24;
/// Lookups of one packet in a row, and how often that is timed; the shortest counts.
const REPEATS: usize = 4;
const TIMES: usize = 7;

/// What was found.
pub struct Slowest {
    /// The slower half of those that were kept, in random order, as many as the trace has.
    pub stream: Vec<Packet>,
    /// The slowest one's time over the median packet's of the trace, both looked up again and again.
    pub packet_ratio: f64,
}

/// Ticks of one lookup of `packet` with all that it touches in the cache.
fn ticks<A: Address>(rules: &Rules, packet: &Packet) -> f64 {
    let subject = packet.subject::<A>();
    let shortest = (0..TIMES)
        .map(|_| {
            let start = tsc();
            for _ in 0..REPEATS {
                std::hint::black_box(rules.classify(std::hint::black_box(&subject)));
            }
            tsc() - start
        })
        .min();
    to_f64(shortest.unwrap_or(0)) / to_f64(REPEATS as u64)
}

/// Searches.
pub fn search<A: Address>(rules: &Rules, filters: &[Filter], trace: &[Packet]) -> Slowest {
    let mut random = Random::new(0x510e);
    let mut kept: Vec<(f64, Packet)> = trace
        .iter()
        .take(4 * KEPT)
        .map(|packet| (ticks::<A>(rules, packet), *packet))
        .collect();
    let mut ordinary: Vec<f64> = kept.iter().map(|(ticks, _)| *ticks).collect();
    let median = percentile(&mut ordinary, 50);
    for _ in 0..ROUNDS {
        let parents = kept.clone();
        for _ in 0..KEPT {
            let packet = mix(&parents, filters, A::FAMILY, &mut random);
            kept.push((ticks::<A>(rules, &packet), packet));
        }
        kept.sort_by(|(one, _), (other, _)| other.total_cmp(one));
        kept.dedup_by_key(|(_, packet)| *packet);
        kept.truncate(KEPT);
    }
    // Those that were slow by chance were not slow twice.
    for (was, packet) in &mut kept {
        *was = was.min(ticks::<A>(rules, packet));
    }
    kept.sort_by(|(one, _), (other, _)| other.total_cmp(one));
    let packet_ratio = kept[0].0 / median;
    kept.truncate(KEPT / 2);
    let mut stream = Vec::with_capacity(trace.len());
    while stream.len() < trace.len() {
        stream.push(kept[random.below(kept.len() as u64) as usize].1);
    }
    Slowest {
        stream,
        packet_ratio,
    }
}

/// A packet whose fields come from two slow ones, from the corner of a rule, or from nowhere.
fn mix(
    parents: &[(f64, Packet)],
    filters: &[Filter],
    family: Family,
    random: &mut Random,
) -> Packet {
    let mut one = || parents[random.below(parents.len() as u64) as usize].1;
    let (mut packet, other) = (one(), one());
    let filter = &filters[random.below(filters.len() as u64) as usize];
    let donor = match random.below(3) {
        0 => other,
        1 => corner(filter, &packet),
        _ => filter.packet(family, random),
    };
    let fields = random.next();
    if fields & 1 != 0 {
        packet.source = donor.source;
    }
    if fields & 2 != 0 {
        packet.destination = donor.destination;
    }
    if fields & 4 != 0 {
        packet.source_port = donor.source_port;
    }
    if fields & 8 != 0 {
        packet.port = donor.port;
    }
    packet
}

/// The lowest packet of a rule.
fn corner(filter: &Filter, packet: &Packet) -> Packet {
    Packet {
        source: filter.source.first,
        destination: filter.destination.first,
        source_port: filter.source_ports.first,
        port: filter.ports.first,
        protocol: packet.protocol,
    }
}
