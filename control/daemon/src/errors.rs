//! Errors of the store as gRPC status codes.

use march_store::StoreError;
use tonic::Status;

#[expect(clippy::needless_pass_by_value, reason = "stands in `map_err`")]
pub(crate) fn store(error: StoreError) -> Status {
    let message = error.to_string();
    match error {
        StoreError::Conflict { .. } => Status::aborted(message),
        StoreError::NoRevision { .. } => Status::not_found(message),
        StoreError::Full { .. } => {
            tracing::error!(event = "store.full", error = message);
            Status::resource_exhausted(message)
        }
        _ => {
            tracing::error!(event = "store.failed", error = message);
            Status::internal(message)
        }
    }
}
