//! Admin states of backends: outside revisions, so that no rollback brings a server back that a person took out.

use std::net::IpAddr;

use march_model::Name;
use rusqlite::TransactionBehavior;

use crate::error::StoreError;
use crate::{Store, write_audit};

/// What a person wants of a backend, whatever its health says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminState {
    /// Takes new flows while healthy. Not stored: it is what every other backend is.
    Enabled,
    /// No new flows, the present ones finish.
    Drain,
    /// No flows at all, now.
    Offline,
}

impl AdminState {
    /// The word.
    pub const fn as_str(self) -> &'static str {
        match self {
            AdminState::Enabled => "enabled",
            AdminState::Drain => "drain",
            AdminState::Offline => "offline",
        }
    }
}

/// The admin state of a backend.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BackendAdmin {
    /// The pool.
    pub pool: Name,
    /// The backend's address.
    pub address: IpAddr,
    /// The backend's port; 0 when it has none of its own.
    pub port: u16,
    /// What is wanted.
    pub state: AdminState,
}

impl Store {
    /// Every backend that is not enabled, sorted by pool, address text and port.
    pub fn backend_states(&self) -> Result<Vec<BackendAdmin>, StoreError> {
        let rows = self.backend_rows().map_err(|error| self.failed(error))?;
        let parse = |(pool, address, port, state): (String, String, u16, String)| {
            let state = match state.as_str() {
                "offline" => AdminState::Offline,
                _ => AdminState::Drain,
            };
            let address = address
                .parse()
                .map_err(|_| format!("`{address}` is not an address"))?;
            Ok(BackendAdmin {
                pool: pool.parse()?,
                address,
                port,
                state,
            })
        };
        let parsed: Result<Vec<BackendAdmin>, String> = rows.into_iter().map(parse).collect();
        parsed.map_err(|detail| StoreError::Corrupt {
            path: self.path.clone(),
            detail,
        })
    }

    fn backend_rows(&self) -> rusqlite::Result<Vec<(String, String, u16, String)>> {
        let mut select = self.connection.prepare_cached(
            "SELECT pool, address, port, state FROM backend_admin ORDER BY pool, address, port",
        )?;
        select
            .query_map([], |row| {
                Ok((row.get(0)?, row.get(1)?, row.get(2)?, row.get(3)?))
            })?
            .collect()
    }

    /// Sets the states of some backends in one transaction with their audit entries.
    pub fn set_backend_states(
        &mut self,
        backends: &[BackendAdmin],
        author: &str,
    ) -> Result<(), StoreError> {
        let write = |store: &mut Self| -> rusqlite::Result<()> {
            let transaction = store
                .connection
                .transaction_with_behavior(TransactionBehavior::Immediate)?;
            for backend in backends {
                let BackendAdmin {
                    pool,
                    address,
                    port,
                    state,
                } = backend;
                let key = (pool.as_str(), address.to_string(), *port);
                if *state == AdminState::Enabled {
                    transaction
                        .prepare_cached(
                            "DELETE FROM backend_admin WHERE pool = ?1 AND address = ?2 AND port = ?3",
                        )?
                        .execute(key)?;
                } else {
                    transaction
                        .prepare_cached(
                            "INSERT INTO backend_admin (pool, address, port, state) VALUES (?1, ?2, ?3, ?4)
                             ON CONFLICT DO UPDATE SET state = excluded.state",
                        )?
                        .execute((key.0, key.1, key.2, state.as_str()))?;
                }
                let detail = format!("{} {address} port {port} of pool {pool}", state.as_str());
                write_audit(&transaction, author, "backend", &detail, None)?;
            }
            transaction.commit()
        };
        write(self).map_err(|error| self.failed(error))
    }
}
