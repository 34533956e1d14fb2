//! Floods of handshakes, told as they begin and end: the lcores decide, the gauge shows it, and here the log says it once.

use march_pipeline::{Counters, FlowCounters};

/// Address families as the counters have them.
const FAMILIES: [&str; 2] = ["ipv4", "ipv6"];

/// What was told last.
#[derive(Debug, Default)]
pub struct FloodWatch {
    is_flooded: [bool; 2],
}

/// A change that is worth an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Change {
    Began,
    Ended,
}

impl FloodWatch {
    /// Looks at the gauges and logs what changed since the last look.
    pub fn look(&mut self, counters: &Counters) {
        let flows = &counters.flows;
        for (at, change) in self.changes(flows) {
            let (family, handshakes) = (FAMILIES[at], flows.embryonic[at].get());
            match change {
                Change::Began => tracing::warn!(
                    event = "flood.began",
                    family,
                    handshakes,
                    "half of the places for handshakes are taken: those under way get three seconds each"
                ),
                Change::Ended => tracing::info!(
                    event = "flood.ended",
                    family,
                    handshakes,
                    made_room = flows.embryonic_evicted.get(),
                    "less than a quarter of the places for handshakes are taken"
                ),
            }
        }
    }

    fn changes(&mut self, flows: &FlowCounters) -> Vec<(usize, Change)> {
        let now = [0, 1].map(|at| flows.flood_mode[at].get() != 0);
        let before = core::mem::replace(&mut self.is_flooded, now);
        let pairs = before.into_iter().zip(now).enumerate();
        pairs
            .filter_map(|(at, pair)| match pair {
                (false, true) => Some((at, Change::Began)),
                (true, false) => Some((at, Change::Ended)),
                _ => None,
            })
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_flood_is_told_once_for_each_family() {
        let flows = FlowCounters::default();
        let mut watch = FloodWatch::default();
        assert_eq!(watch.changes(&flows), []);
        flows.flood_mode[1].set(1);
        assert_eq!(watch.changes(&flows), [(1, Change::Began)]);
        assert_eq!(watch.changes(&flows), []);
        flows.flood_mode[0].set(1);
        flows.flood_mode[1].set(0);
        assert_eq!(
            watch.changes(&flows),
            [(0, Change::Began), (1, Change::Ended)]
        );
    }
}
