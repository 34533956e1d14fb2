//! What the pipeline needs of one packet buffer, whoever owns it (mbuf, UMEM descriptor, memory ring).

/// One frame: contiguous bytes from the Ethernet header on, with room before and behind to grow into.
///
/// Implementors guarantee that `bytes` and `bytes_mut` are the same region, that `prepend`/`resize` keep the existing
/// bytes where they are in memory, and that nothing else can read or write the frame while the value exists.
pub trait Buffer {
    /// The frame's bytes, Ethernet destination first, no FCS.
    fn bytes(&self) -> &[u8];
    /// The same bytes, writable.
    fn bytes_mut(&mut self) -> &mut [u8];
    /// Bytes that [`Buffer::prepend`] can still add in front.
    fn headroom(&self) -> usize;
    /// Bytes that [`Buffer::resize`] can still add behind.
    fn tailroom(&self) -> usize;
    /// Moves the start of the frame `count` bytes towards lower addresses. The new bytes hold whatever was there.
    /// Returns `false` and changes nothing if the headroom is too small.
    #[must_use]
    fn prepend(&mut self, count: usize) -> bool;
    /// Sets the frame's length, cutting it or growing it into the tailroom (new bytes hold whatever was there).
    /// Returns `false` and changes nothing if the tailroom is too small.
    #[must_use]
    fn resize(&mut self, len: usize) -> bool;
    /// Asks the CPU to fetch the first cache line of the frame. A hint only.
    fn prefetch(&self) {}
}
