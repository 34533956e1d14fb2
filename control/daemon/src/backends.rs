//! Admin states of backends: what a person wants of a server, beside every revision.

use std::net::IpAddr;
use std::sync::Arc;

use march_model::{Key, Kind, Name, Spec, State};
use march_proto::v1;
use march_store::{AdminState, BackendAdmin};
use tonic::Status;

use crate::errors;
use crate::shared::{Shared, admin_message};

/// Sets the state of the backends of a pool that have this address and, unless it is 0, this port.
pub(crate) async fn set(
    shared: &Arc<Shared>,
    wanted: v1::BackendAdmin,
    author: String,
) -> Result<v1::SetBackendStateResponse, Status> {
    let state = match wanted.state() {
        v1::AdminState::Enabled => AdminState::Enabled,
        v1::AdminState::Drain => AdminState::Drain,
        v1::AdminState::Offline => AdminState::Offline,
        v1::AdminState::Unspecified => return Err(Status::invalid_argument("no state is given")),
    };
    let pool: Name = wanted.pool.parse().map_err(Status::invalid_argument)?;
    let address: IpAddr = wanted
        .address
        .parse()
        .map_err(|_| Status::invalid_argument(format!("`{}` is not an address", wanted.address)))?;
    shared
        .with_store(move |shared, store| {
            let ports = ports_of(&shared.desired().state, &pool, address, wanted.port)?;
            let present = store.backend_states().map_err(errors::store)?;
            let one = |port: u16, state| BackendAdmin { pool: pool.clone(), address, port, state };
            let state_now = |port: u16| {
                let found = present.iter().find(|b| b.pool == pool && b.address == address && b.port == port);
                found.map_or(AdminState::Enabled, |backend| backend.state)
            };
            let before: Vec<BackendAdmin> = ports.iter().map(|port| one(*port, state_now(*port))).collect();
            let changed: Vec<BackendAdmin> =
                before.iter().filter(|b| b.state != state).map(|b| one(b.port, state)).collect();
            if !changed.is_empty() {
                store.set_backend_states(&changed, &author).map_err(errors::store)?;
                shared.publish_admins(&store.backend_states().map_err(errors::store)?);
                tracing::info!(event = "backend.set", %pool, %address, ?ports, state = state.as_str(), author);
            }
            Ok(v1::SetBackendStateResponse { before: before.iter().map(admin_message).collect() })
        })
        .await
}

/// The ports of the backends that are meant; 0 for one without a port of its own.
fn ports_of(state: &State, pool: &Name, address: IpAddr, port: u32) -> Result<Vec<u16>, Status> {
    let key = Key {
        kind: Kind::Pool,
        name: pool.clone(),
    };
    let Some(Spec::Pool(spec)) = state.get(&key).map(march_model::Document::spec) else {
        return Err(Status::not_found(format!("there is no pool {pool}")));
    };
    let of_address = spec
        .backends
        .iter()
        .filter(|backend| backend.address == address);
    let ports: Vec<u16> = of_address
        .map(|backend| backend.port.unwrap_or(0))
        .filter(|found| port == 0 || u32::from(*found) == port)
        .collect();
    if ports.is_empty() {
        let have: Vec<String> = spec
            .backends
            .iter()
            .map(march_model::Backend::endpoint)
            .collect();
        return Err(Status::not_found(format!(
            "pool {pool} has no such backend; it has {}",
            have.join(", ")
        )));
    }
    Ok(ports)
}
