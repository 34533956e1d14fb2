//! TCP connections that stay open: the echo's name comes first, then every message must come back as it was.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;
use tokio::sync::watch;

use super::{Plan, Shared, http, note};

/// Pause after a connection that broke or was refused.
const PAUSE: Duration = Duration::from_millis(50);

/// One connection at a time until `stopped`; a new one when it breaks.
pub(super) async fn stream(
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
    let mut number = 0;
    loop {
        let opened = tokio::time::timeout(plan.patience(), open(&plan))
            .await
            .context("no connection in time")
            .and_then(|opened| opened);
        let (backend, mut connection) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                note(&shared, |report| {
                    report.broken += 1;
                    report.last_error = format!("{error:#}");
                });
                tokio::select! {
                    _ = stopped.changed() => return Ok(()),
                    () = tokio::time::sleep(PAUSE) => continue,
                }
            }
        };
        note(&shared, |report| {
            *report.connections.entry(backend.clone()).or_default() += 1;
        });
        let end = loop {
            tokio::select! {
                _ = stopped.changed() => break None,
                _ = tick.tick() => {}
            }
            number += 1;
            note(&shared, |report| report.sent += 1);
            let message = format!("{index} {number} ").into_bytes();
            match tokio::time::timeout(plan.patience(), echo(&mut connection, &message, plan.size))
                .await
            {
                Ok(Ok(true)) => note(&shared, |report| {
                    report.right += 1;
                    *report.backends.entry(backend.clone()).or_default() += 1;
                }),
                Ok(Ok(false)) => note(&shared, |report| report.wrong += 1),
                Ok(Err(error)) => break Some(format!("{error:#}")),
                Err(_) => break Some("no answer in time".to_owned()),
            }
        };
        note(&shared, |report| {
            if let Some(live) = report.connections.get_mut(&backend) {
                *live -= 1;
            }
            if let Some(error) = &end {
                report.lost += 1;
                report.broken += 1;
                report.reset += u64::from(error.contains("reset"));
                report.last_error.clone_from(error);
            }
        });
        if end.is_none() {
            return Ok(());
        }
    }
}

async fn open(plan: &Plan) -> Result<(String, BufReader<TcpStream>)> {
    let stream = http::connect(plan).await.context("connect")?;
    stream.set_nodelay(true)?;
    let mut connection = BufReader::new(stream);
    let mut name = String::new();
    connection
        .read_line(&mut name)
        .await
        .context("read the name")?;
    ensure!(
        name.ends_with('\n'),
        "closed before the server said its name"
    );
    Ok((name.trim_end().to_owned(), connection))
}

/// Sends one message and reads it back; whether it came back as it was.
async fn echo(connection: &mut BufReader<TcpStream>, start: &[u8], size: usize) -> Result<bool> {
    let mut message = start.to_vec();
    message.resize(size.max(start.len()), b'.');
    connection
        .get_mut()
        .write_all(&message)
        .await
        .context("write")?;
    let mut answer = vec![0; message.len()];
    connection.read_exact(&mut answer).await.context("read")?;
    Ok(answer == message)
}
