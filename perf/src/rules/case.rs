//! One set with its trace, and whether what classifiers say about it is right.

use anyhow::ensure;
use march_tables::{Rules, Subject};
use march_wire::tuple::{Address, Family};

use super::acl::{Acl, Algorithm, Keys};
use super::filter::{self, Filter, Packet};
use super::ours;
use super::set::{self, Order, Profile};
use crate::clock::{Random, to_f64};

/// Headers in a trace.
pub const TRACE: usize = 1 << 17;
/// Packets that are looked up from the front as well.
const SAMPLE: usize = 1000;
/// Rules that changes take their new rules from.
const SPARE: usize = 512;

/// A set, rules to change it with, and packets.
pub struct Case {
    /// Profile and size, for reports.
    pub name: String,
    /// IPv4 or IPv6.
    pub family: Family,
    /// The set, first the first that is looked at.
    pub filters: Vec<Filter>,
    /// Of the same kind, but not in the set.
    pub spare: Vec<Filter>,
    /// Packets made for rules picked evenly.
    pub trace: Vec<Packet>,
    /// Index of the rule that each was made for.
    made_for: Vec<usize>,
}

impl Case {
    /// Generates it.
    pub fn new(profile: Profile, family: Family, rules: usize, order: Order) -> Self {
        let (filters, spare) = set::generate(profile, family, (rules, SPARE), order);
        let mut random = Random::new(0x7ace);
        let (made_for, trace) = filter::trace(&filters, family, TRACE, &mut random)
            .into_iter()
            .unzip();
        Self {
            name: format!("{} {}k", profile.name(), rules / 1000),
            family,
            filters,
            spare,
            trace,
            made_for,
        }
    }

    /// The share of packets that the rule decides which they were made for; the others have one before it that matches too.
    pub fn own_share(&self, verdicts: &[u32]) -> f64 {
        let own = verdicts
            .iter()
            .zip(&self.made_for)
            .filter(|(verdict, made_for)| **verdict as usize == **made_for + 1)
            .count();
        to_f64(own as u64) / to_f64(verdicts.len() as u64)
    }

    /// Single lookups of the whole trace, after a sample of them agreed with a search from the front and all of them with
    /// lookups in bursts.
    pub fn verdicts<A: Address>(
        &self,
        rules: &Rules,
        subjects: &[Subject<A>],
    ) -> anyhow::Result<Vec<u32>> {
        let filters: Vec<Option<Filter>> = self.filters.iter().copied().map(Some).collect();
        self.check_sample::<A>(rules, &filters)?;
        let verdicts = ours::verdicts(rules, subjects, ours::single);
        let bursts = ours::verdicts(rules, subjects, ours::burst);
        let name = &self.name;
        ensure!(
            bursts == verdicts,
            "{name}: bursts and single lookups differ"
        );
        Ok(verdicts)
    }

    /// A sample of the trace gets the rules that a search from the front finds.
    pub fn check_sample<A: Address>(
        &self,
        rules: &Rules,
        filters: &[Option<Filter>],
    ) -> anyhow::Result<()> {
        for packet in &self.trace[..SAMPLE] {
            let is_match = |filter: &Option<Filter>| filter.is_some_and(|it| it.matches(packet));
            let expected = filters.iter().position(is_match);
            let decided = rules.classify(&packet.subject::<A>());
            let decided = decided.map(|decided| decided.rule as usize);
            ensure!(
                decided == expected,
                "{}: rule {decided:?} decides {packet:?}, should be {expected:?}",
                self.name
            );
        }
        Ok(())
    }

    /// `rte_acl` says the same about every packet, whatever its algorithm.
    pub fn check_acl(&self, acl: &mut Acl, keys: &Keys, verdicts: &[u32]) -> anyhow::Result<()> {
        for algorithm in Algorithm::ALL {
            if !acl.choose(algorithm) {
                continue;
            }
            let mut results = vec![0; verdicts.len()];
            acl.classify(keys, 0, &mut results);
            let pairs = results.iter().zip(verdicts);
            let differ = pairs.filter(|(theirs, ours)| theirs != ours).count();
            ensure!(
                differ == 0,
                "{}: {differ} packets get another rule from rte_acl ({})",
                self.name,
                algorithm.name()
            );
        }
        Ok(())
    }
}
