//! Opening the ports of one lcore: which layout, which copy mode, in which order.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::area::{Area, Pages};
use super::config::{CopyMode, KERNEL_HEADROOM, XskConfig, XskTarget};
use super::layout::Layout;
use super::ring::{Consumer, Producer};
use super::socket::Socket;
use super::{XskMode, XskPort};
use crate::chunks::{Chunks, Memory, Shared};
use crate::{FrameSource, Port, PortError, PortGroup};

/// How long a queue may stay busy after its last owner closed it: the kernel lets go of it in the background.
const RELEASE_WAIT: Duration = Duration::from_secs(2);

pub(super) fn group(
    targets: &[XskTarget],
    config: &XskConfig,
) -> Result<PortGroup<XskPort>, PortError> {
    config.check()?;
    let mut ports = open_best(targets, config)?;
    for port in &mut ports {
        port.poll();
    }
    // SAFETY: the pool is shared by these ports alone.
    Ok(unsafe { PortGroup::of_pool(ports) })
}

/// Zero-copy is worth more than coloured chunks, and not every zero-copy driver takes chunks of any size: with zero-copy
/// possible anywhere under aligned chunks, coloured ones are taken only if nothing falls back to copying for it.
fn open_best(targets: &[XskTarget], config: &XskConfig) -> Result<Vec<XskPort>, PortError> {
    if config.mode == CopyMode::Copy {
        return open_all(targets, config, Layout::Coloured)
            .or_else(|_| open_all(targets, config, Layout::PowerOfTwo));
    }
    let zero_copy = |ports: &[XskPort]| {
        ports
            .iter()
            .filter(|port| port.mode() == XskMode::ZeroCopy)
            .count()
    };
    let aligned = open_all(targets, config, Layout::PowerOfTwo)?;
    let wanted = zero_copy(&aligned);
    drop(aligned);
    match open_all(targets, config, Layout::Coloured) {
        Ok(coloured) if zero_copy(&coloured) >= wanted && is_contiguous(&coloured) => Ok(coloured),
        // Dropped first: a queue has one owner.
        Ok(coloured) => {
            drop(coloured);
            open_all(targets, config, Layout::PowerOfTwo)
        }
        Err(_) => open_all(targets, config, Layout::PowerOfTwo),
    }
}

/// A zero-copy device needs each chunk contiguous in memory; a coloured one may cross an ordinary page.
fn is_contiguous(ports: &[XskPort]) -> bool {
    ports
        .iter()
        .all(|port| port.mode() == XskMode::Copy || port.pages() == Pages::Huge)
}

fn open_all(
    targets: &[XskTarget],
    config: &XskConfig,
    layout: Layout,
) -> Result<Vec<XskPort>, PortError> {
    let ports = u32::try_from(targets.len()).unwrap_or(u32::MAX);
    let count = config.frames_per_port.saturating_mul(ports);
    let stride = layout.stride();
    let area = Area::new(count as usize * stride as usize)?;
    let (bytes, pages, base) = (area.bytes(), area.pages(), area.base());
    let chunks =
        Chunks::new(area, FrameSource::Umem, count, stride, config.headroom).keep_only(|offset| {
            pages == Pages::Ordinary || Area::is_in_one_page(offset, stride as usize)
        });
    let registration = libc::xdp_umem_reg {
        addr: base.as_ptr().addr() as u64,
        len: bytes as u64,
        chunk_size: stride,
        headroom: u32::from(config.headroom - KERNEL_HEADROOM),
        flags: layout.umem_flags(),
        tx_metadata_len: 0,
    };
    let pool = Shared::new(chunks);
    targets
        .iter()
        .map(|target| open_port(target, config, layout, &registration, &pool, pages))
        .collect()
}

fn open_port(
    target: &XskTarget,
    config: &XskConfig,
    layout: Layout,
    registration: &libc::xdp_umem_reg,
    pool: &Shared<Chunks<Area>>,
    pages: Pages,
) -> Result<XskPort, PortError> {
    let open = |flags| bound_socket(target, config, registration, flags);
    let (socket, rings, copy_reason) = match config.mode {
        CopyMode::Copy => open(libc::XDP_COPY).map(|(socket, rings)| (socket, rings, None))?,
        CopyMode::ZeroCopy => {
            open(libc::XDP_ZEROCOPY).map(|(socket, rings)| (socket, rings, None))?
        }
        CopyMode::Auto => match open(libc::XDP_ZEROCOPY) {
            Ok((socket, rings)) => (socket, rings, None),
            Err(refused) => {
                let (socket, rings) = open(libc::XDP_COPY)?;
                (
                    socket,
                    rings,
                    Some(format!("zero-copy refused: {refused}").into_boxed_str()),
                )
            }
        },
    };
    let is_zero_copy = socket
        .is_zero_copy()
        .map_err(|source| socket.failed("copy mode", source))?;
    let mode = if is_zero_copy {
        XskMode::ZeroCopy
    } else {
        XskMode::Copy
    };
    let Rings {
        rx,
        tx,
        fill,
        completion,
    } = rings;
    let pool = pool.share();
    let (lost, socket) = (Arc::default(), Arc::new(socket));
    Ok(XskPort {
        rx,
        tx,
        fill,
        completion,
        pool,
        layout,
        in_chain: false,
        lost,
        socket,
        mode,
        copy_reason,
        pages,
    })
}

struct Rings {
    rx: Consumer<libc::xdp_desc>,
    tx: Producer<libc::xdp_desc>,
    fill: Producer<u64>,
    completion: Consumer<u64>,
}

/// A socket with its rings, bound in the given copy mode. Waits a bounded time for a queue that a former owner is leaving.
fn bound_socket(
    target: &XskTarget,
    config: &XskConfig,
    registration: &libc::xdp_umem_reg,
    copy_flag: u16,
) -> Result<(Socket, Rings), PortError> {
    let socket = Socket::open(&target.interface, target.queue)?;
    socket.register(registration)?;
    socket.size_ring(libc::XDP_UMEM_FILL_RING, config.rx_ring)?;
    socket.size_ring(libc::XDP_UMEM_COMPLETION_RING, config.tx_ring)?;
    socket.size_ring(libc::XDP_RX_RING, config.rx_ring)?;
    socket.size_ring(libc::XDP_TX_RING, config.tx_ring)?;
    let rings = map_rings(&socket, config)?;
    socket.tune();
    if let Some(busy_poll) = config.busy_poll {
        socket.busy_poll(busy_poll.budget, busy_poll.idle_us)?;
    }
    let deadline = Instant::now() + RELEASE_WAIT;
    loop {
        match socket.bind(copy_flag | libc::XDP_USE_NEED_WAKEUP) {
            Ok(()) => return Ok((socket, rings)),
            Err(busy) if busy.raw_os_error() == Some(libc::EBUSY) && Instant::now() < deadline => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(source) => {
                let step = if copy_flag == libc::XDP_ZEROCOPY {
                    "bind with zero-copy"
                } else {
                    "bind with copy"
                };
                return Err(socket.failed(step, source));
            }
        }
    }
}

fn map_rings(socket: &Socket, config: &XskConfig) -> Result<Rings, PortError> {
    let offsets = socket.ring_offsets()?;
    let fd = socket.as_fd();
    let failed = |source: io::Error| socket.failed("map a ring", source);
    let wide = |offset: libc::c_ulonglong| {
        libc::off_t::try_from(offset).map_err(|_| failed(io::ErrorKind::InvalidInput.into()))
    };
    Ok(Rings {
        rx: Consumer::map(fd, libc::XDP_PGOFF_RX_RING, config.rx_ring, &offsets.rx)
            .map_err(failed)?,
        tx: Producer::map(fd, libc::XDP_PGOFF_TX_RING, config.tx_ring, &offsets.tx)
            .map_err(failed)?,
        fill: Producer::map(
            fd,
            wide(libc::XDP_UMEM_PGOFF_FILL_RING)?,
            config.rx_ring,
            &offsets.fr,
        )
        .map_err(failed)?,
        completion: Consumer::map(
            fd,
            wide(libc::XDP_UMEM_PGOFF_COMPLETION_RING)?,
            config.tx_ring,
            &offsets.cr,
        )
        .map_err(failed)?,
    })
}
