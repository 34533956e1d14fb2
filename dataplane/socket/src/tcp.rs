//! TCP: accept, connect, relay.

use core::net::SocketAddr;
use core::sync::atomic::Ordering::Relaxed;
use core::time::Duration;
use std::io;
use std::sync::Arc;

use march_wire::DropReason;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, watch};

use crate::admit::{Admitted, admit};
use crate::counters::{Active, Tally};
use crate::listen::{BACKLOG, Transport};
use crate::relay::{End, relay};
use crate::running::BackendLife;
use crate::tier::Shared;

/// How long accepting pauses when the process is out of descriptors or memory.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts until `stop` turns true. Clients that the kernel had accepted by then are still served.
pub(crate) async fn accept_loop(
    shared: Arc<Shared>,
    listener: TcpListener,
    vip: SocketAddr,
    mut stop: watch::Receiver<bool>,
) {
    let mut left = BACKLOG;
    loop {
        if *stop.borrow() {
            // Those who wait by now are served; those who keep coming must not keep it open.
            left -= 1;
            if left < 0 {
                return;
            }
        }
        let accepted = tokio::select! {
            biased;
            accepted = listener.accept() => accepted,
            // An error means that the tier itself is gone.
            _ = stop.wait_for(|stop| *stop) => return,
        };
        match accepted {
            Ok((client, peer)) => start(&shared, client, peer, vip),
            Err(error) if is_of_one_connection(&error) => {}
            Err(error) => {
                shared.accept_errors.fetch_add(1, Relaxed);
                tracing::warn!(%vip, %error, "accept failed, pausing");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Errors that `accept(2)` passes on from the connection that it would have returned.
fn is_of_one_connection(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::ConnectionAborted
            | io::ErrorKind::ConnectionReset
            | io::ErrorKind::Interrupted
    )
}

/// Decides on one client; what may enter is served in a task of its own.
fn start(shared: &Arc<Shared>, client: TcpStream, peer: SocketAddr, vip: SocketAddr) {
    let admitted = match admit(&shared.running(), Transport::Tcp, peer, vip) {
        Ok(admitted) => admitted,
        Err(refused) => {
            reset(client);
            shared.refuse(refused.reason, refused.service.as_ref());
            return;
        }
    };
    let Ok(permit) = Arc::clone(&shared.connections).try_acquire_owned() else {
        reset(client);
        shared.refuse(DropReason::TableFull, Some(&admitted.service));
        return;
    };
    let shared = Arc::clone(shared);
    tokio::spawn(async move { serve(&shared, client, vip, &admitted, permit).await });
}

/// One client from its backend's connection to the end of both.
async fn serve(
    shared: &Shared,
    client: TcpStream,
    vip: SocketAddr,
    admitted: &Admitted,
    _permit: OwnedSemaphorePermit,
) {
    let Some((backend, life)) = connect(shared, admitted, vip.port()).await else {
        reset(client);
        shared.refuse(DropReason::NoBackend, Some(&admitted.service));
        return;
    };
    let _active = Active::begin(&admitted.service, &life.counters);
    // Small writes go out at once, as they came in; failure only costs latency.
    let _ = client.set_nodelay(true);
    let _ = backend.set_nodelay(true);
    let tally = Tally {
        service: &admitted.service,
        backend: &life.counters,
    };
    let idle = Duration::from_millis(u64::from(admitted.timeouts.established_ms));
    let relaying = relay(
        &client,
        &backend,
        idle,
        |bytes| tally.towards_backend(bytes),
        |bytes| tally.towards_client(bytes),
    );
    let end = tokio::select! {
        end = relaying => end,
        () = life.ended() => End::Broken,
    };
    if end != End::Finished {
        reset(client);
        reset(backend);
    }
}

/// Connects to the pool's choice, or to another backend when that one cannot be reached.
async fn connect(
    shared: &Shared,
    admitted: &Admitted,
    service_port: u16,
) -> Option<(TcpStream, Arc<BackendLife>)> {
    let mut tried: Vec<Arc<BackendLife>> = Vec::new();
    for _ in 0..shared.limits.connect_attempts {
        // Looked at anew each time: a backend may have been taken out since.
        let running = shared.running();
        let life = Arc::clone(admitted.backend(&running, &tried)?);
        let target = life.target(service_port);
        let attempt =
            tokio::time::timeout(shared.limits.connect_timeout, TcpStream::connect(target));
        match attempt.await {
            Ok(Ok(stream)) => return Some((stream, life)),
            Ok(Err(error)) => tracing::debug!(%target, %error, "backend not reached"),
            Err(_) => tracing::debug!(%target, "backend did not answer in time"),
        }
        life.counters.connect_errors.fetch_add(1, Relaxed);
        tried.push(life);
    }
    None
}

/// Closes with RST, so that the peer does not take what it has for the whole.
fn reset(stream: TcpStream) {
    // Without the option the peer sees a FIN instead, which is the best that is left.
    let _ = stream.set_zero_linger();
    drop(stream);
}
