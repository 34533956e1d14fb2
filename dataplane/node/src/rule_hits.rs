//! How often rules matched, and when last.
//!
//! Lcores only count. The agent looks at the counters about once a second and notes for which rules they moved: a last
//! hit is known to that.

use std::sync::Arc;
use std::time::SystemTime;

use march_pipeline::Counters;
use march_proto::v1::{RuleHit, RuleHits};
use march_tables::{Generation, Rules};

/// Rules in one answer.
const RULES_PER_PAGE: usize = 10_000;

/// What was seen of every rule's counter, by `RuleId`.
#[derive(Debug, Default)]
pub struct HitLog {
    seen: Vec<Seen>,
    /// Whose counters these are.
    rules: Option<Arc<Rules>>,
}

#[derive(Clone, Debug, Default)]
struct Seen {
    hits: u64,
    last_unix_ms: u64,
    /// Hits of the rules that had this number before.
    before: u64,
}

impl HitLog {
    /// Notes which counters moved, and which numbers went to other rules. Call it at every new generation and about once
    /// a second.
    pub fn sample(&mut self, traffic: &Counters, generation: &Generation) {
        let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH);
        let now_ms = now.map_or(0, |since| u64::try_from(since.as_millis()).unwrap_or(0));
        self.seen.resize(traffic.rules.len(), Seen::default());
        for (seen, counter) in self.seen.iter_mut().zip(&traffic.rules) {
            let hits = counter.get();
            if hits != seen.hits {
                seen.hits = hits;
                seen.last_unix_ms = now_ms;
            }
        }
        let is_known = |rules: &Arc<Rules>| Arc::ptr_eq(rules, &generation.rules);
        if !self.rules.as_ref().is_some_and(is_known) {
            self.on_rules(&generation.rules);
        }
    }

    /// What a number counted for another rule is not this rule's.
    fn on_rules(&mut self, rules: &Arc<Rules>) {
        if let Some(old) = self.rules.replace(Arc::clone(rules)) {
            let count = self.seen.len().min(rules.len());
            for (id, seen) in (0..).zip(self.seen.iter_mut().take(count)) {
                let name = |rules: &Rules| rules.get(id).map(|rule| rule.name.clone());
                if seen.hits != seen.before && name(&old) != name(rules) {
                    seen.before = seen.hits;
                    seen.last_unix_ms = 0;
                }
            }
        }
    }

    /// A page of the rules that matched, from position `from` on.
    #[must_use]
    pub fn page(&self, generation: &Generation, from: u32) -> RuleHits {
        let mut page = RuleHits::default();
        let start = usize::try_from(from).unwrap_or(usize::MAX);
        for (position, seen) in self.seen.iter().enumerate().skip(start) {
            if page.rules.len() == RULES_PER_PAGE {
                page.next = u32::try_from(position).unwrap_or(0);
                return page;
            }
            let hits = seen.hits.wrapping_sub(seen.before);
            let rule = u32::try_from(position)
                .ok()
                .and_then(|id| generation.rules.get(id))
                .filter(|rule| !rule.is_vacant());
            if let (Some(rule), true) = (rule, hits > 0) {
                page.rules.push(RuleHit {
                    rule: rule.name.to_string(),
                    hits,
                    last_hit_unix_ms: seen.last_unix_ms,
                });
            }
        }
        page
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use march_pipeline::Limits;
    use march_tables::{Config, Rule};

    fn generation(names: &[&str]) -> Generation {
        let rule = |name: &&str| Rule {
            name: (*name).into(),
            ..Rule::vacant()
        };
        let config = Config {
            rules: names.iter().map(rule).collect(),
            ..Config::default()
        };
        march_tables::build(&config, None).expect("rules that compile")
    }

    fn hits(log: &HitLog, generation: &Generation) -> Vec<(String, u64)> {
        let page = log.page(generation, 0);
        assert_eq!(page.next, 0);
        page.rules
            .into_iter()
            .map(|hit| {
                assert!(hit.last_hit_unix_ms > 0);
                (hit.rule, hit.hits)
            })
            .collect()
    }

    #[test]
    fn hits_belong_to_the_rule_that_had_the_number_when_they_came() {
        let traffic = Counters::new(Limits {
            rules: 4,
            ..Limits::default()
        });
        let mut log = HitLog::default();
        let first = generation(&["a", "b"]);
        log.sample(&traffic, &first);
        assert!(hits(&log, &first).is_empty());
        traffic.rules[0].add(3);
        traffic.rules[1].add(2);
        log.sample(&traffic, &first);
        assert_eq!(hits(&log, &first), [("a".into(), 3), ("b".into(), 2)]);
        let second = generation(&["c", "b"]);
        log.sample(&traffic, &second);
        assert_eq!(hits(&log, &second), [("b".into(), 2)]);
        traffic.rules[0].add(1);
        log.sample(&traffic, &second);
        assert_eq!(hits(&log, &second), [("c".into(), 1), ("b".into(), 2)]);
    }
}
