//! Health probes: whether each backend answers, asked from this node and decided here.
//!
//! **What it is.** One task per target. A check is a TCP connection, or an HTTP GET whose status must be 2xx or 3xx.
//! `fall` failures in a row take a backend out, `rise` successes in a row bring it back. Only such a change is told, as
//! a [`HealthEvent`]; [`Prober::table`] shows everything at any time.
//!
//! **At the start** nothing is known of a target, and unknown counts as healthy: a node that comes up with no time to ask
//! sends traffic rather than refusing it. The first answer decides quickly: one success makes the target healthy, and as
//! long as only failures came, probes follow each other after at most [`FIRST_PAUSE`], so that `fall` of them are in
//! before a full interval has gone by.
//!
//! **Spreading.** A target's first probe comes at a random moment of the first pause, every further pause is between
//! 90 % and 110 % of the interval, and at most [`PROBES_AT_ONCE`] probes are under way.
//!
//! **Changes.** Targets come through a watch channel as the full list. A target that is in the list again unchanged
//! keeps its task and its state. One whose check alone changed keeps its state. One that points elsewhere starts anew,
//! and if it was unhealthy, becoming unknown is told as healthy.

use core::net::{IpAddr, SocketAddr};
use core::time::Duration;
use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, RandomState};
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;

/// Longest pause between the probes of a target of which no answer is known yet.
pub const FIRST_PAUSE: Duration = Duration::from_millis(250);

/// Probes under way at once, over all targets.
pub const PROBES_AT_ONCE: usize = 256;

/// Bytes read of an HTTP answer; its status line must be within them.
const ANSWER_BYTES: usize = 1024;

/// How a target is asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Probe {
    /// A TCP connection is enough.
    Tcp,
    /// An HTTP/1.1 GET must be answered with a 2xx or 3xx status.
    Http {
        /// Request target; starts with `/`.
        path: Box<str>,
        /// Value of the Host header; absent: the target's address and port.
        host: Option<Box<str>>,
    },
}

/// What is asked, how often, and how many answers decide.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// How the target is asked.
    pub probe: Probe,
    /// From one probe's start to the next one's.
    pub interval: Duration,
    /// How long one probe may take.
    pub timeout: Duration,
    /// Successes in a row that make an unhealthy target healthy; 0 is taken as 1.
    pub rise: u32,
    /// Failures in a row that make it unhealthy; 0 is taken as 1.
    pub fall: u32,
}

/// One backend to ask.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ProbeTarget {
    /// Name of the pool that it is in.
    pub pool: Box<str>,
    /// Its slot in the generation; no two targets share one.
    pub slot: u16,
    /// Where it is.
    pub address: IpAddr,
    /// The port to ask.
    pub port: u16,
    /// How.
    pub check: Check,
}

impl ProbeTarget {
    fn points_like(&self, other: &Self) -> bool {
        (self.address, self.port) == (other.address, other.port) && self.pool == other.pool
    }
}

/// A backend changed sides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HealthEvent {
    /// Its slot in the generation.
    pub slot: u16,
    /// Whether it may take new connections from now on.
    pub healthy: bool,
    /// What the deciding probe found, in words.
    pub reason: Box<str>,
    /// How long the deciding probe took; `None` if it got no answer.
    pub rtt: Option<Duration>,
}

/// What is known of a target.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Health {
    /// Not decided yet; counts as healthy.
    #[default]
    Unknown,
    /// Answers.
    Healthy,
    /// Does not.
    Unhealthy,
}

impl Health {
    /// Whether new connections may go there.
    #[must_use]
    pub const fn is_usable(self) -> bool {
        matches!(self, Self::Unknown | Self::Healthy)
    }

    /// The word for it: CLI output and telemetry.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::Healthy => "up",
            Self::Unhealthy => "down",
        }
    }
}

/// The present state of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TargetState {
    /// What is asked.
    pub target: ProbeTarget,
    /// What is known.
    pub health: Health,
    /// What the last probe found, in words; empty before the first.
    pub reason: Box<str>,
    /// How long the last probe that got an answer took.
    pub rtt: Option<Duration>,
    /// Probes that succeeded.
    pub successes: u64,
    /// Probes that failed.
    pub failures: u64,
    /// Times that it went from usable to unhealthy or back.
    pub changes: u64,
}

/// The slots of those `targets` that are known not to answer. What a slot's earlier target did says nothing.
#[must_use]
pub fn down(states: &[TargetState], targets: &[ProbeTarget]) -> BTreeSet<u16> {
    let wanted: BTreeMap<u16, &ProbeTarget> =
        targets.iter().map(|target| (target.slot, target)).collect();
    states
        .iter()
        .filter(|state| !state.health.is_usable())
        .map(|state| &state.target)
        .filter(|asked| {
            wanted
                .get(&asked.slot)
                .is_some_and(|target| target.points_like(asked))
        })
        .map(|asked| asked.slot)
        .collect()
}

/// Counts answers in a row and decides.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Judge {
    health: Health,
    streak: u32,
}

impl Judge {
    /// Takes one answer; returns the new side if the target changed sides.
    fn on_answer(&mut self, answered: bool, check: &Check) -> Option<bool> {
        match (self.health, answered) {
            (Health::Unknown, true) => {
                *self = Self {
                    health: Health::Healthy,
                    streak: 0,
                };
                None
            }
            (Health::Healthy, true) | (Health::Unhealthy, false) => {
                self.streak = 0;
                None
            }
            (Health::Unknown | Health::Healthy, false) => {
                self.count(check.fall, Health::Unhealthy).then_some(false)
            }
            (Health::Unhealthy, true) => self.count(check.rise, Health::Healthy).then_some(true),
        }
    }

    /// One more in a row; `true` if that was the one that decides.
    fn count(&mut self, needed: u32, next: Health) -> bool {
        self.streak += 1;
        let decided = self.streak >= needed.max(1);
        if decided {
            *self = Self {
                health: next,
                streak: 0,
            };
        }
        decided
    }
}

type Table = Arc<Mutex<BTreeMap<u16, TargetState>>>;

fn locked(table: &Table) -> MutexGuard<'_, BTreeMap<u16, TargetState>> {
    table.lock().unwrap_or_else(PoisonError::into_inner)
}

/// All probes of a node. Dropping it ends them.
#[derive(Debug)]
pub struct Prober {
    table: Table,
    supervisor: JoinHandle<()>,
}

impl Prober {
    /// Asks whatever `targets` holds, now and after every change of it, until the prober is dropped or every sender of
    /// `targets` is. Events wait when `events` is full; none is lost. Must be called within a tokio runtime.
    #[must_use]
    pub fn spawn(
        targets: watch::Receiver<Vec<ProbeTarget>>,
        events: mpsc::Sender<HealthEvent>,
    ) -> Self {
        let table = Table::default();
        let supervisor = Supervisor {
            table: Arc::clone(&table),
            events,
            at_once: Arc::new(Semaphore::new(PROBES_AT_ONCE)),
            tasks: BTreeMap::new(),
        };
        Self {
            table,
            supervisor: tokio::spawn(supervisor.run(targets)),
        }
    }

    /// The present state of every target, by slot.
    #[must_use]
    pub fn table(&self) -> Vec<TargetState> {
        locked(&self.table).values().cloned().collect()
    }
}

impl Drop for Prober {
    fn drop(&mut self) {
        self.supervisor.abort();
    }
}

/// Aborts its task when dropped.
struct Task(JoinHandle<()>);

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Supervisor {
    table: Table,
    events: mpsc::Sender<HealthEvent>,
    at_once: Arc<Semaphore>,
    tasks: BTreeMap<u16, Task>,
}

impl Supervisor {
    async fn run(mut self, mut targets: watch::Receiver<Vec<ProbeTarget>>) {
        loop {
            let wanted = targets.borrow_and_update().clone();
            for event in self.adopt(wanted) {
                // Nobody listens any more only when the node stops.
                let _ = self.events.send(event).await;
            }
            if targets.changed().await.is_err() {
                return;
            }
        }
    }

    /// Makes the tasks those of `wanted`; returns what its changes mean to backends that were unhealthy.
    fn adopt(&mut self, wanted: Vec<ProbeTarget>) -> Vec<HealthEvent> {
        let wanted: BTreeMap<u16, ProbeTarget> = wanted
            .into_iter()
            .map(|target| (target.slot, target))
            .collect();
        let mut events = Vec::new();
        self.tasks.retain(|slot, _| wanted.contains_key(slot));
        locked(&self.table).retain(|slot, _| wanted.contains_key(slot));
        for (slot, target) in wanted {
            let known = locked(&self.table).get(&slot).cloned();
            let kept = match known {
                Some(state) if state.target == target => continue,
                Some(state) if state.target.points_like(&target) => TargetState { target, ..state },
                replaced => {
                    if replaced.is_some_and(|state| !state.health.is_usable()) {
                        let reason = "another backend, not asked yet".into();
                        events.push(HealthEvent {
                            slot,
                            healthy: true,
                            reason,
                            rtt: None,
                        });
                    }
                    fresh(target)
                }
            };
            let judge = Judge {
                health: kept.health,
                streak: 0,
            };
            let watcher = Watcher {
                target: kept.target.clone(),
                judge,
                table: Arc::clone(&self.table),
                events: self.events.clone(),
                at_once: Arc::clone(&self.at_once),
            };
            // What the old task may still find is not entered: it asked another target than the table's.
            locked(&self.table).insert(slot, kept);
            self.tasks.insert(slot, Task(tokio::spawn(watcher.run())));
        }
        events
    }
}

fn fresh(target: ProbeTarget) -> TargetState {
    TargetState {
        target,
        health: Health::Unknown,
        reason: "".into(),
        rtt: None,
        successes: 0,
        failures: 0,
        changes: 0,
    }
}

/// One target's task.
struct Watcher {
    target: ProbeTarget,
    judge: Judge,
    table: Table,
    events: mpsc::Sender<HealthEvent>,
    at_once: Arc<Semaphore>,
}

/// What one probe found.
struct Answer {
    outcome: Result<Box<str>, Box<str>>,
    rtt: Option<Duration>,
}

impl Watcher {
    async fn run(mut self) {
        tokio::time::sleep(self.first_pause().mul_f64(random_fraction())).await;
        loop {
            let start = Instant::now();
            let answer = self.ask().await;
            if let Some(event) = self.take(answer)
                && self.events.send(event).await.is_err()
            {
                return;
            }
            let pause = match self.judge.health {
                Health::Unknown => self.first_pause(),
                Health::Healthy | Health::Unhealthy => self.target.check.interval,
            };
            tokio::time::sleep_until(start + pause.mul_f64(0.9 + 0.2 * random_fraction())).await;
        }
    }

    fn first_pause(&self) -> Duration {
        self.target.check.interval.min(FIRST_PAUSE)
    }

    async fn ask(&self) -> Answer {
        // The semaphore is never closed.
        let _permit = self.at_once.acquire().await;
        let start = Instant::now();
        let limit = self.target.check.timeout;
        match tokio::time::timeout(limit, probe(&self.target)).await {
            Ok(Ok((true, found))) => Answer {
                outcome: Ok(found),
                rtt: Some(start.elapsed()),
            },
            Ok(Ok((false, found))) => Answer {
                outcome: Err(found),
                rtt: Some(start.elapsed()),
            },
            Ok(Err(error)) => Answer {
                outcome: Err(error.to_string().into()),
                rtt: None,
            },
            Err(_) => {
                let reason = format!("no answer within {} ms", limit.as_millis());
                Answer {
                    outcome: Err(reason.into()),
                    rtt: None,
                }
            }
        }
    }

    /// Enters the answer in the table; returns the event if it decided something.
    fn take(&mut self, answer: Answer) -> Option<HealthEvent> {
        let answered = answer.outcome.is_ok();
        let (Ok(reason) | Err(reason)) = answer.outcome;
        let changed = self.judge.on_answer(answered, &self.target.check);
        let mut table = locked(&self.table);
        // Absent or another's: this task was replaced while it asked.
        let state = table
            .get_mut(&self.target.slot)
            .filter(|known| known.target == self.target)?;
        state.health = self.judge.health;
        state.reason.clone_from(&reason);
        state.rtt = answer.rtt.or(state.rtt);
        *(if answered {
            &mut state.successes
        } else {
            &mut state.failures
        }) += 1;
        state.changes += u64::from(changed.is_some());
        let healthy = changed?;
        Some(HealthEvent {
            slot: self.target.slot,
            healthy,
            reason,
            rtt: answer.rtt,
        })
    }
}

/// A number in 0..1 that differs between tasks and calls. Spreads probes; nothing depends on its quality.
fn random_fraction() -> f64 {
    // `RandomState` is keyed anew each time; 32 bits convert to f64 exactly.
    let bits = RandomState::new().hash_one(0u8) >> 32;
    f64::from(u32::try_from(bits).unwrap_or(0)) / (f64::from(u32::MAX) + 1.0)
}

/// Asks once: whether the answer is a good one, and the answer in words.
async fn probe(target: &ProbeTarget) -> io::Result<(bool, Box<str>)> {
    let address = SocketAddr::new(target.address, target.port);
    let mut stream = TcpStream::connect(address).await?;
    let Probe::Http { path, host } = &target.check.probe else {
        return Ok((true, "connected".into()));
    };
    let host = host
        .as_deref()
        .map_or_else(|| address.to_string(), ToOwned::to_owned);
    let request = format!(
        "GET {path} HTTP/1.1\r\nHost: {host}\r\nUser-Agent: marchproxy-health\r\nAccept: */*\r\nConnection: close\r\n\r\n"
    );
    stream.write_all(request.as_bytes()).await?;
    let status = read_status(&mut stream).await?;
    Ok((
        (200..400).contains(&status),
        format!("HTTP status {status}").into(),
    ))
}

/// The status of an HTTP/1.x answer (RFC 9112, section 4), reading no more than [`ANSWER_BYTES`].
async fn read_status(stream: &mut TcpStream) -> io::Result<u16> {
    let mut answer = Vec::with_capacity(ANSWER_BYTES);
    let mut limited = stream.take(ANSWER_BYTES as u64);
    while !answer.contains(&b'\n') {
        if limited.read_buf(&mut answer).await? == 0 {
            break;
        }
    }
    parse_status(&answer).ok_or_else(|| {
        let problem = if answer.is_empty() {
            "closed without an answer"
        } else {
            "not HTTP"
        };
        io::Error::new(io::ErrorKind::InvalidData, problem)
    })
}

/// `HTTP/1.x SP 3DIGIT SP ...`
fn parse_status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|byte| *byte == b'\n').next()?;
    let rest = line
        .strip_prefix(b"HTTP/1.0 ")
        .or_else(|| line.strip_prefix(b"HTTP/1.1 "))?;
    let (digits, after) = rest.split_at_checked(3)?;
    if !digits.iter().all(u8::is_ascii_digit) || !matches!(after.first(), None | Some(b' ' | b'\r'))
    {
        return None;
    }
    let status = digits
        .iter()
        .fold(0, |number, digit| number * 10 + u16::from(digit - b'0'));
    (100..600).contains(&status).then_some(status)
}

#[cfg(test)]
mod tests;
