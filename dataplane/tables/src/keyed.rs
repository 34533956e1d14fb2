//! The hash map of a generation: seeded at random, several times quicker than the standard library's `SipHash`.
//!
//! What goes into such a map is chosen by the operator and the kernel, never by a sender; strangers choose only what is
//! looked up. They can neither make entries collide nor see how long a look-up takes to any use, so a hash that is not
//! cryptographic is enough here. (A flow table is another matter: there strangers choose what goes in.)

/// A hash map with a random seed.
pub(crate) type KeyedMap<K, V> = std::collections::HashMap<K, V, foldhash::fast::RandomState>;
