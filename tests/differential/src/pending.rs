//! What the data plane does not do yet: generators leave it out. The list is to be empty.

/// Something that a configuration can ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Feature {
    /// Redirect to a service, an address or a port.
    Redirect,
    /// Reject with an answer.
    Reject,
    /// Masquerade of transit.
    Masquerade,
    /// DSCP marks.
    Mark,
    /// Copies to a port.
    Mirror,
    /// Limits of rules.
    RuleLimits,
    /// Limits of services.
    ServiceLimits,
    /// Guards of ports.
    Guard,
    /// Defaults of ports.
    Unmatched,
    /// Rules about fragments.
    Fragments,
    /// Criteria that a flow's opening packet is judged by again: ingress, VLAN, DSCP, flags, message.
    Opening,
    /// Later fragments meet no criterion of a header that they do not have.
    Headless,
    /// Criteria other than addresses, ports and protocol.
    Criteria,
}

/// Not yet in the pipeline.
pub const PENDING: &[Feature] = &[];

/// Whether generators may use it.
#[must_use]
pub fn is_there(feature: Feature) -> bool {
    !PENDING.contains(&feature)
}
