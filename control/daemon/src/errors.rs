//! Errors of the store as gRPC status codes.

use march_content::ContentError;
use march_model::{FieldError, Invalid};
use march_proto::status;
use march_store::StoreError;
use tonic::Status;

pub(crate) fn store(error: StoreError) -> Status {
    let message = error.to_string();
    match error {
        StoreError::NoContent { document, .. } => of_content(document, "hash", message),
        StoreError::WrongContent { document, .. } => of_content(document, "prefixes", message),
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

fn of_content(document: String, field: &str, message: String) -> Status {
    let error = FieldError::of_document(document, &format!("spec.content.{field}"), message);
    status::invalid(Invalid(vec![error]))
}

/// Content that a kept revision names cannot be read.
#[expect(clippy::needless_pass_by_value, reason = "stands in `map_err`")]
pub(crate) fn content(error: ContentError) -> Status {
    let message = error.to_string();
    tracing::error!(event = "store.content_failed", error = message);
    Status::internal(message)
}
