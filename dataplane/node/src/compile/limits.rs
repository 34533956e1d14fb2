//! Rate limits, bounds of services and what ports say of packets that come in: documents in terms of ids.

use std::collections::BTreeMap;

use march_model::{FieldError, Rate, RateLimit, Scope, State};
use march_tables::{
    Guard, Limit, LimitScope, LimitUnit, PortTable, ServiceLimits, Stance, Unmatched,
};

use super::slots::{Ids, NoSlot};

/// Every limit of the documents; `ids` then has their numbers.
pub(super) fn assign(state: &State, ids: &mut Ids) -> Result<Vec<Limit>, (String, NoSlot)> {
    let names = state
        .rate_limits()
        .map(|(metadata, _)| metadata.name.as_str().to_owned());
    ids.limits.assign(names)?;
    let limits = state.rate_limits();
    Ok(limits
        .map(|(metadata, limit)| table(metadata.name.as_str(), limit))
        .collect())
}

fn table(name: &str, limit: &RateLimit) -> Limit {
    let scope = match (limit.per, limit.prefix_length.unwrap_or_default()) {
        (Scope::Shared, _) => LimitScope::Shared,
        (Scope::Service, _) => LimitScope::Service,
        (Scope::Source, lengths) => LimitScope::Source {
            v4: lengths.v4,
            v6: lengths.v6,
        },
    };
    let (unit, per_second, burst) = match limit.rate {
        Rate::Packets(packets) => (LimitUnit::Packets, packets, limit.burst),
        // Documents give the burst in bytes.
        Rate::Bits(bits) => (LimitUnit::Bits, bits, limit.burst.saturating_mul(8)),
    };
    Limit {
        name: name.into(),
        scope,
        unit,
        per_second,
        burst,
    }
}

pub(super) fn of_service(limits: march_model::ServiceLimits) -> ServiceLimits {
    ServiceLimits {
        new_per_second: limits.new_connections_per_second.unwrap_or(0),
        half_open: limits.half_open.unwrap_or(0),
    }
}

/// Fills in what the documents of ports say of packets that come in.
pub(super) fn ingress(
    state: &State,
    ids: &Ids,
    tables: &mut [PortTable],
) -> Result<(), Vec<FieldError>> {
    let documents: BTreeMap<&str, &march_model::Port> = state
        .ports()
        .map(|(metadata, port)| (metadata.name.as_str(), port))
        .collect();
    let mut errors = Vec::new();
    for table in tables {
        let Some(port) = documents.get(&*table.name) else {
            continue;
        };
        table.unmatched = Unmatched {
            services: stance(port.unmatched.services),
            transit: stance(port.unmatched.transit),
        };
        let mut unknown = |path: &str, name: &march_model::Name| {
            errors.push(FieldError::of_document(
                format!("Port/{}", table.name),
                path,
                format!("there is no `{name}`"),
            ));
        };
        let mut sets = |path: &str, names: &[march_model::Name]| -> Vec<_> {
            let known = names.iter().map(|name| (name, ids.sets.of(name.as_str())));
            known
                .filter_map(|(name, id)| {
                    if id.is_none() {
                        unknown(path, name);
                    }
                    id
                })
                .collect()
        };
        let block = sets("spec.guard.block", &port.guard.block);
        let allow = sets("spec.guard.allow", &port.guard.allow);
        let limit = |name: &march_model::Name| {
            let id = ids.limits.of(name.as_str());
            if id.is_none() {
                unknown("spec.guard.perSource", name);
            }
            id
        };
        let per_source = port.guard.per_source.as_ref().and_then(limit);
        table.guard = Guard {
            block,
            allow,
            per_source,
        };
    }
    if errors.is_empty() {
        Ok(())
    } else {
        Err(errors)
    }
}

fn stance(stance: march_model::Stance) -> Stance {
    match stance {
        march_model::Stance::Allow => Stance::Allow,
        march_model::Stance::Deny => Stance::Deny,
    }
}
