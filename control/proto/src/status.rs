//! Errors in a gRPC status: the code says what kind, the details say where.

use prost::Message;
use tonic::{Code, Status};

use crate::v1;

/// The most that the errors of a status take, in bytes. They travel in a header, whose size every HTTP/2 peer bounds.
pub const MAX_DETAIL_BYTES: usize = 2 << 20;

/// A status with every error in its details; of very many the first ones and how many more there are.
pub fn with_errors(
    code: Code,
    message: impl Into<String>,
    mut errors: Vec<v1::FieldError>,
) -> Status {
    let mut bytes = 0;
    let fitting = errors.iter().take_while(|error| {
        bytes += error.encoded_len() + 8;
        bytes < MAX_DETAIL_BYTES
    });
    let (fitting, count) = (fitting.count(), errors.len());
    if fitting < count {
        errors.truncate(fitting);
        errors.push(v1::FieldError {
            message: format!("and {} more errors", count - fitting),
            ..Default::default()
        });
    }
    let detail = v1::ErrorDetail { errors };
    Status::with_details(code, message, detail.encode_to_vec().into())
}

/// The errors in the details of a status; none if there are no details.
pub fn errors_of(status: &Status) -> Vec<v1::FieldError> {
    v1::ErrorDetail::decode(status.details())
        .map(|detail| detail.errors)
        .unwrap_or_default()
}

/// Documents that were refused, as `INVALID_ARGUMENT`.
pub fn invalid(invalid: march_model::Invalid) -> Status {
    refused(Code::InvalidArgument, invalid)
}

/// Documents that were refused, with the code that says what for.
pub fn refused(code: Code, invalid: march_model::Invalid) -> Status {
    let message = match invalid.0.len() {
        1 => invalid.0[0].message.clone(),
        count => format!("{count} errors"),
    };
    with_errors(
        code,
        message,
        invalid.0.into_iter().map(Into::into).collect(),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_very_many_errors_the_first_ones_travel() {
        let error = v1::FieldError {
            message: "x".repeat(1_000),
            ..Default::default()
        };
        let status = with_errors(Code::InvalidArgument, "", vec![error; 10_000]);
        assert!(status.details().len() <= MAX_DETAIL_BYTES + 100);
        let errors = errors_of(&status);
        let last = errors.last().expect("some");
        assert_eq!(
            last.message,
            format!("and {} more errors", 10_001 - errors.len())
        );
    }

    #[test]
    fn errors_travel_in_a_status() {
        let error = march_model::FieldError {
            file: "a.yaml".to_owned(),
            line: 3,
            column: 7,
            document: "Pool/web".to_owned(),
            path: "spec.backends[2].port".to_owned(),
            message: "port 0".to_owned(),
        };
        let status = invalid(march_model::Invalid(vec![error.clone(), error.clone()]));
        assert_eq!(
            (status.code(), status.message()),
            (Code::InvalidArgument, "2 errors")
        );
        let errors: Vec<march_model::FieldError> =
            errors_of(&status).into_iter().map(Into::into).collect();
        assert_eq!(errors, [error.clone(), error]);
        assert!(errors_of(&Status::internal("no details")).is_empty());
    }
}
