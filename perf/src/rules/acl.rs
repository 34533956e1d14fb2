//! The yardstick: DPDK's `rte_acl` over the same filters, one category, five fields.
//!
//! It takes 13 bytes of key in network byte order through a pointer for each packet, and has no way to change a rule but to
//! build everything again. IPv4 only.

use std::ffi::CString;
use std::ptr::NonNull;
use std::time::Instant;

use march_dpdk::Eal;

use super::attempt::BuildFailure;
use super::filter::{Filter, Packet};
use super::sys;

/// Which of its implementations looks rules up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Algorithm {
    /// AVX2.
    Avx2,
    /// AVX-512, 16 packets at once.
    Avx512x16,
    /// AVX-512, 32 packets at once.
    Avx512x32,
}

impl Algorithm {
    /// From narrow to wide.
    pub const ALL: [Self; 3] = [Self::Avx2, Self::Avx512x16, Self::Avx512x32];

    /// Its name in DPDK.
    pub fn name(self) -> &'static str {
        match self {
            Self::Avx2 => "avx2",
            Self::Avx512x16 => "avx512x16",
            Self::Avx512x32 => "avx512x32",
        }
    }

    fn number(self) -> sys::rte_acl_classify_alg {
        match self {
            Self::Avx2 => sys::RTE_ACL_CLASSIFY_AVX2,
            Self::Avx512x16 => sys::RTE_ACL_CLASSIFY_AVX512X16,
            Self::Avx512x32 => sys::RTE_ACL_CLASSIFY_AVX512X32,
        }
    }
}

/// One packet as `rte_acl` reads it: the first byte alone, then groups of four.
#[derive(Clone, Copy)]
#[repr(C, align(4))]
struct Key([u8; 16]);

/// Offsets in a [`Key`].
const PROTOCOL: u32 = 0;
const SOURCE: u32 = 4;
const DESTINATION: u32 = 8;
const SOURCE_PORT: u32 = 12;
const PORT: u32 = 14;

/// Keys of a trace, and the pointers to them that a search wants.
pub struct Keys {
    pointers: Vec<*const u8>,
    /// What the pointers point to; never changed.
    _keys: Box<[Key]>,
}

impl Keys {
    /// The keys of `packets`, in their order.
    pub fn new(packets: &[Packet]) -> Self {
        let keys: Box<[Key]> = packets.iter().map(key).collect();
        Self {
            pointers: keys.iter().map(|key| key.0.as_ptr()).collect(),
            _keys: keys,
        }
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.pointers.len()
    }
}

fn key(packet: &Packet) -> Key {
    let mut bytes = [0; 16];
    let mut put = |at: u32, value: &[u8]| {
        bytes[at as usize..][..value.len()].copy_from_slice(value);
    };
    put(PROTOCOL, &[packet.protocol]);
    put(SOURCE, &(packet.source as u32).to_be_bytes());
    put(DESTINATION, &(packet.destination as u32).to_be_bytes());
    put(SOURCE_PORT, &packet.source_port.to_be_bytes());
    put(PORT, &packet.port.to_be_bytes());
    Key(bytes)
}

/// A compiled set.
pub struct Acl {
    context: NonNull<sys::rte_acl_ctx>,
    /// Seconds that `rte_acl_build` took.
    pub build_seconds: f64,
    /// Bytes that the compiled form holds, without the list of rules.
    pub bytes: u64,
}

impl Acl {
    /// Compiles `filters`; the first that matches wins.
    ///
    /// # Errors
    /// The outer error is of the machine (no memory for the rules as such), the inner one `rte_acl_build`'s.
    pub fn build(_eal: &Eal, filters: &[Filter]) -> anyhow::Result<Result<Self, BuildFailure>> {
        let mut acl = Self::empty(filters.len())?;
        for (index, filter) in filters.iter().enumerate() {
            acl.add(filter, index, filters.len() - index)?;
        }
        let before = heap_bytes();
        let start = Instant::now();
        let config = config();
        // SAFETY: the context is live and this thread's alone, the configuration is readable across the call.
        let code = unsafe { sys::rte_acl_build(acl.context.as_ptr(), &raw const *config) };
        let seconds = start.elapsed().as_secs_f64();
        if code != 0 {
            let why = std::io::Error::from_raw_os_error(-code).to_string();
            return Ok(Err(BuildFailure { why, seconds }));
        }
        acl.build_seconds = seconds;
        acl.bytes = heap_bytes().saturating_sub(before);
        Ok(Ok(acl))
    }

    fn empty(rules: usize) -> anyhow::Result<Self> {
        let name = CString::new("march-perf")?;
        let parameters = sys::rte_acl_param {
            name: name.as_ptr(),
            socket_id: -1,
            rule_size: size_of::<sys::march_acl_rule>() as u32,
            max_rule_num: rules as u32,
        };
        // SAFETY: the EAL runs (callers hold it); parameters and name live across the call, which copies them.
        let context = unsafe { sys::rte_acl_create(&raw const parameters) };
        let context = NonNull::new(context)
            .ok_or_else(|| anyhow::anyhow!("rte_acl_create for {rules} rules"))?;
        Ok(Self {
            context,
            build_seconds: 0.0,
            bytes: 0,
        })
    }

    fn add(&mut self, filter: &Filter, index: usize, priority: usize) -> anyhow::Result<()> {
        let rule = sys::march_acl_rule {
            data: sys::rte_acl_rule_data {
                category_mask: 1,
                priority: priority as i32,
                userdata: index as u32 + 1,
            },
            field: [
                field8(filter.protocol),
                field32(filter.source.first, filter.source.length),
                field32(filter.destination.first, filter.destination.length),
                field16(filter.source_ports.first, filter.source_ports.last),
                field16(filter.ports.first, filter.ports.last),
            ],
        };
        // SAFETY: the context is live; the rule has the size that the context was created with and lives across the call.
        let code =
            unsafe { sys::rte_acl_add_rules(self.context.as_ptr(), (&raw const rule).cast(), 1) };
        anyhow::ensure!(code == 0, "rte_acl_add_rules: error {}", -code);
        Ok(())
    }

    /// Looks rules up with `algorithm` from now on; false if machine or EAL do not let it.
    #[must_use]
    pub fn choose(&mut self, algorithm: Algorithm) -> bool {
        // SAFETY: the context is live and this thread's alone.
        let code =
            unsafe { sys::rte_acl_set_ctx_classify(self.context.as_ptr(), algorithm.number()) };
        code == 0
    }

    /// The first rule for each of `results.len()` keys from `first` on: its index plus one, 0 for none.
    #[inline]
    pub fn classify(&self, keys: &Keys, first: usize, results: &mut [u32]) {
        let keys = &keys.pointers[first..first + results.len()];
        // SAFETY: as many pointers to whole keys as results are asked for; `_keys` keeps what they point to. The function
        // does not write through the pointers that it takes as mutable.
        let code = unsafe {
            sys::rte_acl_classify(
                self.context.as_ptr(),
                keys.as_ptr().cast_mut(),
                results.as_mut_ptr(),
                results.len() as u32,
                1,
            )
        };
        debug_assert_eq!(code, 0, "one category is a count that it takes");
    }
}

impl Drop for Acl {
    fn drop(&mut self) {
        // SAFETY: the context was made by `empty`, belongs to this value alone and is not used again.
        unsafe { sys::rte_acl_free(self.context.as_ptr()) };
    }
}

fn config() -> Box<sys::rte_acl_config> {
    let field = |kind: u32, size, number, group, offset| sys::rte_acl_field_def {
        type_: kind as u8,
        size,
        field_index: number,
        input_index: group,
        offset,
    };
    let mut defs = [field(0, 0, 0, 0, 0); sys::RTE_ACL_MAX_FIELDS as usize];
    defs[..5].copy_from_slice(&[
        field(sys::RTE_ACL_FIELD_TYPE_BITMASK, 1, 0, 0, PROTOCOL),
        field(sys::RTE_ACL_FIELD_TYPE_MASK, 4, 1, 1, SOURCE),
        field(sys::RTE_ACL_FIELD_TYPE_MASK, 4, 2, 2, DESTINATION),
        field(sys::RTE_ACL_FIELD_TYPE_RANGE, 2, 3, 3, SOURCE_PORT),
        field(sys::RTE_ACL_FIELD_TYPE_RANGE, 2, 4, 3, PORT),
    ]);
    Box::new(sys::rte_acl_config {
        num_categories: 1,
        num_fields: 5,
        defs,
        max_size: 0,
    })
}

/// A value with a mask; every bit counts if there is a value.
fn field8(value: Option<u8>) -> sys::rte_acl_field {
    let mask = if value.is_some() { u8::MAX } else { 0 };
    pair(u64::from(value.unwrap_or(0)), u64::from(mask))
}

/// An address and a prefix length.
fn field32(address: u128, length: u8) -> sys::rte_acl_field {
    pair(address as u64, u64::from(length))
}

/// A range, both ends included.
fn field16(first: u16, last: u16) -> sys::rte_acl_field {
    pair(u64::from(first), u64::from(last))
}

/// Little-endian, so that the narrower members of the unions hold the low bits.
fn pair(value: u64, mask_range: u64) -> sys::rte_acl_field {
    sys::rte_acl_field {
        value: sys::rte_acl_field_types { u64_: value },
        mask_range: sys::rte_acl_field_types { u64_: mask_range },
    }
}

/// Bytes allocated on the first socket's heap.
fn heap_bytes() -> u64 {
    // SAFETY: plain numbers, for which zero is a value.
    let mut stats: sys::rte_malloc_socket_stats = unsafe { std::mem::zeroed() };
    // SAFETY: the EAL runs, and the statistics are writable across the call.
    let code = unsafe { sys::rte_malloc_get_socket_stats(0, &raw mut stats) };
    if code == 0 {
        stats.heap_allocsz_bytes as u64
    } else {
        0
    }
}
