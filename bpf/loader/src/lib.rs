//! Loads the XDP program `steer`, tells it whose addresses are whose, and puts it on an interface.
//!
//! Entry point: [`Steering`], one for each port. The program is embedded in this crate, built from `bpf/xdp` by the build
//! script.
//!
//! **What it is not.** It opens no `AF_XDP` socket (`march-port` does and hands in the descriptor) and pins nothing: when a
//! [`Steering`] is dropped the program leaves the interface and the kernel has the port for itself again.
//!
//! **Invariants.** Until the first [`Steering::publish`] every frame passes to the kernel. A set of addresses is
//! published as a whole: no frame sees a part of one. A program that is on the interface already is never replaced.

mod addresses;
mod attach;
mod counters;
mod error;

use std::os::fd::{AsFd, AsRawFd};

use aya::maps::lpm_trie::Key;
use aya::maps::{Array, ArrayOfMaps, LpmTrie, MapData, PerCpuArray, XskMap};
use aya::programs::xdp::XdpLinkId;
use aya::programs::{TestRun, TestRunOptions, Xdp, XdpMode};
use aya::{Ebpf, EbpfLoader};
use march_bpf_abi::{ADDRESSES, COUNTERS, PORT, PROGRAM, QUEUES_MAX, SOCKETS};
use march_wire::Mac;

pub use addresses::{AddressSet, NatAddress, Transit};
pub use attach::{Attached, Mode};
pub use counters::Counters;
pub use error::LoaderError;
pub use march_bpf_abi::Tally;

use addresses::{PodEntry, PodKey, PodPort};
use counters::PodTally;

type Trie = LpmTrie<MapData, PodKey, PodEntry>;

/// The object, as the linker wrote it.
static OBJECT: &[u8] = aya::include_bytes_aligned!(concat!(env!("OUT_DIR"), "/steer.o"));

/// The program for one port: loaded, and attached to at most one interface.
#[derive(Debug)]
pub struct Steering {
    ebpf: Ebpf,
    attached: Option<(Attached, XdpLinkId)>,
}

/// What the program said about one frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// To the kernel.
    Pass,
    /// Dropped.
    Drop,
    /// To the socket of the receive queue.
    Redirect,
    /// A value that the program does not return.
    Unexpected(u32),
}

impl Steering {
    /// Loads the program and its maps into the kernel. Needs `CAP_BPF`, `CAP_NET_ADMIN` and `CAP_PERFMON`.
    pub fn load() -> Result<Steering, LoaderError> {
        let mut ebpf = EbpfLoader::new()
            .load(OBJECT)
            .map_err(|source| LoaderError::Object { source })?;
        program_mut(&mut ebpf)?
            .load()
            .map_err(|source| LoaderError::Load { source })?;
        Ok(Steering {
            ebpf,
            attached: None,
        })
    }

    /// Tells the program the port's MAC address: unicast frames to any other are dropped as `wrong_mac`.
    pub fn set_mac(&mut self, mac: Mac) -> Result<(), LoaderError> {
        let mut port: Array<_, PodPort> = map(self.ebpf.map_mut(PORT), PORT)?;
        port.set(0, PodPort::of(mac), 0)
            .map_err(|source| LoaderError::map(PORT, source))
    }

    /// Replaces all addresses that the program knows. Returns once no frame sees the old set any more.
    ///
    /// The kernel waits for every CPU to leave the program before the update of an outer map returns, so this takes
    /// milliseconds: not for an lcore.
    pub fn publish(&mut self, set: &AddressSet) -> Result<(), LoaderError> {
        let entries = set.entries();
        let fresh = |source| LoaderError::map(ADDRESSES, source);
        // The kernel accepts a trie of any capacity in place of the one that the program was verified with.
        let capacity = u32::try_from(entries.len()).unwrap_or(u32::MAX);
        let mut trie = Trie::create(capacity, BPF_F_NO_PREALLOC).map_err(fresh)?;
        for (bits, key, entry) in entries {
            trie.insert(&Key::new(bits, PodKey(key)), PodEntry(entry), 0)
                .map_err(fresh)?;
        }
        let mut outer: ArrayOfMaps<_, Trie> = map(self.ebpf.map_mut(ADDRESSES), ADDRESSES)?;
        outer.set(0, &trie, 0).map_err(fresh)
    }

    /// Gives the frames of one receive queue to an `AF_XDP` socket that is bound to that queue. The socket
    /// stays the caller's; closing it takes it out again.
    pub fn register_socket(&mut self, queue: u32, socket: impl AsFd) -> Result<(), LoaderError> {
        if queue >= QUEUES_MAX {
            return Err(LoaderError::Queue {
                queue,
                most: QUEUES_MAX,
            });
        }
        let mut sockets: XskMap<_> = map(self.ebpf.map_mut(SOCKETS), SOCKETS)?;
        sockets
            .set(queue, socket.as_fd().as_raw_fd(), 0)
            .map_err(|source| LoaderError::Socket { queue, source })
    }

    /// Takes the socket of a receive queue away. The kernel does the same by itself when the socket is closed.
    pub fn unregister_socket(&mut self, queue: u32) -> Result<(), LoaderError> {
        let mut sockets: XskMap<_> = map(self.ebpf.map_mut(SOCKETS), SOCKETS)?;
        sockets
            .unset(queue)
            .map_err(|source| LoaderError::Socket { queue, source })
    }

    /// Attaches the program to an interface of this thread's network namespace: in the driver if it can, else generic.
    ///
    /// Refuses if a program is there already, and names it.
    pub fn attach(&mut self, interface: &str) -> Result<&Attached, LoaderError> {
        if let Some((attached, _)) = &self.attached {
            return Err(LoaderError::Twice {
                interface: attached.interface.clone(),
            });
        }
        let index = attach::index_of(interface)?;
        attach::refuse_foreign(interface, index)?;
        let program = program_mut(&mut self.ebpf)?;
        let (mode, native_refusal, link) = match program.attach_to_if_index(index, XdpMode::Driver)
        {
            Ok(link) => (Mode::Native, None, link),
            Err(native) => {
                // Somebody else was quicker than this.
                attach::refuse_foreign(interface, index)?;
                let link = program
                    .attach_to_if_index(index, XdpMode::Skb)
                    .map_err(|source| LoaderError::Attach {
                        interface: interface.to_owned(),
                        source,
                    })?;
                (Mode::Generic, Some(attach::cause(&native)), link)
            }
        };
        let attached = Attached {
            interface: interface.to_owned(),
            index,
            mode,
            native_refusal,
        };
        Ok(&self.attached.insert((attached, link)).0)
    }

    /// Where the program is attached, and how.
    pub fn attached(&self) -> Option<&Attached> {
        self.attached.as_ref().map(|(attached, _)| attached)
    }

    /// Takes the program off its interface. Dropping the value does the same.
    pub fn detach(&mut self) -> Result<(), LoaderError> {
        let Some((attached, link)) = self.attached.take() else {
            return Ok(());
        };
        program_mut(&mut self.ebpf)?
            .detach(link)
            .map_err(|source| LoaderError::Detach {
                interface: attached.interface,
                source,
            })
    }

    /// What the program has counted since it was loaded, summed over all CPUs.
    pub fn counters(&self) -> Result<Counters, LoaderError> {
        let map: PerCpuArray<_, PodTally> = map(self.ebpf.map(COUNTERS), COUNTERS)?;
        Counters::read(&map).map_err(|source| LoaderError::map(COUNTERS, source))
    }

    /// Runs the program on one frame without any interface: no socket takes it, but it is decided and counted.
    ///
    /// The kernel refuses frames below 14 bytes.
    pub fn dry_run(&self, frame: &[u8]) -> Result<Action, LoaderError> {
        let program: &Xdp = self
            .ebpf
            .program(PROGRAM)
            .ok_or(LoaderError::Missing { name: PROGRAM })?
            .try_into()
            .map_err(|source| LoaderError::Load { source })?;
        let options = TestRunOptions {
            data_in: Some(frame),
            ..TestRunOptions::new()
        };
        let result = program
            .test_run(options)
            .map_err(|source| LoaderError::DryRun { source })?;
        Ok(match result.return_value {
            1 => Action::Drop,
            2 => Action::Pass,
            4 => Action::Redirect,
            other => Action::Unexpected(other),
        })
    }

    /// The kernel's number for the loaded program, as `bpftool prog` shows it.
    pub fn program_id(&self) -> Result<u32, LoaderError> {
        let program = self
            .ebpf
            .program(PROGRAM)
            .ok_or(LoaderError::Missing { name: PROGRAM })?;
        let info = program
            .info()
            .map_err(|source| LoaderError::Load { source })?;
        Ok(info.id())
    }
}

/// `linux/bpf.h`: the kernel makes no trie without it.
const BPF_F_NO_PREALLOC: u32 = 1;

fn program_mut(ebpf: &mut Ebpf) -> Result<&mut Xdp, LoaderError> {
    ebpf.program_mut(PROGRAM)
        .ok_or(LoaderError::Missing { name: PROGRAM })?
        .try_into()
        .map_err(|source| LoaderError::Load { source })
}

/// A map of the object under its type.
fn map<M, T>(found: Option<M>, name: &'static str) -> Result<T, LoaderError>
where
    T: TryFrom<M, Error = aya::maps::MapError>,
{
    let found = found.ok_or(LoaderError::Missing { name })?;
    T::try_from(found).map_err(|source| LoaderError::map(name, source))
}
