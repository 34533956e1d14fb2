//! What happened to a frame: one verdict each, and the closed list of drop reasons.
//!
//! The same words are the counter index in every tier, the label of the `marchproxy_drops_total` metric, the CLI's
//! output and the anchor in `docs/drop-reasons.md`.

/// Declares [`DropReason`] once: variant, word, and what an operator should know.
macro_rules! drop_reasons {
    ($($variant:ident $word:literal $help:literal)*) => {
        /// Why a frame was dropped. The discriminant is the counter index and part of the map ABI: append, never reorder.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[repr(u8)]
        pub enum DropReason { $(#[doc = $help] $variant),* }

        impl DropReason {
            /// Every reason, in the order of the discriminants.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant),*];
            /// How many reasons there are: the length of a counter array.
            pub const COUNT: usize = Self::ALL.len();

            /// The word for it: CLI output, metric label and documentation anchor.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self { $(DropReason::$variant => $word),* }
            }

            /// What it means and what to look at, in one or two sentences.
            #[must_use]
            pub const fn help(self) -> &'static str {
                match self { $(DropReason::$variant => $help),* }
            }
        }
    };
}

drop_reasons! {
    Runt "runt" "Shorter than its Ethernet or IP header says it must be."
    Truncated "truncated" "The IP length is larger than the frame: cut on the way in, often a segmentation super-frame from a peer with offloads on."
    QinQ "qinq" "More than one VLAN tag; one 802.1Q tag is supported."
    WrongMac "wrong_mac" "Unicast to a MAC address that is not the port's."
    BadIpVersion "bad_ip_version" "The IP version field does not match the Ethernet type."
    BadIhl "bad_ihl" "IPv4 header length below 20 bytes or beyond the packet."
    BadIpLength "bad_ip_length" "IP total or payload length smaller than the headers it must hold."
    BadIpChecksum "bad_ip_checksum" "The IPv4 header checksum is wrong."
    SourceRoute "source_route" "IPv4 source-route option or IPv6 routing header type 0."
    ExtensionHeaders "extension_headers" "More IPv6 extension headers than the parser follows, or one that is malformed."
    BadTcpHeader "bad_tcp_header" "TCP data offset below 20 bytes or beyond the packet."
    TcpNull "tcp_null" "TCP segment without any flag (null scan)."
    TcpXmas "tcp_xmas" "TCP segment with FIN, PSH and URG (xmas scan)."
    TcpSynFin "tcp_syn_fin" "TCP segment with SYN together with FIN or RST."
    BadUdpLength "bad_udp_length" "UDP length below 8 bytes or beyond the packet."
    BadIcmp "bad_icmp" "ICMP message too short for its type."
    BadArp "bad_arp" "ARP or neighbour discovery message that cannot be."
    Land "land" "Source and destination address are the same."
    MartianSource "martian_source" "Source address that can never send: multicast, broadcast, loopback, unspecified, or one of our own."
    MartianDestination "martian_destination" "Destination address that is never forwarded: loopback, unspecified, link-local beyond its link."
    Fragment "fragment" "A fragment for a service or for transit; fragments are not reassembled here."
    TtlExpired "ttl_expired" "TTL or hop limit ran out and the time-exceeded answer was rate-limited."
    TooBig "too_big" "Larger than the egress MTU, must not be fragmented, and the answer was rate-limited."
    NoService "no_service" "Neither for this box nor for a service, and no rule allows it through (transit is denied by default)."
    RuleDrop "rule_drop" "A rule said drop; `marchctl explain` names it."
    PolicyChanged "policy_changed" "The flow was allowed once; the rules running now deny it."
    NoFlow "no_flow" "TCP segment without a flow that cannot start one, and the RST answer was rate-limited."
    NoBackend "no_backend" "The service has no backend that takes new flows: all down, drained or offline."
    BackendGone "backend_gone" "The flow's backend is offline or was removed, and the flow is not TCP."
    NatExhausted "nat_exhausted" "No free source port towards this backend; add NAT addresses or widen the port range."
    TableFull "table_full" "The flow table is full and nothing could make room."
    IcmpNoFlow "icmp_no_flow" "ICMP error that quotes no flow known here."
    IcmpRateLimited "icmp_rate_limited" "An answer of our own (echo, error) was rate-limited."
    NoRoute "no_route" "The kernel has no route to the destination."
    NeighbourUnresolved "neighbour_unresolved" "The next hop's MAC address did not resolve in time, or too many frames were waiting for it."
    BadL4Checksum "bad_l4_checksum" "A partial checksum that could not be completed."
    TxFull "tx_full" "The egress port's transmit ring was full."
    PuntFull "punt_full" "The ring towards the kernel was full."
    UnsupportedProtocol "unsupported_protocol" "A protocol that the service or the rule cannot carry."
    BadIpOptions "bad_ip_options" "An IPv4 option whose length is below 2 bytes or beyond the header."
    NoSocket "no_socket" "No AF_XDP socket was bound to the receive queue: the data plane is starting or has stopped."
    DefaultDeny "default_deny" "For a service, but no rule allows it and the port denies by default."
    Blocked "blocked" "The source is in an address set that the port's guard blocks."
    SourceRate "source_rate" "The source sent more than the port's guard allows each source."
    RateLimited "rate_limited" "The flow's rule limits its rate; `marchctl explain` names both."
    NewConnectionRate "new_connection_rate" "The service takes no more new connections per second."
    HalfOpenLimit "half_open_limit" "The service has as many unfinished TCP handshakes as it may have."
    PuntRate "punt_rate" "Too much for the kernel at once from sources that nothing is known of; link protocols, neighbours on the link and allowed sources have a share of their own."
}

impl core::fmt::Display for DropReason {
    fn fmt(&self, formatter: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

/// What happened to one frame. Every frame gets exactly one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Rewritten and to be sent out of this port.
    Forward {
        /// Index of the egress port in the running generation.
        port: u16,
    },
    /// Turned into our reply, to be sent out of this port.
    Answer {
        /// Index of the egress port in the running generation.
        port: u16,
    },
    /// For the kernel: the box's own traffic.
    Punt,
    /// Kept for a bounded time by the pipeline, which took the frame.
    Hold,
    /// Dropped, and why.
    Drop(DropReason),
}
