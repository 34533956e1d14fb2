//! What a rule set may cost at most, and from what size on things are cut.
//!
//! Measured with the sets of `make bench B=rules`: access lists, firewalls and chains of 100 000 rules have at most 45, 259 and
//! 182 boxes on the worst path through all trees together, the adversarial sets up to a thousand.

/// Boxes of one rule at most; a rule that would have more has some that hold too much, and what is in those is looked at again.
pub(super) const MOST_PIECES: usize = 1024;
/// Boxes in a leaf that need no further cut: as many as are compared without a branch. With 6 a lookup was no faster, and
/// trees a tenth smaller.
pub(super) const LEAF: usize = 4;
/// Boxes in a leaf at most: beyond, the set is refused. One takes about a nanosecond. With 256 the adversarial sets of 10 000
/// and 100 000 rules were refused, whose leaves are that long because no cut tells those rules apart.
pub(super) const MOST_IN_LEAF: usize = 1024;
/// Steps down in a page, and in the page above, at most. Trees that were measured have up to 7 in one tree.
pub(super) const MOST_STEPS: usize = 12;
/// Members of all pages of a tree for each of its pieces. Generated sets have up to 1.4; without this bound an adversarial set
/// of 100 000 rules filled the memory.
pub(super) const MOST_COPIES: usize = 8;
/// Lines that the boxes and tables of a page may take for each of its pieces: 1 KB. Without this bound 545 wide rules took
/// 4 MB; with it no generated set lost speed.
pub(super) const LINES_PER_PIECE: usize = 32;
/// Pieces in a page that need no further cut above it: what one changed rule builds anew, in about 50 microseconds.
pub(super) const PAGE: usize = 96;
