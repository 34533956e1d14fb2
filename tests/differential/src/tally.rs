//! The data plane's counters in the reference's terms.

use std::collections::BTreeMap;

use march_pipeline::{Counters, TrafficCounters};
use march_policy::Counter;

/// Every counter that is not 0.
#[must_use]
pub fn of(counters: &Counters) -> BTreeMap<Counter, i64> {
    let mut found = BTreeMap::new();
    let mut note = |counter, value: u64| {
        if value != 0 {
            found.insert(counter, i64::from_le_bytes(value.to_le_bytes()));
        }
    };
    for (id, hits) in (0..).zip(&*counters.rules) {
        note(Counter::RuleHits(id), hits.get());
    }
    for (id, traffic) in (0..).zip(&*counters.services) {
        for side in [0, 1] {
            note(
                Counter::ServicePackets(id, side),
                traffic.packets[side].get(),
            );
            note(Counter::ServiceBytes(id, side), traffic.bytes[side].get());
        }
        let [created, live] = flows(traffic);
        note(Counter::ServiceFlowsCreated(id), created);
        note(Counter::ServiceFlows(id), live);
    }
    for (id, traffic) in (0..).zip(&*counters.backends) {
        for side in [0, 1] {
            note(
                Counter::BackendPackets(id, side),
                traffic.packets[side].get(),
            );
            note(Counter::BackendBytes(id, side), traffic.bytes[side].get());
        }
        let [created, live] = flows(traffic);
        note(Counter::BackendFlowsCreated(id), created);
        note(Counter::BackendFlows(id), live);
    }
    for (id, port) in (0..).zip(&*counters.ports) {
        note(
            Counter::ChecksumsCompleted(id),
            port.checksums_completed.get(),
        );
        note(Counter::MirrorLost(id), port.mirror_lost.get());
    }
    note(Counter::FlowsCreated, counters.flows.created.get());
    note(Counter::FlowsRechecked, counters.flows.rechecked.get());
    note(Counter::FlowsEvicted, counters.flows.evicted.get());
    note(Counter::FlowsExpired, counters.flows.expired.get());
    found
}

fn flows(traffic: &TrafficCounters) -> [u64; 2] {
    [traffic.flows_created.get(), traffic.flows.get()]
}
