//! HTTP requests, a new connection each: connect, one request, the whole answer, close.

use std::net::SocketAddr;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpSocket, TcpStream};
use tokio::sync::watch;

use super::{Plan, Shared, note};

/// One worker: one request after the other, at its share of the rate, until `stopped`.
pub(super) async fn worker(
    plan: Plan,
    index: u32,
    shared: Shared,
    mut stopped: watch::Receiver<()>,
) -> Result<()> {
    let interval = plan.interval();
    let start =
        tokio::time::Instant::now() + interval.mul_f64(f64::from(index) / f64::from(plan.flows));
    let mut tick = tokio::time::interval_at(start, interval);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = stopped.changed() => return Ok(()),
            _ = tick.tick() => {}
        }
        note(&shared, |report| report.sent += 1);
        match tokio::time::timeout(plan.patience(), request(&plan)).await {
            Ok(Ok(backend)) => note(&shared, |report| {
                report.right += 1;
                *report.backends.entry(backend).or_default() += 1;
            }),
            Ok(Err(Failure::Wrong(why))) => note(&shared, |report| {
                report.wrong += 1;
                report.last_error = why;
            }),
            Ok(Err(Failure::Lost(error))) => note(&shared, |report| {
                report.lost += 1;
                report.last_error = format!("{error:#}");
            }),
            Err(_) => note(&shared, |report| {
                report.lost += 1;
                "no answer in time".clone_into(&mut report.last_error);
            }),
        }
    }
}

enum Failure {
    /// There was a complete answer, and it was not the right one.
    Wrong(String),
    /// There was no complete answer.
    Lost(anyhow::Error),
}

async fn request(plan: &Plan) -> Result<String, Failure> {
    let answer = exchange(plan).await.map_err(Failure::Lost)?;
    let text = String::from_utf8_lossy(&answer);
    let Some((head, body)) = text.split_once("\r\n\r\n") else {
        return Err(Failure::Lost(anyhow::anyhow!(
            "the answer ends within its head"
        )));
    };
    let backend = body.trim_end();
    if !head.starts_with("HTTP/1.1 200 ") || !crate::topology::BACKENDS.contains(&backend) {
        return Err(Failure::Wrong(format!("unexpected answer: {text:.120}")));
    }
    Ok(backend.to_owned())
}

async fn exchange(plan: &Plan) -> Result<Vec<u8>> {
    let mut stream = connect(plan).await.context("connect")?;
    let request = format!(
        "GET / HTTP/1.1\r\nHost: {}\r\nConnection: close\r\n\r\n",
        plan.target
    );
    stream
        .write_all(request.as_bytes())
        .await
        .context("write")?;
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.context("read")?;
    ensure!(!answer.is_empty(), "closed without an answer");
    Ok(answer)
}

/// A connection to the plan's target, from the plan's source.
pub(super) async fn connect(plan: &Plan) -> Result<TcpStream> {
    let socket = if plan.target.is_ipv4() {
        TcpSocket::new_v4()?
    } else {
        TcpSocket::new_v6()?
    };
    if let Some(source) = plan.source {
        socket.bind(SocketAddr::new(source, 0))?;
    }
    Ok(socket.connect(plan.target).await?)
}
