//! Waiting for a condition, never for time.

use std::time::{Duration, Instant};

use anyhow::{Result, bail};

/// How long a condition that does not hold yet is left alone.
pub const INTERVAL: Duration = Duration::from_millis(10);

/// Calls `condition` until it gives a value, or fails with `what` after `deadline`.
pub fn until<T>(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> Result<T> {
    let end = Instant::now() + deadline;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= end {
            bail!("not within {} s: {what}", deadline.as_secs_f32());
        }
        std::thread::sleep(INTERVAL);
    }
}

/// Like [`until`] for something that can fail meanwhile: the last error is part of the message at the deadline.
pub fn until_ok<T>(
    what: &str,
    deadline: Duration,
    mut attempt: impl FnMut() -> Result<T>,
) -> Result<T> {
    let mut last = None;
    let outcome = until(what, deadline, || match attempt() {
        Ok(value) => Some(value),
        Err(error) => {
            last = Some(error);
            None
        }
    });
    match (outcome, last) {
        (Err(late), Some(error)) => Err(error.context(late)),
        (outcome, _) => outcome,
    }
}
