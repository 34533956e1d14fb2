//! Exit codes, and failures on their way to them.

use std::process::ExitCode;

use march_proto::{status, v1};
use tonic::Status;

/// What the exit code says. Scripts depend on the numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Code {
    Ok = 0,
    /// `diff` found differences.
    Differences = 1,
    Usage = 2,
    Invalid = 3,
    NotFound = 4,
    Conflict = 5,
    Denied = 6,
    Unavailable = 7,
    NotConverged = 8,
}

impl From<Code> for ExitCode {
    fn from(code: Code) -> Self {
        ExitCode::from(code as u8)
    }
}

/// Why a command did not do what it should.
#[derive(Debug)]
pub(crate) struct Failure {
    pub code: Code,
    message: String,
    errors: Vec<march_model::FieldError>,
}

impl Failure {
    pub fn new(code: Code, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            errors: Vec::new(),
        }
    }

    /// Errors found before the daemon was asked.
    pub fn invalid(errors: Vec<march_model::FieldError>) -> Self {
        Self {
            code: Code::Invalid,
            message: String::new(),
            errors,
        }
    }

    /// What went wrong, in one line.
    pub fn message(&self) -> &str {
        &self.message
    }

    /// Every error on a line of its own, or the message.
    pub fn print(&self) {
        for error in &self.errors {
            eprintln!("{error}");
        }
        match self.errors.len() {
            0 => eprintln!("marchctl: {}", self.message),
            1 => eprintln!("marchctl: 1 error, nothing was changed"),
            count => eprintln!("marchctl: {count} errors, nothing was changed"),
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let code = match status.code() {
            tonic::Code::InvalidArgument | tonic::Code::OutOfRange => Code::Invalid,
            tonic::Code::NotFound => Code::NotFound,
            tonic::Code::Aborted | tonic::Code::FailedPrecondition | tonic::Code::AlreadyExists => {
                Code::Conflict
            }
            tonic::Code::PermissionDenied | tonic::Code::Unauthenticated => Code::Denied,
            _ => Code::Unavailable,
        };
        let errors: Vec<v1::FieldError> = status::errors_of(&status);
        Self {
            code,
            message: status.message().to_owned(),
            errors: errors.into_iter().map(Into::into).collect(),
        }
    }
}
