//! Datagrams to the UDP echo: each carries its flow and number, each answer must carry the same behind the backend's name.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Instant;

use anyhow::Result;
use tokio::net::UdpSocket;
use tokio::sync::watch;

use super::{Plan, Shared, note};

/// One flow: a socket that sends at its share of the rate until `stopped`.
pub(super) async fn flow(
    plan: Plan,
    index: u32,
    shared: Shared,
    mut stopped: watch::Receiver<()>,
) -> Result<()> {
    let any = if plan.target.is_ipv4() {
        "0.0.0.0:0"
    } else {
        "[::]:0"
    };
    let local = plan.source.map_or_else(
        || any.parse::<SocketAddr>(),
        |address| Ok(SocketAddr::new(address, 0)),
    )?;
    let socket = UdpSocket::bind(local).await?;
    socket.connect(plan.target).await?;
    let mut state = Flow {
        plan,
        index,
        shared,
        pending: BTreeMap::new(),
        next: 0,
        backend: None,
    };
    let mut buffer = vec![0; 65_536];

    // Flows start spread over one interval, so that the rate is even.
    let interval = state.plan.interval();
    let start = tokio::time::Instant::now()
        + interval.mul_f64(f64::from(index) / f64::from(state.plan.flows));
    let mut tick = tokio::time::interval_at(start, interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => break,
            _ = tick.tick() => state.send(&socket).await,
            received = socket.recv(&mut buffer) => match received {
                Ok(length) => state.receive(&buffer[..length]),
                Err(error) => note(&state.shared, |report| report.last_error = error.to_string()),
            },
        }
        state.give_up();
    }
    state.drain(&socket, &mut buffer).await;
    Ok(())
}

struct Flow {
    plan: Plan,
    index: u32,
    shared: Shared,
    /// Numbers sent and not answered yet, and when.
    pending: BTreeMap<u64, Instant>,
    next: u64,
    backend: Option<String>,
}

impl Flow {
    async fn send(&mut self, socket: &UdpSocket) {
        let message = message(self.index, self.next, self.plan.size);
        self.pending.insert(self.next, Instant::now());
        self.next += 1;
        note(&self.shared, |report| report.sent += 1);
        // A refusal (ICMP error for an earlier datagram) shows as a lost request, and its reason here.
        if let Err(error) = socket.send(&message).await {
            note(&self.shared, |report| report.last_error = error.to_string());
        }
    }

    fn receive(&mut self, answer: &[u8]) {
        let outcome = std::str::from_utf8(answer).ok().and_then(|text| {
            let (backend, echoed) = text.split_once(':')?;
            let number: u64 = echoed.split_once(' ')?.1.split(' ').next()?.parse().ok()?;
            (echoed.as_bytes() == message(self.index, number, self.plan.size))
                .then_some((backend.to_owned(), number))
        });
        let Some((backend, number)) = outcome else {
            // It answers something: the oldest request that waits.
            self.pending.pop_first();
            note(&self.shared, |report| {
                report.wrong += 1;
                "an answer is not what was sent".clone_into(&mut report.last_error);
            });
            return;
        };
        if self.pending.remove(&number).is_none() {
            return; // late: counted as lost already
        }
        let moved = self
            .backend
            .as_ref()
            .is_some_and(|before| *before != backend);
        note(&self.shared, |report| {
            report.right += 1;
            report.moved += u64::from(moved);
            *report.backends.entry(backend.clone()).or_default() += 1;
        });
        self.backend = Some(backend);
    }

    fn give_up(&mut self) {
        while let Some(oldest) = self.pending.first_entry() {
            if oldest.get().elapsed() < self.plan.patience() {
                return;
            }
            oldest.remove();
            note(&self.shared, |report| report.lost += 1);
        }
    }

    async fn drain(&mut self, socket: &UdpSocket, buffer: &mut [u8]) {
        while let Some((_, sent)) = self.pending.last_key_value() {
            let left = self.plan.patience().saturating_sub(sent.elapsed());
            match tokio::time::timeout(left, socket.recv(buffer)).await {
                Ok(Ok(length)) => self.receive(&buffer[..length]),
                Ok(Err(_)) => {}
                Err(_) => break,
            }
        }
        let lost = self.pending.len() as u64;
        note(&self.shared, |report| report.lost += lost);
    }
}

/// What a flow sends: `flow number padding`.
fn message(flow: u32, number: u64, size: usize) -> Vec<u8> {
    let mut message = format!("{flow} {number} ").into_bytes();
    if message.len() < size {
        message.resize(size, b'.');
    }
    message
}
