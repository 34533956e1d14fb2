//! Bytes both ways between two TCP streams: half-close, backpressure, idle end.
//!
//! Each direction reads only when what it read before was written, so a slow reader on one side stops the reading on
//! the other (the kernel's windows do the rest). A buffer exists only while a direction has bytes in hand.

use core::sync::atomic::{AtomicU64, Ordering::Relaxed};
use core::time::Duration;
use std::io;
use std::net::Shutdown;

use socket2::SockRef;
use tokio::net::TcpStream;
use tokio::time::Instant;

/// Bytes moved per read. Larger saves system calls in bulk transfer and costs memory per busy direction.
const CHUNK_BYTES: usize = 64 * 1024;

/// How a relayed connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Both sides said FIN and everything was delivered.
    Finished,
    /// One side reset or failed; the other must be reset too.
    Broken,
    /// Nothing moved in either direction for too long.
    Idle,
}

/// When bytes last moved, shared by both directions of one connection.
struct Activity {
    start: Instant,
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self {
            start: Instant::now(),
            last_ms: AtomicU64::new(0),
        }
    }

    fn touch(&self) {
        let elapsed_ms = u64::try_from(self.start.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.last_ms.store(elapsed_ms, Relaxed);
    }

    /// Returns once nothing was touched for `timeout`.
    async fn stale(&self, timeout: Duration) {
        loop {
            let deadline = self.start + Duration::from_millis(self.last_ms.load(Relaxed)) + timeout;
            if Instant::now() >= deadline {
                return;
            }
            tokio::time::sleep_until(deadline).await;
        }
    }
}

/// Relays until both directions ended, one broke, or nothing moved for `idle`.
pub(crate) async fn relay(
    client: &TcpStream,
    backend: &TcpStream,
    idle: Duration,
    on_to_backend: impl Fn(usize),
    on_to_client: impl Fn(usize),
) -> End {
    let activity = Activity::new();
    let both = async {
        tokio::try_join!(
            pump(client, backend, &activity, on_to_backend),
            pump(backend, client, &activity, on_to_client),
        )
    };
    tokio::select! {
        ended = both => if ended.is_ok() { End::Finished } else { End::Broken },
        () = activity.stale(idle) => End::Idle,
    }
}

/// Moves bytes from `from` to `to` until `from` says FIN, which is passed on.
async fn pump(
    from: &TcpStream,
    to: &TcpStream,
    activity: &Activity,
    on_moved: impl Fn(usize),
) -> io::Result<()> {
    loop {
        from.readable().await?;
        let mut buffer = Vec::with_capacity(CHUNK_BYTES);
        loop {
            buffer.clear();
            match from.try_read_buf(&mut buffer) {
                Ok(0) => return SockRef::from(to).shutdown(Shutdown::Write),
                Ok(count) => {
                    activity.touch();
                    write_all(to, &buffer, activity).await?;
                    on_moved(count);
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => return Err(error),
            }
            // A sender that is always ready must not keep other connections of this thread waiting.
            tokio::task::coop::consume_budget().await;
        }
    }
}

async fn write_all(to: &TcpStream, mut bytes: &[u8], activity: &Activity) -> io::Result<()> {
    while !bytes.is_empty() {
        match to.try_write(bytes) {
            Ok(count) => {
                activity.touch();
                bytes = &bytes[count..];
            }
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => to.writable().await?,
            Err(error) => return Err(error),
        }
    }
    Ok(())
}
