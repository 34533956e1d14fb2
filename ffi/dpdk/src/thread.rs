//! Threads of ours that poll.

use core::marker::PhantomData;

use crate::error::check;
use crate::{DpdkError, sys};

/// The calling thread is known to the EAL until this is dropped, on the same thread.
#[derive(Debug)]
#[must_use = "the thread is unregistered when this is dropped"]
pub struct ThreadRegistration {
    is_ours: bool,
    this_thread_only: PhantomData<*const ()>,
}

/// Makes the calling thread known to the EAL: it gets a number, and with it a cache of its own in every pool. Threads that
/// poll should; everything works without, slower. The thread keeps the CPU affinity that it has.
pub fn register_thread() -> Result<ThreadRegistration, DpdkError> {
    // SAFETY: reads a thread-local integer.
    let known = unsafe { sys::march_lcore_id() } != sys::MARCH_LCORE_NONE;
    if !known {
        // SAFETY: no arguments; concerns the calling thread alone.
        let code = unsafe { sys::rte_thread_register() };
        check(
            "rte_thread_register",
            || format!("thread {:?}", std::thread::current().name()),
            code,
        )?;
    }
    Ok(ThreadRegistration {
        is_ours: !known,
        this_thread_only: PhantomData,
    })
}

impl Drop for ThreadRegistration {
    fn drop(&mut self) {
        if self.is_ours {
            // SAFETY: no arguments; the type is not `Send`, so this is the thread that was registered.
            unsafe { sys::rte_thread_unregister() };
        }
    }
}
