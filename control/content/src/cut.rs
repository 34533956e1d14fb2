//! Where one chunk ends and the next begins.
//!
//! A cut is made behind an item whose number has a given count of low zero bits, unless such an item or a cut was close
//! before it. So cuts depend on their neighbourhood: an edit moves at most those around it. Both bounds hold for
//! contents that someone chose: a chunk has at least `window` items (the last one of its kind may have fewer), and at
//! most `most`.

/// How a list of items is cut.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rule {
    /// How many low bits of an item's number are zero where a chunk may end; a chunk has about 2 to the power of it.
    pub zero_bits: u32,
    /// Items that must lie between two such places.
    pub window: usize,
    /// The longest chunk.
    pub most: usize,
}

/// Prefixes of a leaf.
pub(crate) const LEAF: Rule = Rule {
    zero_bits: 10,
    window: 64,
    most: 16_384,
};

/// Leaves of a branch.
pub(crate) const BRANCH: Rule = Rule {
    zero_bits: 5,
    window: 8,
    most: 1_024,
};

/// Decides item by item. Its state after a cut is always the same, so that cutting can start behind any cut.
#[derive(Debug)]
pub(crate) struct Cutter {
    rule: Rule,
    /// Items since the last cut.
    length: usize,
    /// Items since the last cut or the last place where one might have been.
    quiet: usize,
}

impl Cutter {
    pub fn new(rule: Rule) -> Self {
        Self {
            rule,
            length: 0,
            quiet: 0,
        }
    }

    /// Takes an item; whether the chunk ends behind it.
    pub fn is_end(&mut self, number: u64) -> bool {
        self.length += 1;
        self.quiet += 1;
        let is_candidate = number.trailing_zeros() >= self.rule.zero_bits;
        let is_end =
            (is_candidate && self.quiet >= self.rule.window) || self.length == self.rule.most;
        if is_candidate {
            self.quiet = 0;
        }
        if is_end {
            self.on_cut();
        }
        is_end
    }

    /// A cut was made for another reason.
    pub fn on_cut(&mut self) {
        (self.length, self.quiet) = (0, 0);
    }
}

/// A number in which every bit depends on every bit of the address and the length. Part of the format: never changes.
pub(crate) fn number_of(address: u128, length: u8) -> u64 {
    let folded = [address >> 64, address, u128::from(length)];
    folded
        .into_iter()
        .fold(0x6d61_7263_682d_7331, |state, part| {
            let low = u64::try_from(part & u128::from(u64::MAX)).expect("64 bits");
            mix(state ^ low)
        })
}

/// The finalizer of `MurmurHash3`, which is a bijection of 64 bits.
fn mix(mut number: u64) -> u64 {
    number ^= number >> 33;
    number = number.wrapping_mul(0xff51_afd7_ed55_8ccd);
    number ^= number >> 33;
    number = number.wrapping_mul(0xc4ce_b9fe_1a85_ec53);
    number ^ (number >> 33)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ends(rule: Rule, numbers: &[u64]) -> Vec<usize> {
        let mut cutter = Cutter::new(rule);
        let at = (0..).zip(numbers);
        at.filter(|(_, number)| cutter.is_end(**number))
            .map(|(at, _)| at)
            .collect()
    }

    #[test]
    fn both_bounds_hold_whatever_the_numbers() {
        let rule = Rule {
            zero_bits: 4,
            window: 8,
            most: 100,
        };
        assert_eq!(ends(rule, &[1; 250]), [99, 199], "no place to end at");
        assert_eq!(ends(rule, &[0; 250]), [99, 199], "only places to end at");
        let mut sparse = vec![1; 250];
        for at in [3, 40, 44, 60] {
            sparse[at] = 16;
        }
        // 3 is too close to the start and 44 to 40.
        assert_eq!(ends(rule, &sparse), [40, 60, 160]);
    }

    #[test]
    fn numbers_are_part_of_the_format() {
        assert_eq!(number_of(0, 0), number_of(0, 0));
        let distinct: std::collections::BTreeSet<u64> =
            (0..=32).map(|length| number_of(1 << 64, length)).collect();
        assert_eq!(distinct.len(), 33);
        assert_eq!(number_of(0xc000_0200, 24), 5_952_236_370_128_954_962);
    }
}
