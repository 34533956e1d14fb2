//! UDP: one socket per (VIP, port), one session per client, each with its own socket towards a backend.
//!
//! The receive loop alone owns the table of sessions. A session's task carries the replies and decides when the session
//! is over; [`Session::touch`] and [`Session::expire`] settle which of the two comes first.

use core::net::SocketAddr;
use core::sync::atomic::{AtomicU64, Ordering};
use core::time::Duration;
use std::collections::HashMap;
use std::io;
use std::sync::{Arc, Mutex, PoisonError};

use march_wire::DropReason;
use rustix::io::Errno;
use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::UdpSocket;
use tokio::sync::{Notify, OwnedSemaphorePermit};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::admit::{Admitted, admit};
use crate::counters::{Active, ServiceCounters, Tally};
use crate::listen::{Transport, connect_udp};
use crate::running::BackendLife;
use crate::tier::Shared;

/// The largest datagram that UDP can carry, rounded up.
const DATAGRAM_BYTES: usize = 64 * 1024;

/// Datagrams taken from a socket before other work of the loop gets a turn.
const BURST: usize = 64;

/// How long receiving pauses after the socket itself failed.
const RECEIVE_PAUSE: Duration = Duration::from_millis(50);

/// Value of [`Session::last_ms`] once the session is over.
const OVER: u64 = u64::MAX;

/// Whether a listener takes new sessions; shared by its loop and the tier.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum State {
    #[default]
    Open,
    /// Present sessions only, until none is left or this moment.
    Draining(Instant),
    /// The loop has decided to end; there is no way back.
    Closed,
}

impl Gate {
    fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap_or_else(PoisonError::into_inner))
    }

    pub(crate) fn is_open(&self) -> bool {
        self.with(|state| *state == State::Open)
    }

    /// Takes new sessions again. `false` if the loop is ending already.
    pub(crate) fn reopen(&self) -> bool {
        self.with(|state| {
            if *state == State::Closed {
                return false;
            }
            *state = State::Open;
            true
        })
    }

    /// Takes no new sessions; those that run may go on for `grace`.
    pub(crate) fn close(&self, grace: Duration) {
        self.with(|state| {
            if *state == State::Open {
                *state = State::Draining(Instant::now() + grace);
            }
        });
        self.changed.notify_one();
    }

    /// Returns once the loop, which has `sessions` of them, must end.
    async fn closed(&self, sessions: usize) {
        loop {
            let until = self.with(|state| match *state {
                State::Open => Some(None),
                State::Draining(until) if sessions > 0 && Instant::now() < until => {
                    Some(Some(until))
                }
                State::Draining(_) | State::Closed => {
                    *state = State::Closed;
                    None
                }
            });
            match until {
                None => return,
                Some(None) => self.changed.notified().await,
                Some(Some(until)) => {
                    // Either way the state is looked at again.
                    let _ = tokio::time::timeout_at(until, self.changed.notified()).await;
                }
            }
        }
    }
}

/// One client of one VIP and the backend that it was given.
#[derive(Debug)]
struct Session {
    client: SocketAddr,
    upstream: UdpSocket,
    life: Arc<BackendLife>,
    service: Arc<ServiceCounters>,
    idle_ms: u64,
    start: Instant,
    /// When a datagram last went either way, since `start`; [`OVER`] once the session has ended.
    last_ms: AtomicU64,
}

impl Session {
    fn now_ms(&self) -> u64 {
        u64::try_from(self.start.elapsed().as_millis())
            .unwrap_or(OVER - 1)
            .min(OVER - 1)
    }

    /// Notes that a datagram moved. `false` if the session is over and must not be used.
    fn touch(&self) -> bool {
        let now_ms = self.now_ms();
        self.last_ms
            .fetch_update(Ordering::AcqRel, Ordering::Acquire, |last_ms| {
                (last_ms != OVER).then_some(now_ms)
            })
            .is_ok()
    }

    /// Returns once no datagram moved for the service's timeout. Nothing can touch the session after that.
    async fn expire(&self) {
        loop {
            let last_ms = self.last_ms.load(Ordering::Acquire);
            let due_ms = last_ms.saturating_add(self.idle_ms);
            let now_ms = self.now_ms();
            if now_ms < due_ms {
                tokio::time::sleep(Duration::from_millis(due_ms - now_ms)).await;
                continue;
            }
            let ended =
                self.last_ms
                    .compare_exchange(last_ms, OVER, Ordering::AcqRel, Ordering::Acquire);
            if ended.is_ok() {
                return;
            }
        }
    }

    fn tally(&self) -> Tally<'_> {
        Tally {
            service: &self.service,
            backend: &self.life.counters,
        }
    }

    /// Sends one datagram towards the backend, or says why it could not be sent.
    fn send(&self, datagram: &[u8]) -> Result<(), DropReason> {
        // Straight to the kernel: tokio would call a fresh socket not writable until its driver has seen it.
        let upstream = SockRef::from(&self.upstream);
        let mut sent = upstream.send(datagram);
        if matches!(&sent, Err(error) if error.kind() == io::ErrorKind::ConnectionRefused) {
            // The answer to an earlier datagram; this one was not sent yet.
            self.life
                .counters
                .connect_errors
                .fetch_add(1, Ordering::Relaxed);
            sent = upstream.send(datagram);
        }
        match sent {
            Ok(bytes) => {
                self.tally().towards_backend(bytes);
                Ok(())
            }
            Err(error) => Err(reason_of(&error)),
        }
    }

    /// Carries replies to the client for as long as the session lives.
    async fn carry_replies(&self, socket: &UdpSocket) {
        loop {
            let Ok(ready) = self
                .upstream
                .ready(Interest::READABLE | Interest::ERROR)
                .await
            else {
                return;
            };
            if ready.is_error() {
                self.take_error();
            }
            if ready.is_readable() && !self.carry_burst(socket).await {
                return;
            }
            tokio::task::coop::consume_budget().await;
        }
    }

    /// Counts what ICMP said of the backend: nobody listens there, or it cannot be reached.
    fn take_error(&self) {
        let taken = self.upstream.try_io(Interest::ERROR, || {
            match SockRef::from(&self.upstream).take_error()? {
                Some(error) => Ok(error),
                // Tells tokio that there is nothing more, so that it waits for the next one.
                None => Err(io::ErrorKind::WouldBlock.into()),
            }
        });
        if taken.is_ok() {
            self.life
                .counters
                .connect_errors
                .fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Passes on what has arrived. `false` once the session is over.
    async fn carry_burst(&self, socket: &UdpSocket) -> bool {
        let mut buffer = Vec::with_capacity(DATAGRAM_BYTES);
        for _ in 0..BURST {
            buffer.clear();
            if let Err(error) = self.upstream.try_recv_buf(&mut buffer) {
                let is_refusal = error.kind() != io::ErrorKind::WouldBlock;
                self.life
                    .counters
                    .connect_errors
                    .fetch_add(u64::from(is_refusal), Ordering::Relaxed);
                break;
            }
            if !self.touch() {
                return false;
            }
            // A reply that the kernel refuses is lost like any datagram; the client asks again.
            if let Ok(bytes) = socket.send_to(&buffer, self.client).await {
                self.tally().towards_client(bytes);
            }
        }
        true
    }
}

/// The reason under which a datagram that the kernel would not send is counted.
fn reason_of(error: &io::Error) -> DropReason {
    match error.kind() {
        io::ErrorKind::NetworkUnreachable | io::ErrorKind::HostUnreachable => DropReason::NoRoute,
        io::ErrorKind::ConnectionRefused => DropReason::NoBackend,
        _ if error.raw_os_error() == Some(Errno::MSGSIZE.raw_os_error()) => DropReason::TooBig,
        _ => DropReason::TxFull,
    }
}

/// Runs one session to its end and returns it, so that the loop can forget it.
async fn run(
    session: Arc<Session>,
    socket: Arc<UdpSocket>,
    _permit: OwnedSemaphorePermit,
) -> Arc<Session> {
    {
        let _active = Active::begin(&session.service, &session.life.counters);
        tokio::select! {
            () = session.carry_replies(&socket) => {}
            () = session.expire() => {}
            () = session.life.ended() => {}
        }
        session.last_ms.store(OVER, Ordering::Release);
    }
    session
}

/// One VIP and port: its socket and its sessions.
struct Listener {
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    vip: SocketAddr,
    gate: Arc<Gate>,
    sessions: HashMap<SocketAddr, Arc<Session>>,
    tasks: JoinSet<Arc<Session>>,
}

/// Receives from clients until the gate is closed and the sessions are done.
pub(crate) async fn receive_loop(
    shared: Arc<Shared>,
    socket: Arc<UdpSocket>,
    vip: SocketAddr,
    gate: Arc<Gate>,
) {
    let receiving = Arc::clone(&socket);
    let closing = Arc::clone(&gate);
    let mut listener = Listener {
        shared,
        socket,
        vip,
        gate,
        sessions: HashMap::new(),
        tasks: JoinSet::new(),
    };
    let mut buffer = vec![0; DATAGRAM_BYTES];
    loop {
        let running = listener.tasks.len();
        tokio::select! {
            ready = receiving.readable() => {
                if let Err(error) = ready.and_then(|()| listener.receive_burst(&mut buffer)) {
                    listener.shared.accept_errors.fetch_add(1, Ordering::Relaxed);
                    tracing::warn!(%vip, %error, "receive failed, pausing");
                    tokio::time::sleep(RECEIVE_PAUSE).await;
                }
                tokio::task::coop::consume_budget().await;
            }
            Some(ended) = listener.tasks.join_next(), if running > 0 => {
                if let Ok(session) = ended {
                    listener.forget(&session);
                }
            }
            () = closing.closed(running) => break,
        }
    }
    // The sessions hold the socket too; it must be closed when this task ends.
    listener.tasks.shutdown().await;
}

impl Listener {
    fn receive_burst(&mut self, buffer: &mut [u8]) -> io::Result<()> {
        for _ in 0..BURST {
            match self.socket.try_recv_from(buffer) {
                Ok((bytes, client)) => self.carry(client, &buffer[..bytes]),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// One datagram from a client: to its session's backend, or counted.
    fn carry(&mut self, client: SocketAddr, datagram: &[u8]) {
        if let Some(session) = self.sessions.get(&client)
            && session.touch()
        {
            self.send(session, datagram);
            return;
        }
        if let Some(session) = self.begin(client) {
            self.send(&session, datagram);
        }
    }

    fn send(&self, session: &Session, datagram: &[u8]) {
        if let Err(reason) = session.send(datagram) {
            self.shared.refuse(reason, Some(&session.service));
        }
    }

    /// A session for a client that has none, or a refusal counted.
    fn begin(&mut self, client: SocketAddr) -> Option<Arc<Session>> {
        if !self.gate.is_open() {
            self.shared.refuse(DropReason::NoService, None);
            return None;
        }
        let admitted = admit(&self.shared.running(), Transport::Udp, client, self.vip)
            .inspect_err(|refused| self.shared.refuse(refused.reason, refused.service.as_ref()))
            .ok()?;
        let Ok(permit) = Arc::clone(&self.shared.sessions).try_acquire_owned() else {
            self.shared
                .refuse(DropReason::TableFull, Some(&admitted.service));
            return None;
        };
        let Some((upstream, life)) = self.connect(&admitted) else {
            self.shared
                .refuse(DropReason::NoBackend, Some(&admitted.service));
            return None;
        };
        let session = Arc::new(Session {
            client,
            upstream,
            life,
            service: admitted.service,
            idle_ms: u64::from(admitted.timeouts.udp_ms),
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
        });
        self.tasks
            .spawn(run(Arc::clone(&session), Arc::clone(&self.socket), permit));
        self.sessions.insert(client, Arc::clone(&session));
        Some(session)
    }

    /// A socket towards the pool's choice; towards another backend if the kernel knows no way to that one.
    fn connect(&self, admitted: &Admitted) -> Option<(UdpSocket, Arc<BackendLife>)> {
        let running = self.shared.running();
        let mut tried = Vec::new();
        for _ in 0..self.shared.limits.connect_attempts {
            let life = Arc::clone(admitted.backend(&running, &tried)?);
            match connect_udp(life.target(self.vip.port())) {
                Ok(upstream) => return Some((upstream, life)),
                Err(error) => tracing::debug!(backend = %life.address, %error, "no socket"),
            }
            life.counters.connect_errors.fetch_add(1, Ordering::Relaxed);
            tried.push(life);
        }
        None
    }

    /// Drops an ended session, unless its client has a new one already.
    fn forget(&mut self, ended: &Arc<Session>) {
        if self
            .sessions
            .get(&ended.client)
            .is_some_and(|known| Arc::ptr_eq(known, ended))
        {
            self.sessions.remove(&ended.client);
        }
    }
}
