//! Pools of packet buffers.

use core::ptr::NonNull;
use std::sync::Arc;

use crate::eal::{Eal, EalInner, c_string};
use crate::mbuf::{HEADROOM, Mbuf};
use crate::{DpdkError, sys};

/// Size and place of a pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MempoolConfig {
    /// Unique in the process.
    pub name: String,
    /// Buffers. Must exceed what the descriptors of all ports that use it hold, or the ports starve each other.
    pub buffers: u32,
    /// Bytes of one buffer for headroom ([`HEADROOM`]) and frame.
    pub data_room: u16,
    /// Buffers that a registered thread keeps at hand without going to the common ring; 0 to 512, and never more than half
    /// of a small pool.
    pub cache: u32,
    /// NUMA node of the memory; `None` for any.
    pub numa_node: Option<u32>,
}

impl Default for MempoolConfig {
    fn default() -> Self {
        Self {
            name: "marchproxy".to_owned(),
            buffers: 8191,
            data_room: HEADROOM + 2048,
            cache: 256,
            numa_node: None,
        }
    }
}

/// A pool of packet buffers. Ports keep the pool they receive into.
#[derive(Debug)]
pub struct Mempool {
    inner: Arc<Pool>,
}

#[derive(Debug)]
pub(crate) struct Pool {
    raw: NonNull<sys::rte_mempool>,
    buffers: u32,
    data_room: u16,
    _eal: Arc<EalInner>,
}

// SAFETY: a mempool is made for use by many threads at once; its operations are lock-free or use the thread's own cache.
unsafe impl Send for Pool {}
// SAFETY: as above.
unsafe impl Sync for Pool {}

impl Mempool {
    /// Makes a pool. Buffers are spread over memory channels and cache sets by padding their distance to an odd number of
    /// cache lines.
    pub fn create(eal: &Eal, config: &MempoolConfig) -> Result<Self, DpdkError> {
        let name = c_string("pool name", &config.name)?;
        let node = config.numa_node.map_or(sys::MARCH_SOCKET_ANY, |node| {
            i32::try_from(node).unwrap_or(sys::MARCH_SOCKET_ANY)
        });
        let cache = config.cache.min(config.buffers / 2);
        let eal = eal.inner();
        let raw = {
            let _devices = eal.lock();
            // SAFETY: the name ends in NUL and lives across the call; the EAL runs.
            unsafe {
                sys::rte_pktmbuf_pool_create(
                    name.as_ptr(),
                    config.buffers,
                    cache,
                    0,
                    config.data_room,
                    node,
                )
            }
        };
        let subject = || format!("pool `{}` of {} buffers", config.name, config.buffers);
        let raw = NonNull::new(raw)
            .ok_or_else(|| DpdkError::of_null("rte_pktmbuf_pool_create", subject()))?;
        let pool = Pool {
            raw,
            buffers: config.buffers,
            data_room: config.data_room,
            _eal: eal,
        };
        Ok(Self {
            inner: Arc::new(pool),
        })
    }

    /// One buffer, empty, with [`HEADROOM`] in front. `None` when the pool is dry.
    #[inline]
    pub fn allocate(&self) -> Option<Mbuf> {
        // SAFETY: the pool lives as long as `self`.
        let raw = unsafe { sys::march_mbuf_alloc(self.inner.raw()) };
        // SAFETY: a buffer that was just allocated is in nobody else's hands.
        NonNull::new(raw).map(|raw| unsafe { Mbuf::from_raw(raw) })
    }

    /// Buffers in the pool, caches included.
    pub fn available(&self) -> u32 {
        self.inner.available()
    }

    /// All buffers of the pool.
    pub fn buffers(&self) -> u32 {
        self.inner.buffers
    }

    pub(crate) fn inner(&self) -> Arc<Pool> {
        Arc::clone(&self.inner)
    }
}

impl Pool {
    pub(crate) fn raw(&self) -> *mut sys::rte_mempool {
        self.raw.as_ptr()
    }

    /// Bytes of a frame that fit into one buffer behind the headroom.
    pub(crate) fn frame_room(&self) -> u16 {
        self.data_room.saturating_sub(HEADROOM)
    }

    fn available(&self) -> u32 {
        // SAFETY: the pool lives as long as `self`.
        unsafe { sys::rte_mempool_avail_count(self.raw.as_ptr()) }
    }
}

impl Drop for Pool {
    fn drop(&mut self) {
        // Buffers that are still out point into the memory: keep it then.
        if self.available() == self.buffers {
            // SAFETY: no port uses the pool (each keeps it alive), no buffer is out, and nothing touches it after this.
            unsafe { sys::rte_mempool_free(self.raw.as_ptr()) };
        }
    }
}
