//! Moves frames between the twins and the rings of an lcore: the only code of this crate that runs per packet.
//!
//! One thread for all twins of an lcore. The lcore never makes a system call for it, so the thread looks: often while
//! there is something to move, about a thousand times a second otherwise.

use std::io;
use std::os::fd::AsFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use march_lcore::LcoreHandle;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::Tap;

/// Between two looks while frames move, and for this long after the last one.
const BUSY_WAIT_NS: i64 = 50_000;
const BUSY_FOR: Duration = Duration::from_millis(20);
/// Between two looks otherwise.
const IDLE_WAIT_NS: i64 = 1_000_000;
/// Frames moved in one direction before the other has its turn.
const BATCH: usize = 256;
/// Longest frame that a twin's MTU allows, with its headers.
const FRAME_BYTES: usize = 16 * 1024;

/// What becomes of frames that the kernel sends out of a twin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum KernelSide {
    /// They leave through the port: the twin stands for it.
    Sends,
    /// They are discarded: the kernel still has the interface itself and the twin only takes punts.
    OnlyReceives,
}

/// Frames that did not get across.
#[derive(Debug, Default)]
pub struct PumpCounters {
    /// Punted frames that the kernel did not take.
    pub punts_lost: AtomicU64,
    /// Frames of the kernel for which the lcore's ring had no room.
    pub kernel_lost: AtomicU64,
}

/// A running pump. Dropping it stops the thread and waits for it.
#[derive(Debug)]
pub struct Pump {
    stop: Arc<AtomicBool>,
    counters: Arc<PumpCounters>,
    thread: Option<JoinHandle<()>>,
}

impl Pump {
    /// Starts the thread. `taps[i]` is the twin of port id `i`.
    pub fn start(
        taps: Vec<Arc<Tap>>,
        lcore: Arc<LcoreHandle>,
        side: KernelSide,
    ) -> io::Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let counters = Arc::new(PumpCounters::default());
        let worker = Worker {
            taps,
            lcore,
            side,
            stop: stop.clone(),
            counters: counters.clone(),
        };
        let thread = std::thread::Builder::new()
            .name("twin-pump".to_owned())
            .spawn(move || worker.run())?;
        Ok(Self {
            stop,
            counters,
            thread: Some(thread),
        })
    }

    /// What was lost.
    #[must_use]
    pub fn counters(&self) -> &PumpCounters {
        &self.counters
    }
}

impl Drop for Pump {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // A panic was reported where it happened.
            let _ = thread.join();
        }
    }
}

struct Worker {
    taps: Vec<Arc<Tap>>,
    lcore: Arc<LcoreHandle>,
    side: KernelSide,
    stop: Arc<AtomicBool>,
    counters: Arc<PumpCounters>,
}

impl Worker {
    fn run(self) {
        let mut buffer = vec![0; FRAME_BYTES];
        let mut last_moved = Instant::now();
        while !self.stop.load(Ordering::Relaxed) {
            if self.give_to_kernel() + self.take_from_kernel(&mut buffer) > 0 {
                last_moved = Instant::now();
            }
            if self.lcore.punts.is_empty() {
                let is_busy = last_moved.elapsed() < BUSY_FOR;
                self.wait(if is_busy { BUSY_WAIT_NS } else { IDLE_WAIT_NS });
            }
        }
    }

    fn give_to_kernel(&self) -> usize {
        let mut moved = 0;
        while moved < BATCH {
            let sent = self.lcore.punts.receive(|port, frame| {
                let tap = self.taps.get(usize::from(port));
                tap.is_some_and(|tap| tap.send(frame).is_ok())
            });
            match sent {
                Some(true) => {}
                Some(false) => {
                    self.counters.punts_lost.fetch_add(1, Ordering::Relaxed);
                }
                None => break,
            }
            moved += 1;
        }
        moved
    }

    fn take_from_kernel(&self, buffer: &mut [u8]) -> usize {
        let mut moved = 0;
        for (port, tap) in (0..).zip(&self.taps) {
            for _ in 0..BATCH {
                let Ok(len) = tap.receive(buffer) else { break };
                moved += 1;
                if self.side == KernelSide::Sends && !self.lcore.kernel.send(port, &buffer[..len]) {
                    self.counters.kernel_lost.fetch_add(1, Ordering::Relaxed);
                }
            }
        }
        moved
    }

    fn wait(&self, nanoseconds: i64) {
        let mut fds: Vec<PollFd<'_>> = self
            .taps
            .iter()
            .map(|tap| PollFd::from_borrowed_fd(tap.as_fd(), PollFlags::IN))
            .collect();
        let timeout = Timespec {
            tv_sec: 0,
            tv_nsec: nanoseconds,
        };
        // Interrupted or timed out: the loop looks either way.
        let _ = poll(&mut fds, Some(&timeout));
        // A twin that somebody deleted is always ready, with an error.
        let is_broken = |fd: &PollFd<'_>| fd.revents().intersects(PollFlags::ERR | PollFlags::NVAL);
        if fds.iter().any(is_broken) {
            std::thread::sleep(Duration::from_nanos(nanoseconds.unsigned_abs()));
        }
    }
}
