//! The `marchd` program: flags, logs and signals around [`marchd::serve`].
#![forbid(unsafe_code)]

use std::io::IsTerminal;
use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::Context;
use clap::Parser;
use marchd::{Options, serve};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;
use tracing_subscriber::EnvFilter;

/// The control daemon of MarchProxy.
#[derive(Parser)]
#[command(name = "marchd", version)]
struct Flags {
    /// The unix socket to listen on.
    #[arg(long, env = "MARCHPROXY_SOCKET", default_value = march_proto::DEFAULT_SOCKET)]
    socket: PathBuf,
    /// The directory of the database.
    #[arg(long, default_value = "/var/lib/marchproxy")]
    state_dir: PathBuf,
    /// The bound of the database in MiB.
    #[arg(long, default_value_t = march_store::DEFAULT_MAX_BYTES >> 20)]
    max_database_mib: u64,
    /// Where health and metrics are served, a loopback address and port; `off` for nowhere.
    #[arg(long, default_value = "127.0.0.1:8001", value_parser = metrics_address)]
    metrics: MetricsAddress,
}

#[derive(Clone, Copy)]
struct MetricsAddress(Option<SocketAddr>);

fn metrics_address(text: &str) -> Result<MetricsAddress, String> {
    match text {
        "off" => Ok(MetricsAddress(None)),
        _ => text
            .parse()
            .map(|address| MetricsAddress(Some(address)))
            .map_err(|_| {
                format!("`{text}` is not an address and port, such as 127.0.0.1:8001, nor `off`")
            }),
    }
}

fn main() -> anyhow::Result<()> {
    let flags = Flags::parse();
    start_logs();
    create_directories(&flags)?;
    // The database is nobody else's to read; the socket gets its mode by name.
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o077));
    let options = Options {
        socket: flags.socket,
        database: flags.state_dir.join("marchd.db"),
        max_database_bytes: flags.max_database_mib << 20,
        metrics: flags.metrics.0,
    };
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let (stop, stopped) = watch::channel(false);
        let mut terminate = signal(SignalKind::terminate())?;
        let mut interrupt = signal(SignalKind::interrupt())?;
        tokio::spawn(async move {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            tracing::info!(event = "daemon.stopping");
            let _ = stop.send(true);
        });
        serve(options, stopped).await.context("marchd")
    })
}

/// The state directory is ours alone; the socket's is open to look into, the socket guards itself.
fn create_directories(flags: &Flags) -> anyhow::Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    let make = |path: &std::path::Path, mode: u32| {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(mode)
            .create(path)
            .with_context(|| format!("cannot make {}", path.display()))
    };
    make(&flags.state_dir, 0o700)?;
    flags
        .socket
        .parent()
        .map_or(Ok(()), |parent| make(parent, 0o755))
}

/// JSON unless a person is watching; `MARCHPROXY_LOG` filters.
fn start_logs() {
    let filter = EnvFilter::try_from_env("MARCHPROXY_LOG")
        .unwrap_or_else(|_| EnvFilter::new("info,rusqlite_migration=warn"));
    let logs = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr);
    if std::io::stderr().is_terminal() {
        logs.init();
    } else {
        logs.json().flatten_event(true).init();
    }
}
