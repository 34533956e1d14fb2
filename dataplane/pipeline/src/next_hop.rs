//! Next hops: by the routes, or on the link that a rule names.

use march_flow::{Direction, Flow};
use march_tables::{AdjacencyId, AdjacencyState, NONE, PortId, Route};
use march_wire::{DropReason, Verdict};

use crate::context::{Context, ResolveRequest, Shared};
use crate::rewrite::IpVersion;
use crate::slow::Step;

/// Where packets of this flow and direction go; asks for the next hop and holds the frame if that is not resolved.
pub(crate) fn next_hop<F: IpVersion>(
    shared: &mut Shared,
    context: &Context<'_>,
    flow: &Flow<F::Pair>,
    (direction, egress): (Direction, PortId),
) -> Step<AdjacencyId> {
    let generation = context.generation;
    let remembered = match (direction, generation.backend(flow.backend)) {
        (Direction::Forward, Some(backend)) => backend.adjacency,
        _ => flow.next_hop[direction.index()],
    };
    if is_resolved(context, remembered) {
        return Ok(remembered);
    }
    let (_, destination) = F::addresses(flow.outgoing(direction).addresses);
    if egress != NONE {
        return resolve_on::<F>(shared, context, egress, destination);
    }
    resolve::<F>(shared, context, destination)
}

/// The adjacency towards an address. Unresolved: asks for it, and the frame waits.
pub(crate) fn resolve<F: IpVersion>(
    shared: &mut Shared,
    context: &Context<'_>,
    destination: F::Address,
) -> Step<AdjacencyId> {
    match context.generation.routes.lookup(destination) {
        Route::Via(id) if is_resolved(context, id) => Ok(id),
        Route::Via(id) => {
            if let Some((port, address)) = context.generation.neighbours.key(id) {
                shared.request(ResolveRequest { port, address });
            }
            Err(Verdict::Hold)
        }
        Route::Connected(port) => resolve_on::<F>(shared, context, port, destination),
        Route::Blackhole | Route::Missing => Err(Verdict::Drop(DropReason::NoRoute)),
    }
}

/// The adjacency of an address on the link of a port. Unresolved: asks for it, and the frame waits.
pub(crate) fn resolve_on<F: IpVersion>(
    shared: &mut Shared,
    context: &Context<'_>,
    port: PortId,
    destination: F::Address,
) -> Step<AdjacencyId> {
    if context.generation.port(port).is_none() {
        return Err(Verdict::Drop(DropReason::NoRoute));
    }
    let found = context.generation.neighbours.get(port, destination);
    if let Some(id) = found.filter(|id| is_resolved(context, *id)) {
        return Ok(id);
    }
    let address = destination.into();
    shared.request(ResolveRequest { port, address });
    Err(Verdict::Hold)
}

fn is_resolved(context: &Context<'_>, id: AdjacencyId) -> bool {
    context
        .generation
        .adjacency(id)
        .is_some_and(|adjacency| adjacency.state == AdjacencyState::Resolved)
}
