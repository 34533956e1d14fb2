//! What stands before the flow table of a port, compiled: the sets themselves instead of their numbers.

use std::sync::Arc;

use march_wire::tuple::Address;

use crate::{BuildError, Config, Guard, Limit, LimitId, LimitScope, PortTable, PrefixSet, SetId};

/// What the sets of a guard say of a source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// In none of them.
    Unlisted,
    /// The longest prefix that holds it is of a set to block.
    Blocked,
    /// The longest prefix that holds it is of a set to allow.
    Allowed,
}

/// The guard of one port, or of several that have the same.
#[derive(Debug)]
pub struct PortGuard {
    block: Box<[Arc<PrefixSet>]>,
    allow: Box<[Arc<PrefixSet>]>,
    per_source: Option<(LimitId, Limit)>,
    /// What this was made of: the document's words, and the contents of the sets.
    guard: Guard,
    contents: Vec<[u8; 32]>,
}

impl PortGuard {
    /// What the sets say of `source`: the longest prefix decides, between equals the one to allow.
    #[inline]
    pub fn standing<A: Address>(&self, source: A) -> Standing {
        // Longest length plus one, 0 for none: a plain maximum.
        let longest = |sets: &[Arc<PrefixSet>]| {
            let lengths = sets.iter().map(|set| set.longest(source));
            lengths
                .map(|length| length.map_or(0, |length| length + 1))
                .max()
        };
        let allowed = longest(&self.allow).unwrap_or(0);
        let blocked = longest(&self.block).unwrap_or(0);
        if blocked > allowed {
            Standing::Blocked
        } else if allowed > 0 {
            Standing::Allowed
        } else {
            Standing::Unlisted
        }
    }

    /// Whether no source stands out: no set is looked at.
    #[inline]
    pub fn has_no_sets(&self) -> bool {
        self.block.is_empty() && self.allow.is_empty()
    }

    /// What each source may send.
    #[inline]
    pub fn per_source(&self) -> Option<(LimitId, &Limit)> {
        self.per_source.as_ref().map(|(id, limit)| (*id, limit))
    }

    fn new(port: &PortTable, config: &Config) -> Result<Self, BuildError> {
        let set = |id: &SetId| {
            let known = config.sets.get(usize::from(*id));
            known.ok_or_else(|| BuildError::GuardSet {
                port: port.name.clone(),
                set: *id,
            })
        };
        let Guard {
            block,
            allow,
            per_source,
        } = &port.guard;
        let per_source = per_source.map(|id| {
            let known = config.limits.get(usize::from(id));
            let each = known.filter(|limit| matches!(limit.scope, LimitScope::Source { .. }));
            let limit = each.ok_or_else(|| BuildError::GuardLimit {
                port: port.name.clone(),
                limit: id,
            })?;
            Ok((id, limit.clone()))
        });
        let sets = |ids: &[SetId]| {
            let prefixes = ids.iter().map(|id| Ok(Arc::clone(&set(id)?.prefixes)));
            prefixes.collect::<Result<Box<[_]>, BuildError>>()
        };
        let contents = block.iter().chain(allow).map(|id| Ok(set(id)?.content));
        Ok(Self {
            block: sets(block)?,
            allow: sets(allow)?,
            per_source: per_source.transpose()?,
            guard: port.guard.clone(),
            contents: contents.collect::<Result<_, BuildError>>()?,
        })
    }

    fn is_same(&self, other: &Self) -> bool {
        (&self.guard, &self.contents, &self.per_source)
            == (&other.guard, &other.contents, &other.per_source)
    }
}

/// The guards by port, none where there is nothing to look at. Equal ones are one, over ports and over generations.
pub(crate) type Guards = Arc<[Option<Arc<PortGuard>>]>;

/// Compiles the guards of all ports.
///
/// # Errors
/// [`BuildError::GuardSet`] and [`BuildError::GuardLimit`].
pub(crate) fn compile(config: &Config, previous: Option<&Guards>) -> Result<Guards, BuildError> {
    let mut known: Vec<Arc<PortGuard>> = Vec::new();
    for guard in previous
        .into_iter()
        .flat_map(|guards| guards.iter().flatten())
    {
        if !known.iter().any(|other| Arc::ptr_eq(other, guard)) {
            known.push(Arc::clone(guard));
        }
    }
    let mut compiled = Vec::with_capacity(config.ports.len());
    for port in &*config.ports {
        compiled.push(if port.guard == Guard::default() {
            None
        } else {
            let guard = PortGuard::new(port, config)?;
            let same = known.iter().find(|other| other.is_same(&guard)).cloned();
            let guard = same.unwrap_or_else(|| {
                let guard = Arc::new(guard);
                known.push(Arc::clone(&guard));
                guard
            });
            Some(guard)
        });
    }
    Ok(compiled.into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{AddressSet, LimitUnit};
    use core::net::Ipv4Addr;

    fn set(name: &str, prefixes: &[&str]) -> AddressSet {
        let parsed: Vec<_> = prefixes
            .iter()
            .map(|text| text.parse().expect("a prefix"))
            .collect();
        let mut content = [0; 32];
        let text = prefixes.join(",");
        content[..text.len()].copy_from_slice(text.as_bytes());
        AddressSet {
            name: name.into(),
            content,
            prefixes: Arc::new(PrefixSet::new(&parsed)),
        }
    }

    fn config(guards: &[Guard]) -> Config {
        let each = Limit {
            name: "each".into(),
            scope: LimitScope::Source { v4: 32, v6: 64 },
            unit: LimitUnit::Packets,
            per_second: 10,
            burst: 10,
        };
        Config {
            ports: guards
                .iter()
                .map(|guard| PortTable {
                    guard: guard.clone(),
                    ..PortTable::default()
                })
                .collect(),
            sets: [
                set("bad", &["10.0.0.0/8", "10.1.2.3/32"]),
                set("good", &["10.1.0.0/16", "10.1.2.3/32"]),
                set("worse", &["10.1.2.0/24"]),
            ]
            .into(),
            limits: [each, Limit::vacant()].into(),
            ..Config::default()
        }
    }

    fn guard(block: &[SetId], allow: &[SetId], per_source: Option<LimitId>) -> Guard {
        Guard {
            block: block.to_vec(),
            allow: allow.to_vec(),
            per_source,
        }
    }

    #[test]
    fn the_longest_prefix_decides_and_allow_wins_a_tie() {
        let guards = compile(&config(&[guard(&[0, 2], &[1], None)]), None).expect("it builds");
        let guard = guards[0].as_ref().expect("a guard");
        for (address, expected) in [
            ([10, 9, 9, 9], Standing::Blocked),
            ([10, 1, 9, 9], Standing::Allowed),
            ([10, 1, 2, 9], Standing::Blocked),
            ([10, 1, 2, 3], Standing::Allowed),
            ([11, 1, 2, 3], Standing::Unlisted),
        ] {
            assert_eq!(
                guard.standing(Ipv4Addr::from(address)),
                expected,
                "{address:?}"
            );
        }
    }

    #[test]
    fn equal_guards_are_one_and_stay_one() {
        let both = guard(&[0], &[], Some(0));
        let first = config(&[both.clone(), Guard::default(), both]);
        let guards = compile(&first, None).expect("it builds");
        assert!(guards[1].is_none());
        let same = |a: &Guards, at: usize, b: &Guards, bt: usize| {
            Arc::ptr_eq(
                a[at].as_ref().expect("a guard"),
                b[bt].as_ref().expect("a guard"),
            )
        };
        assert!(same(&guards, 0, &guards, 2));
        let again = compile(&first, Some(&guards)).expect("it builds");
        assert!(same(&guards, 0, &again, 0));
        let mut other = first;
        let mut limits = other.limits.to_vec();
        limits[0].burst = 11;
        other.limits = limits.into();
        let changed = compile(&other, Some(&guards)).expect("it builds");
        assert!(!same(&guards, 0, &changed, 0), "its limit changed");
    }

    #[test]
    fn what_does_not_exist_is_refused() {
        let refused = |guard| {
            compile(&config(&[guard]), None)
                .expect_err("refused")
                .to_string()
        };
        assert!(refused(guard(&[7], &[], None)).contains("address set 7"));
        assert!(refused(guard(&[], &[8], None)).contains("address set 8"));
        assert!(
            refused(guard(&[], &[], Some(1))).contains("limit 1"),
            "it counts no sources"
        );
        assert!(refused(guard(&[], &[], Some(9))).contains("limit 9"));
    }
}
