use super::*;
use crate::{Ipv4Pair, Ipv6Pair, NONE};
use proptest::prelude::*;
use std::collections::HashSet;

fn table(capacity: usize) -> FlowTable<Ipv4Pair> {
    FlowTable::new(capacity, (0x1234_5678_9abc_def0, 0x0fed_cba9_8765_4321)).unwrap()
}

fn flow(id: u32, state: FlowState, now_ms: u32) -> Flow<Ipv4Pair> {
    let forward = Key {
        addresses: Ipv4Pair(u64::from(id) | 0x0a00_0001 << 32),
        ports: 0x5000_0000 | (id & 0xffff),
        protocol: 6,
    };
    let reverse = Key {
        addresses: Ipv4Pair(0x0b00_0001 | 0x0c00_0001 << 32),
        ports: id,
        protocol: 6,
    };
    Flow::new(forward, reverse, state, now_ms)
}

#[test]
fn both_directions_find_the_one_flow() {
    let mut table = table(10);
    let flow = flow(7, FlowState::SynSent, 0);
    let index = table.insert(flow).unwrap();
    for direction in [Direction::Forward, Direction::Reverse] {
        assert_eq!(
            table.find(&flow.key(direction)),
            Some(FlowHandle { index, direction })
        );
        assert_eq!(
            table.find(&flow.outgoing(direction)),
            None,
            "what leaves is not what comes in"
        );
    }
    table.remove(index);
    assert!(table.is_empty());
    assert_eq!(table.find(&flow.key(Direction::Forward)), None);
    assert_eq!(table.find(&flow.key(Direction::Reverse)), None);
}

#[test]
fn a_tag_match_with_another_key_is_no_hit() {
    let mut table = table(4);
    let flow = flow(1, FlowState::Datagram, 0);
    table.insert(flow).unwrap();
    let mut key = flow.key(Direction::Forward);
    let hash = table.hash(&key);
    let candidate = table.probe(hash);
    assert!(!candidate.is_miss());
    key.ports ^= 1;
    assert_eq!(table.verify(candidate, hash, &key), None);
}

#[test]
fn fills_to_capacity_without_crowding_and_empties_again() {
    for capacity in [1, 2, 31, 10_000, 200_000] {
        let mut table = table(capacity);
        let flows: Vec<_> = (0..u32::try_from(capacity).unwrap())
            .map(|id| flow(id, FlowState::Established, 0))
            .collect();
        for flow in &flows {
            table.insert(*flow).unwrap();
        }
        assert_eq!(table.len(), capacity);
        assert_eq!(
            table.insert(flow(u32::MAX, FlowState::Established, 0)),
            Err(InsertError::Full)
        );
        for flow in &flows {
            let handle = table.find(&flow.key(Direction::Reverse)).unwrap();
            table.remove(handle.index);
        }
        assert!(table.is_empty());
        assert!(
            table
                .buckets
                .iter()
                .all(|bucket| bucket.tags == [0; WAYS] && bucket.overflow == 0)
        );
    }
}

#[test]
fn filled_to_twice_its_size_no_flow_has_one_half() {
    let mut table = table(1_000);
    let mut gone = 0;
    for id in 0..2_000 {
        let flow = flow(id, FlowState::Established, id);
        while let Err(error) = table.insert(flow) {
            assert_eq!(error, InsertError::Full);
            assert!(table.evict(id).is_some());
            gone += 1;
        }
    }
    assert_eq!(table.len() + gone, 2_000);
    let mut found = 0;
    for id in 0..2_000 {
        let flow = flow(id, FlowState::Established, id);
        let halves = [Direction::Forward, Direction::Reverse]
            .map(|direction| table.find(&flow.key(direction)).is_some());
        assert_eq!(halves[0], halves[1], "flow {id}");
        found += usize::from(halves[0]);
    }
    assert_eq!(found, table.len());
}

#[test]
fn eviction_prefers_embryonic_then_the_longest_idle() {
    let mut table = table(4);
    table.insert(flow(1, FlowState::Established, 10)).unwrap();
    table.insert(flow(2, FlowState::SynSent, 90)).unwrap();
    table.insert(flow(3, FlowState::Established, 50)).unwrap();
    assert_eq!(table.evict(100).unwrap().state, FlowState::SynSent);
    assert_eq!(table.evict(100).unwrap().last_seen_ms, 10);
    assert_eq!(table.evict(100).unwrap().last_seen_ms, 50);
    assert!(table.evict(100).is_none());
}

#[test]
fn sweep_visits_everything_once_a_round() {
    let mut table = table(100);
    for id in 0..100 {
        table
            .insert(flow(
                id,
                FlowState::Datagram,
                if id % 3 == 0 { 0 } else { 1_000 },
            ))
            .unwrap();
    }
    let mut removed = 0;
    for _ in 0..10 {
        table.sweep(10, |flow| flow.idle_ms(1_000) >= 500, |_| removed += 1);
    }
    assert_eq!(removed, 34);
    assert_eq!(table.len(), 66);
}

#[test]
fn a_flow_costs_less_than_128_bytes() {
    let table = table(1_000_000);
    let per_flow = table.memory_bytes() / table.capacity();
    assert!(per_flow <= 128, "{per_flow} bytes per IPv4 flow");
}

#[derive(Clone, Debug)]
enum Op {
    Insert(u16),
    Remove(u16),
    Sweep(u8),
    Evict,
}

fn ops() -> impl Strategy<Value = Vec<Op>> {
    let op = prop_oneof![
        6 => (0u16..300).prop_map(Op::Insert),
        3 => (0u16..300).prop_map(Op::Remove),
        1 => any::<u8>().prop_map(Op::Sweep),
        1 => Just(Op::Evict),
    ];
    proptest::collection::vec(op, 0..600)
}

proptest! {
    /// Against a plain map, with so few buckets that overflow and displacement happen all the time.
    #[test]
    fn behaves_like_a_map(ops in ops()) {
        let mut table = FlowTable::<Ipv6Pair>::new(200, (3, 5)).unwrap();
        let make = |id: u16| {
            let id = u64::from(id);
            let forward = Key { addresses: Ipv6Pair([id, 1, 2, 3]), ports: 1, protocol: 17 };
            let reverse = Key { addresses: Ipv6Pair([4, 5, 6, id]), ports: 2, protocol: 17 };
            let mut flow = Flow::new(forward, reverse, FlowState::Datagram, 0);
            flow.service = u16::try_from(id).unwrap();
            flow
        };
        let mut model: HashSet<u16> = HashSet::new();
        for op in ops {
            match op {
                Op::Insert(id) if model.contains(&id) => {}
                Op::Insert(id) => match table.insert(make(id)) {
                    Ok(_) => prop_assert!(model.insert(id)),
                    Err(InsertError::Full) => prop_assert_eq!(model.len(), 200),
                    Err(InsertError::Crowded) => {}
                },
                Op::Remove(id) => {
                    let found = table.find(&make(id).key(Direction::Forward));
                    prop_assert_eq!(found.is_some(), model.remove(&id));
                    if let Some(handle) = found {
                        prop_assert_eq!(table.remove(handle.index).service, id);
                    }
                }
                Op::Sweep(odd) => table.sweep(20, |flow| flow.service % 2 == u16::from(odd % 2), |flow| { model.remove(&flow.service); }),
                Op::Evict => {
                    let evicted = table.evict(0);
                    prop_assert_eq!(evicted.is_some(), !model.is_empty());
                    if let Some(flow) = evicted {
                        prop_assert!(model.remove(&flow.service));
                    }
                }
            }
            prop_assert_eq!(table.len(), model.len());
        }
        for id in 0..300 {
            for direction in [Direction::Forward, Direction::Reverse] {
                prop_assert_eq!(table.find(&make(id).key(direction)).is_some(), model.contains(&id));
            }
        }
        prop_assert_eq!(NONE, u16::MAX);
    }
}
