//! What DPDK refuses, with its own words for it.

use std::ffi::CStr;

use crate::sys;

/// DPDK refused something.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum DpdkError {
    /// The EAL runs already, or failed to start once: it can be initialised once per process.
    #[error("the EAL of this process was already initialised")]
    AlreadyInitialised,
    /// An argument holds a NUL byte or is not what it must be.
    #[error("{what} `{value}` cannot be used: {reason}")]
    Argument {
        /// What was given.
        what: &'static str,
        /// Its value.
        value: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// The port has an owner already.
    #[error("port {port} is already open")]
    PortTaken {
        /// Port number.
        port: u16,
    },
    /// A call failed.
    #[error("{call} ({subject}): {text} (error {code})")]
    Call {
        /// The DPDK function.
        call: &'static str,
        /// What it was about: a port, a device, a pool.
        subject: String,
        /// Positive error number.
        code: i32,
        /// DPDK's text for it.
        text: String,
    },
    /// The device lacks something that was asked for.
    #[error("port {port} ({driver}) offers {offered} {what}, {wanted} were asked for")]
    Capacity {
        /// Port number.
        port: u16,
        /// Driver name.
        driver: String,
        /// What there is too little of.
        what: &'static str,
        /// How much the device has.
        offered: u64,
        /// How much was asked for.
        wanted: u64,
    },
}

impl DpdkError {
    /// The error of a call that returned `code`: a negative error number, or -1 with the reason in `rte_errno`.
    pub(crate) fn of_call(call: &'static str, subject: impl Into<String>, code: i32) -> Self {
        let code = if code == -1 {
            errno()
        } else {
            code.wrapping_abs()
        };
        Self::Call {
            call,
            subject: subject.into(),
            code,
            text: text_of(code),
        }
    }

    /// The error of a call that returned null and left the reason in `rte_errno`.
    pub(crate) fn of_null(call: &'static str, subject: impl Into<String>) -> Self {
        Self::of_call(call, subject, -1)
    }
}

/// Turns DPDK's return code into a result.
pub(crate) fn check(
    call: &'static str,
    subject: impl FnOnce() -> String,
    code: i32,
) -> Result<(), DpdkError> {
    if code < 0 {
        Err(DpdkError::of_call(call, subject(), code))
    } else {
        Ok(())
    }
}

fn errno() -> i32 {
    // SAFETY: reads a thread-local integer.
    unsafe { sys::march_errno() }
}

fn text_of(code: i32) -> String {
    // SAFETY: returns a static or thread-local string that lives until the next call on this thread.
    let text = unsafe { sys::rte_strerror(code) };
    if text.is_null() {
        return "no text".to_owned();
    }
    // SAFETY: not null, and ends in NUL as the function promises.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}
