//! Steering programs loaded ahead of their use.
//!
//! The kernel's verifier takes its time for each, seconds where cores are scarce. They are loaded before an engine is stopped to make way
//! for another, and while a node without a configuration waits for one, so that nobody waits for them.

use std::thread::JoinHandle;

use march_bpf_loader::{LoaderError, Steering};

/// Programs that are on no interface yet.
#[derive(Debug, Default)]
pub struct Programs {
    ready: Vec<Steering>,
    loading: Vec<JoinHandle<Result<Steering, LoaderError>>>,
}

impl Programs {
    /// Starts loading until `count` are there or on their way. Does not wait.
    pub fn preload(&mut self, count: usize) {
        let missing = count.saturating_sub(self.ready.len() + self.loading.len());
        for _ in 0..missing {
            let thread = std::thread::Builder::new()
                .name("xdp-load".to_owned())
                .spawn(Steering::load);
            // Without a thread the program is loaded when it is needed.
            self.loading.extend(thread);
        }
    }

    /// Whether nothing is on its way any more.
    #[must_use]
    pub fn is_settled(&self) -> bool {
        self.loading.iter().all(JoinHandle::is_finished)
    }

    /// Returns once `count` are there, or as many as could be loaded.
    pub fn ensure(&mut self, count: usize) -> Result<(), String> {
        self.preload(count);
        let mut failure = None;
        for thread in self.loading.drain(..) {
            match thread.join() {
                Ok(Ok(program)) => self.ready.push(program),
                Ok(Err(error)) => failure = Some(error.to_string()),
                Err(_) => failure = Some("loading the XDP program panicked".to_owned()),
            }
        }
        match failure {
            Some(failure) if self.ready.len() < count => Err(failure),
            _ => Ok(()),
        }
    }

    /// Hands out `count` programs.
    pub fn take(&mut self, count: usize) -> Result<Vec<Steering>, String> {
        self.ensure(count)?;
        let at = self.ready.len().saturating_sub(count);
        Ok(self.ready.split_off(at))
    }
}
