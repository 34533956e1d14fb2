//! What else than its key is known of the packet that opened a flow: what rules are asked with when they change.

use crate::flow::NONE;
use crate::memory::Zeroed;

/// Kept beside the flow, and read only when the flow is judged or routed again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub struct Opening {
    /// Port that the packet came in on.
    pub ingress: u16,
    /// Port that a rule sends the flow out of, or [`NONE`] where routes say.
    pub egress: u16,
    /// VLAN identifier, [`Opening::TAGGED`] and [`Opening::REDIRECTED`].
    bits: u16,
    /// Differentiated services code point, 0 to 63.
    pub dscp: u8,
    /// TCP flags; 0 for anything else.
    pub tcp_flags: u8,
}

const _: () = assert!(size_of::<Opening>() == 8);

// SAFETY: integers only.
unsafe impl Zeroed for Opening {}

impl Opening {
    /// There is a VLAN tag.
    const TAGGED: u16 = 1 << 12;
    /// A rule sent the flow elsewhere than where it was addressed to.
    const REDIRECTED: u16 = 1 << 13;
    const VLAN: u16 = 0xfff;

    /// A packet that came in on `ingress` with this VLAN identifier, DSCP and flags, and goes where it is addressed to.
    #[must_use]
    pub fn new(ingress: u16, vlan: Option<u16>, dscp: u8, tcp_flags: u8) -> Self {
        Self {
            ingress,
            egress: NONE,
            bits: vlan.map_or(0, |id| id & Self::VLAN | Self::TAGGED),
            dscp,
            tcp_flags,
        }
    }

    /// The same, sent elsewhere by a rule: out of port `egress`, unless that is [`NONE`].
    #[must_use]
    pub fn redirected(self, egress: u16) -> Self {
        Self {
            egress,
            bits: self.bits | Self::REDIRECTED,
            ..self
        }
    }

    /// VLAN identifier of the packet's tag, if it had one.
    pub fn vlan(self) -> Option<u16> {
        (self.bits & Self::TAGGED != 0).then_some(self.bits & Self::VLAN)
    }

    /// Whether a rule sent the flow elsewhere.
    pub fn is_redirected(self) -> bool {
        self.bits & Self::REDIRECTED != 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_what_it_is_given() {
        for vlan in [None, Some(0), Some(4_095)] {
            let opening = Opening::new(3, vlan, 46, 0x02);
            assert_eq!(opening.vlan(), vlan);
            assert!(!opening.is_redirected());
            assert_eq!(opening.egress, NONE);
            let redirected = opening.redirected(7);
            assert_eq!((redirected.vlan(), redirected.egress), (vlan, 7));
            assert!(redirected.is_redirected());
            assert_eq!(
                (redirected.ingress, redirected.dscp, redirected.tcp_flags),
                (3, 46, 0x02)
            );
        }
    }
}
