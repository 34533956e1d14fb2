//! `steer`: the XDP program that decides, from headers alone, which frames the data plane's `AF_XDP` sockets get.
//!
//! What it is not: it rewrites nothing, keeps no state and knows no service ports. Frames for our addresses go to the
//! socket of their receive queue, frames for the kernel's own addresses pass, frames that cannot be or are nobody's are
//! dropped; each is counted once, under the same drop reasons as everywhere else.
//!
//! # Building
//!
//! `march-bpf-loader`'s build script builds this crate and embeds the object. By hand, in this directory:
//!
//! ```text
//! RUSTC_BOOTSTRAP=1 RUSTC=/usr/bin/rustc PATH=<directory of bpf-linker>:/usr/bin \
//! RUSTFLAGS='-Clink-arg=--btf -Clink-arg=--disable-memory-builtins' \
//! /usr/bin/cargo build --release --locked --target bpfel-unknown-none
//! ```
//!
//! A compiler with a prebuilt `core` for `bpfel-unknown-none` is needed: Debian's `rustc-web` with
//! `libstd-rust-web-dev-bpf`. The crate is a workspace of its own because `aya-ebpf` and that compiler move at another
//! pace than the rest.
//!
//! # What the verifier insists on
//!
//! - A packet access must follow a comparison of *pointers* against `data_end`; a length compared with an offset proves
//!   nothing to it. Hence [`frame::Frame`], the cursor that `march_wire` decodes through.
//! - An offset that is not a constant needs an upper bound that is still in the register at the access:
//!   [`frame::OFFSET_MAX`].
//! - Loops need a constant bound, and every path through them costs: that is why `march_wire` walks IPv4 options one byte
//!   per turn and IPv6 extension headers at most eight times.
//! - No arithmetic on a pointer but adding to it, not even on a dead one: see [`steer::decide`].
//! - A function that is not inlined takes five words of arguments at most, [`frame::Frame`] being two.
//! - 512 bytes of stack for everything on a call path.
#![no_std]
#![no_main]

mod frame;
mod steer;

use aya_ebpf::bindings::xdp_action;
use aya_ebpf::btf_maps::lpm_trie::Key;
use aya_ebpf::macros::xdp;
use aya_ebpf::programs::XdpContext;
use march_bpf_abi::{AddressEntry, AddressKey, Slot};
use march_xdp_maps::{ADDRESSES, AddressSet, COUNTERS, PORT, SOCKETS};

use crate::frame::Frame;
use crate::steer::{Addresses, Decision, Unbound};

/// The address set that is published, if any.
#[derive(Clone, Copy)]
struct Published(&'static AddressSet);

impl Addresses for Published {
    #[inline(always)]
    fn find(&self, bits: u32, key: AddressKey) -> AddressEntry {
        self.0
            .get(&Key::new(bits, key))
            .copied()
            .unwrap_or_default()
    }
}

#[xdp]
pub fn steer(context: XdpContext) -> u32 {
    let frame = Frame::new(&context);
    count(Slot::Seen, &frame);
    let (action, slot) = match decide(&frame) {
        Decision::Pass => (xdp_action::XDP_PASS, Slot::Passed),
        Decision::Drop(reason) => (xdp_action::XDP_DROP, Slot::Dropped(reason)),
        Decision::Redirect(unbound) => redirect(&context, unbound),
    };
    count(slot, &frame);
    action
}

#[inline(always)]
fn decide(frame: &Frame) -> Decision {
    // Nothing published yet: the port is the kernel's alone.
    let (Some(addresses), Some(port)) = (ADDRESSES.get(0), PORT.get(0)) else {
        return Decision::Pass;
    };
    steer::decide(*frame, port.mac, Published(addresses))
}

#[inline(always)]
fn redirect(context: &XdpContext, unbound: Unbound) -> (u32, Slot) {
    let (action, slot) = match unbound {
        Unbound::Pass => (xdp_action::XDP_PASS, Slot::Passed),
        Unbound::Drop => (
            xdp_action::XDP_DROP,
            Slot::Dropped(march_wire::DropReason::NoSocket),
        ),
    };
    match SOCKETS.redirect(context.rx_queue_index() as u32, u64::from(action)) {
        Ok(redirected) => (redirected, Slot::Redirected),
        Err(_) => (action, slot),
    }
}

#[inline(always)]
fn count(slot: Slot, frame: &Frame) {
    if let Some(tally) = COUNTERS.get_ptr_mut(slot.index()) {
        // SAFETY: the map gave a pointer to this CPU's element, which nothing else writes while the program runs.
        let tally = unsafe { &mut *tally };
        tally.packets += 1;
        tally.bytes += march_wire::Cursor::len(frame) as u64;
    }
}

#[cfg(not(test))]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}

#[unsafe(link_section = "license")]
#[unsafe(no_mangle)]
static LICENSE: [u8; 11] = *b"Apache-2.0\0";
