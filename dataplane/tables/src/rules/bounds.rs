//! What a rule set may cost at most.

/// Boxes of one rule at most; a rule that would have more has some that hold too much, and what is in those is looked at again.
pub(super) const MOST_PIECES: usize = 1024;
/// Boxes in a leaf that need no further cut.
pub(super) const LEAF: usize = 4;
/// Boxes in a leaf at most.
pub(super) const MOST_IN_LEAF: usize = 1024;
/// Steps down in a page at most.
pub(super) const MOST_STEPS: usize = 12;
/// Lines that the boxes and tables of a page may take for each of its pieces: 1 KB.
pub(super) const LINES_PER_PIECE: usize = 32;
/// Pieces in a page that need no further cut above it.
pub(super) const PAGE: usize = 96;
