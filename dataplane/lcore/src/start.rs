//! An lcore's thread: pinned, named, and under the agent's control.

use std::sync::Arc;
use std::sync::mpsc;
use std::thread::JoinHandle;

use core_affinity::CoreId;
use crossbeam_queue::ArrayQueue;
use march_pipeline::{Counters, Pipeline, ResolveRequest};
use march_port::{Port, PortGroup};
use march_tables::{Generation, Reader};

use crate::{
    Clock, Command, FrameReceiver, FrameSender, Idle, Lcore, LcoreCounters, Parts, frame_ring,
};

/// The most CPUs that an affinity mask holds.
const MOST_CPUS: usize = 1024;
/// Commands that may wait.
const COMMANDS: usize = 16;

/// Why an lcore does not run.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum LcoreError {
    /// The thread could not be made.
    #[error("no thread for an lcore: {0}")]
    Thread(std::io::Error),
    /// None of the CPUs would have it.
    #[error("an lcore cannot run on any of the CPUs {0:?}: none can be pinned to")]
    Pin(Vec<usize>),
    /// Its flow tables could not be allocated.
    #[error("no memory for {flows4} IPv4 and {flows6} IPv6 flows: {source}")]
    FlowMemory {
        /// IPv4 flows asked for.
        flows4: usize,
        /// IPv6 flows asked for.
        flows6: usize,
        /// The system's answer.
        source: std::io::Error,
    },
    /// The generation has more ports than can be counted.
    #[error("{ports} ports are more than the {counters} that can be counted")]
    TooManyPorts {
        /// Ports in the group.
        ports: usize,
        /// Ports with counters.
        counters: usize,
    },
    /// The thread panicked: a bug of ours. Its ports are closed.
    #[error("the lcore panicked: {0}")]
    Panicked(String),
}

/// How an lcore is to run.
#[derive(Clone, Debug)]
pub struct Settings {
    /// CPUs to try, best first: what [`crate::Machine::rank`] gives.
    pub cpus: Vec<usize>,
    /// What it does when nothing comes.
    pub idle: Idle,
    /// Flow tables.
    pub pipeline: march_pipeline::Settings,
    /// Frames that may wait for a next hop.
    pub hold_frames: usize,
    /// How long, milliseconds.
    pub hold_ms: u32,
    /// Frames that fit the rings to and from the kernel.
    pub ring_frames: usize,
    /// Requests for next hops that may wait for the agent.
    pub requests: usize,
    /// The calibrated clock.
    pub clock: Clock,
}

/// A running lcore, as the agent sees it. Dropping it stops the lcore and waits for that.
#[derive(Debug)]
pub struct LcoreHandle {
    /// Frames for the kernel.
    pub punts: FrameReceiver,
    /// Frames from the kernel.
    pub kernel: FrameSender,
    /// Next hops to resolve.
    pub requests: Arc<ArrayQueue<ResolveRequest>>,
    /// What the lcore counts about itself.
    pub counters: Arc<LcoreCounters>,
    /// What its pipeline counts.
    pub traffic: Arc<Counters>,
    /// The CPU that it runs on.
    pub cpu: usize,
    commands: Arc<ArrayQueue<Command>>,
    thread: Option<JoinHandle<()>>,
}

impl LcoreHandle {
    /// Asks the lcore for something; `false` if too much is waiting already.
    #[must_use]
    pub fn command(&self, command: Command) -> bool {
        self.commands.push(command).is_ok()
    }

    /// False once the thread has ended, whether by [`Command::Stop`] or by a panic.
    pub fn is_running(&self) -> bool {
        self.thread
            .as_ref()
            .is_some_and(|thread| !thread.is_finished())
    }

    /// Stops the lcore and waits until its ports are closed.
    ///
    /// # Errors
    /// [`LcoreError::Panicked`] if it had ended by a panic.
    pub fn stop(mut self) -> Result<(), LcoreError> {
        self.end()
    }

    fn end(&mut self) -> Result<(), LcoreError> {
        let Some(thread) = self.thread.take() else {
            return Ok(());
        };
        // A full queue drains once per turn.
        while !thread.is_finished() && self.commands.push(Command::Stop).is_err() {
            std::thread::yield_now();
        }
        thread.join().map_err(|panic| {
            let text = panic.downcast_ref::<String>().cloned();
            let text = text.or_else(|| panic.downcast_ref::<&str>().map(|text| (*text).to_owned()));
            LcoreError::Panicked(text.unwrap_or_else(|| "without a message".to_owned()))
        })
    }
}

impl Drop for LcoreHandle {
    fn drop(&mut self) {
        // Whoever wants to know of a panic calls `stop`.
        let _ = self.end();
    }
}

/// Starts an lcore over `group` and returns once it polls.
///
/// The pipeline's tables are allocated by the lcore's thread after it was pinned, so that their memory is near.
///
/// # Errors
/// See [`LcoreError`]; the ports are closed then.
pub fn start<P: Port + 'static>(
    settings: Settings,
    group: PortGroup<P>,
    reader: Reader,
    traffic: Arc<Counters>,
) -> Result<LcoreHandle, LcoreError> {
    let ports = group.ports().len();
    if ports > traffic.ports.len() {
        return Err(LcoreError::TooManyPorts {
            ports,
            counters: traffic.ports.len(),
        });
    }
    let (punt_sender, punts) = frame_ring(settings.ring_frames);
    let (kernel, kernel_receiver) = frame_ring(settings.ring_frames);
    let commands = Arc::new(ArrayQueue::new(COMMANDS));
    let requests = Arc::new(ArrayQueue::new(settings.requests));
    let counters = Arc::new(LcoreCounters::default());
    let seat = Seat {
        commands: Arc::clone(&commands),
        requests: Arc::clone(&requests),
        counters: Arc::clone(&counters),
        traffic: Arc::clone(&traffic),
        punts: punt_sender,
        kernel: kernel_receiver,
        reader,
        settings,
    };
    let (ready, is_ready) = mpsc::sync_channel(1);
    let thread = std::thread::Builder::new()
        .name("lcore".to_owned())
        .spawn(move || seat.occupy(group, &ready))
        .map_err(LcoreError::Thread)?;
    let mut handle = LcoreHandle {
        punts,
        kernel,
        requests,
        counters,
        traffic,
        cpu: 0,
        commands,
        thread: Some(thread),
    };
    match is_ready.recv() {
        Ok(Ok(cpu)) => {
            handle.cpu = cpu;
            Ok(handle)
        }
        Ok(Err(error)) => Err(error),
        // The sender is gone without a word: the thread panicked.
        Err(mpsc::RecvError) => Err(match handle.end() {
            Err(error) => error,
            Ok(()) => LcoreError::Panicked("ended before it started".to_owned()),
        }),
    }
}

/// Everything that the thread takes with it, besides the ports.
struct Seat {
    settings: Settings,
    reader: Reader,
    traffic: Arc<Counters>,
    counters: Arc<LcoreCounters>,
    punts: FrameSender,
    kernel: FrameReceiver,
    requests: Arc<ArrayQueue<ResolveRequest>>,
    commands: Arc<ArrayQueue<Command>>,
}

impl Seat {
    /// The thread's body. Says once through `ready` on which CPU it runs, or why it does not.
    fn occupy<P: Port>(
        mut self,
        group: PortGroup<P>,
        ready: &mpsc::SyncSender<Result<usize, LcoreError>>,
    ) {
        let pinned = pin(&self.settings.cpus);
        let pipeline = pinned.and_then(|cpu| Ok((cpu, self.pipeline()?)));
        let (cpu, pipeline) = match pipeline {
            Ok(pair) => pair,
            Err(error) => {
                // If nobody listens any more, nobody needs to know.
                let _ = ready.send(Err(error));
                return;
            }
        };
        let first: Arc<Generation> = Arc::clone(self.reader.load());
        let parts = Parts {
            pipeline,
            counters: self.counters,
            punts: self.punts,
            kernel: self.kernel,
            requests: self.requests,
            hold_frames: self.settings.hold_frames,
            hold_ms: self.settings.hold_ms,
        };
        let lcore = Lcore::new(group.into_ports(), parts, &first);
        drop(first);
        let _ = ready.send(Ok(cpu));
        lcore.run(
            self.reader,
            &self.settings.clock,
            self.settings.idle,
            &self.commands,
        );
    }

    fn pipeline(&self) -> Result<Pipeline, LcoreError> {
        let settings = self.settings.pipeline;
        Pipeline::new(settings, Arc::clone(&self.traffic)).map_err(|source| {
            LcoreError::FlowMemory {
                flows4: settings.flows4,
                flows6: settings.flows6,
                source,
            }
        })
    }
}

/// Pins the calling thread to the first of `cpus` that the kernel agrees to.
fn pin(cpus: &[usize]) -> Result<usize, LcoreError> {
    cpus.iter()
        .copied()
        .filter(|id| *id < MOST_CPUS)
        .find(|id| core_affinity::set_for_current(CoreId { id: *id }))
        .ok_or_else(|| LcoreError::Pin(cpus.to_vec()))
}
