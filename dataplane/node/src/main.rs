//! `marchdp`: the data plane of one node.

use std::fs::File;
use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, bail};
use clap::{Parser, ValueEnum};
use march_proto::DEFAULT_SOCKET;
use marchdp::agent::{Agent, Options};
use marchdp::engine::{IdleChoice, LcoreOptions};
use marchdp::kernel::Kernel;
use marchdp::ladder::{Family, Taking, ssh_client_of_caller};
use marchdp::takeover::Takeover;
use rustix::fs::{FlockOperation, flock};
use tokio::signal::unix::{SignalKind, signal};
use tracing_subscriber::EnvFilter;

/// Exit codes besides 0.
const FAILED: u8 = 1;
const NOT_GIVEN_BACK: u8 = 3;

/// The data plane of one MarchProxy node.
///
/// Takes its configuration from marchd, or from its last good revision when marchd is not there. Interfaces that it takes
/// are given back when it ends; after a crash, at its next start or by --detach.
#[derive(Debug, Parser)]
#[command(name = "marchdp", version, about)]
#[expect(
    clippy::doc_markdown,
    reason = "help text for a terminal, which shows backticks as they are"
)]
struct Arguments {
    /// Name of this node, as Port documents refer to it [default: the host name]
    #[arg(long)]
    node: Option<String>,
    /// Unix socket of marchd
    #[arg(long, default_value = DEFAULT_SOCKET)]
    socket: PathBuf,
    /// Where the last good revision and the journal of what was taken are kept
    #[arg(long, default_value = "/var/lib/marchproxy/node")]
    state_dir: PathBuf,
    /// Where the lock against a second instance is
    #[arg(long, default_value = "/run/marchproxy")]
    run_dir: PathBuf,
    /// Give back what an earlier marchdp left taken, and exit
    #[arg(long)]
    detach: bool,
    /// Take even the interface of the default route or of the ssh session that this was started from
    #[arg(long)]
    force: bool,
    /// Highest tier that ports may run: dpdk, af_xdp or socket
    #[arg(long, value_name = "TIER")]
    tier_limit: Option<Family>,
    /// CPUs for lcores, such as 2,3; chosen near the NIC if not given
    #[arg(long, value_name = "LIST", value_delimiter = ',')]
    lcores: Vec<usize>,
    /// What an lcore does when nothing comes
    #[arg(long, value_enum, default_value_t = Idle::Auto)]
    idle: Idle,
    /// IPv4 flows that fit, about 95 bytes each
    #[arg(long, default_value_t = 1 << 20)]
    flows4: usize,
    /// IPv6 flows that fit, about 160 bytes each
    #[arg(long, default_value_t = 1 << 18)]
    flows6: usize,
    /// Sources whose rates are followed at once, about 32 bytes each
    #[arg(long, default_value_t = 1_000_000)]
    sources: usize,
    /// Loopback port for metrics and health; 0 serves none
    #[arg(long, default_value_t = 8082)]
    metrics_port: u16,
    /// Form of the log on standard error
    #[arg(long, value_enum, default_value_t = Log::Text)]
    log: Log,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Log {
    Json,
    Text,
}

#[derive(Clone, Copy, Debug, ValueEnum)]
enum Idle {
    /// Poll where the lcore has a core to itself, else rest
    Auto,
    /// Poll on: lowest latency, the core is always busy
    Poll,
    /// Rest after a while without traffic
    Relax,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    start_log(arguments.log);
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .worker_threads(2)
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(event = "agent.failed", %error, "no runtime");
            return ExitCode::from(FAILED);
        }
    };
    match runtime.block_on(run(arguments)) {
        Ok(failures) if failures.is_empty() => ExitCode::SUCCESS,
        Ok(failures) => {
            for failure in failures {
                tracing::error!(
                    event = "takeover.not_given_back",
                    failure,
                    "not given back; run marchdp --detach"
                );
            }
            ExitCode::from(NOT_GIVEN_BACK)
        }
        Err(error) => {
            tracing::error!(
                event = "agent.failed",
                error = format!("{error:#}"),
                "marchdp cannot run"
            );
            ExitCode::from(FAILED)
        }
    }
}

fn start_log(form: Log) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("info"));
    let log = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    match form {
        Log::Json => log.json().flatten_event(true).init(),
        Log::Text => log.with_target(false).init(),
    }
}

async fn run(arguments: Arguments) -> anyhow::Result<Vec<String>> {
    let node = match &arguments.node {
        Some(node) => node.clone(),
        None => host_name()?,
    };
    make_directory(&arguments.state_dir, 0o700)?;
    make_directory(&arguments.run_dir, 0o755)?;
    let _node_lock = lock(
        &arguments.run_dir.join(format!("marchdp-{node}.lock")),
        &format!("as node {node}"),
    )?;
    let _state_lock = lock(&arguments.state_dir.join("lock"), "on this state")?;
    if arguments.detach {
        return detach(&arguments.state_dir).await;
    }
    let options = Options {
        node,
        socket: arguments.socket,
        state_dir: arguments.state_dir,
        taking: if arguments.force {
            Taking::Forced
        } else {
            Taking::Guarded
        },
        tier_limit: arguments.tier_limit,
        lcores: LcoreOptions {
            cpus: arguments.lcores,
            idle: match arguments.idle {
                Idle::Auto => IdleChoice::Auto,
                Idle::Poll => IdleChoice::Poll,
                Idle::Relax => IdleChoice::Relax,
            },
            flows4: arguments.flows4,
            flows6: arguments.flows6,
            sources: arguments.sources,
        },
        ssh_client: ssh_client_of_caller(),
    };
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut agent = Agent::start(options).await?;
    let _metrics = serve_metrics(&mut agent, arguments.metrics_port).await;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    Ok(agent.run(stop).await)
}

/// Metrics that cannot be served are a trouble, not a reason not to forward.
async fn serve_metrics(agent: &mut Agent, port: u16) -> Option<marchdp::metrics::MetricsServer> {
    if port == 0 {
        return None;
    }
    let address = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    match marchdp::metrics::serve(address, agent.snapshot()).await {
        Ok(server) => Some(server),
        Err(error) => {
            tracing::error!(event = "metrics.not_served", %error, "no metrics");
            agent.note_trouble("metrics", Some(error.to_string()));
            None
        }
    }
}

async fn detach(state_dir: &Path) -> anyhow::Result<Vec<String>> {
    let kernel = Kernel::connect().await?;
    let mut takeover = Takeover::open(state_dir, kernel.handle.clone())?;
    let count = takeover.outstanding();
    let failures = takeover.give_back().await;
    tracing::info!(
        event = "takeover.detached",
        changes = count,
        not_given_back = failures.len(),
        "detached"
    );
    Ok(failures)
}

fn host_name() -> anyhow::Result<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname")
        .context("cannot read the host name; use --node")?;
    Ok(name.trim().to_owned())
}

/// What a node keeps is nobody else's to read; directories that are there keep their mode.
fn make_directory(path: &Path, mode: u32) -> anyhow::Result<()> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .with_context(|| format!("cannot make {}", path.display()))
}

/// Two instances of one node would take each other's interfaces; two on one state directory would give back what the
/// other has taken.
fn lock(path: &Path, what: &str) -> anyhow::Result<File> {
    let file = File::create(path).with_context(|| format!("cannot open {}", path.display()))?;
    if flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        bail!("another marchdp runs {what} ({} is locked)", path.display());
    }
    Ok(file)
}
