//! The product in the lab: `marchd` and `marchdp` as they run in production, driven with `marchctl`, read through the API.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use march_proto::v1::control_client::ControlClient;
use march_proto::v1::{
    BackendTelemetry, NodeState, NodeStatus, NodesRequest, PortTelemetry, ServiceTelemetry,
    Telemetry,
};

use crate::command::{self, Finished};
use crate::process::Process;
use crate::{documents, poll, sandbox, topology};

/// Where both daemons meet: the default of all three programs.
pub const SOCKET: &str = "/run/marchproxy/marchd.sock";

/// How long a daemon may take to start, to stop, or to run a revision.
pub const PATIENCE: Duration = Duration::from_secs(20);

/// The built program `name`: next to the one that runs.
pub fn binary(name: &str) -> Result<PathBuf> {
    let path = std::env::current_exe()?.with_file_name(name);
    ensure!(
        path.exists(),
        "{} is not built: `cargo build --release -p marchd -p marchdp -p marchctl -p march-lab`",
        path.display()
    );
    Ok(path)
}

/// The running product.
#[derive(Debug)]
pub struct Product {
    /// The control daemon; `None` while a scenario has it stopped.
    pub daemon: Option<Process>,
    /// The node; `None` while a scenario has it stopped.
    pub node: Option<Process>,
    /// State directories of both.
    pub state: PathBuf,
    runtime: tokio::runtime::Runtime,
}

impl Product {
    /// Starts both daemons with empty state and waits until the node is connected.
    pub fn start() -> Result<Self> {
        std::fs::create_dir_all("/run/marchproxy")?;
        let state = sandbox::directory("state")?;
        // With a worker of its own, so that connections close although nobody waits for them.
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        let mut product = Self {
            daemon: None,
            node: None,
            state,
            runtime,
        };
        product.start_daemon()?;
        product.start_node()?;
        product.wait_connected()?;
        Ok(product)
    }

    /// Starts `marchd` on the state that is there, and waits for its socket.
    pub fn start_daemon(&mut self) -> Result<()> {
        let mut command = Command::new(binary("marchd")?);
        command
            .args(["--socket", SOCKET, "--state-dir"])
            .arg(self.state.join("marchd"));
        let mut daemon = Process::start("marchd", command)?;
        let ready = poll::until_ok("marchd answers", PATIENCE, || {
            ensure!(daemon.is_running(), "marchd has ended");
            self.runtime.block_on(Self::nodes()).map(drop)
        });
        ready.with_context(|| daemon.log_tail())?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Starts `marchdp` in the proxy namespace on the state that is there. Does not wait for a connection.
    pub fn start_node(&mut self) -> Result<()> {
        self.start_node_with(&[])
    }

    /// The same with more arguments.
    pub fn start_node_with(&mut self, arguments: &[&str]) -> Result<()> {
        let mut command = topology::inside("proxy", binary("marchdp")?);
        command
            .args(["--node", documents::NODE, "--socket", SOCKET, "--state-dir"])
            .arg(self.state.join("node"))
            .args(arguments);
        self.node = Some(Process::start("marchdp", command)?);
        Ok(())
    }

    /// Waits until the daemon has a live session with the node.
    pub fn wait_connected(&mut self) -> Result<()> {
        let connected = poll::until_ok("the node is connected", PATIENCE, || {
            let node = self.node_status()?;
            ensure!(
                matches!(
                    node.state(),
                    NodeState::Running | NodeState::Pending | NodeState::Refused
                ),
                "node state {:?}",
                node.state()
            );
            Ok(())
        });
        connected.with_context(|| self.logs())
    }

    /// `marchctl` with these arguments, whatever it answers.
    pub fn ctl<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<Finished> {
        let mut command = Command::new(binary("marchctl")?);
        command.args(["--socket", SOCKET]).args(arguments);
        command::finish(&mut command)
    }

    /// `marchctl` with these arguments, which must succeed.
    pub fn ctl_ok<'a>(&self, arguments: impl IntoIterator<Item = &'a str>) -> Result<String> {
        let arguments: Vec<&str> = arguments.into_iter().collect();
        let finished = self.ctl(arguments.iter().copied())?;
        if finished.status != 0 {
            bail!(
                "marchctl {} ended with {}: {}{}",
                arguments.join(" "),
                finished.status,
                finished.stderr,
                finished.stdout
            );
        }
        Ok(finished.stdout)
    }

    /// `marchctl apply -f` of documents, whatever it answers.
    pub fn try_apply(&self, name: &str, documents: &str) -> Result<Finished> {
        let path = self.write(name, documents)?;
        self.ctl(["apply", "-f", &path.to_string_lossy()])
    }

    /// `marchctl apply -f` of documents; they must be accepted and run.
    pub fn apply(&self, name: &str, documents: &str) -> Result<()> {
        let finished = self.try_apply(name, documents)?;
        ensure!(
            finished.status == 0,
            "apply of {name} ended with {}: {}{}\n{}",
            finished.status,
            finished.stderr,
            finished.stdout,
            self.logs()
        );
        Ok(())
    }

    /// Writes documents to a file under the lab's run directory.
    pub fn write(&self, name: &str, documents: &str) -> Result<PathBuf> {
        let path = sandbox::directory("documents")?.join(name);
        std::fs::write(&path, documents)?;
        Ok(path)
    }

    /// A figure of the node itself, from its metrics: there with or without a daemon.
    pub fn metric(&self, name: &str) -> Result<u64> {
        let text = command::run(
            "ip",
            [
                "netns",
                "exec",
                "proxy",
                "curl",
                "-sS",
                "--max-time",
                "5",
                "http://127.0.0.1:8082/metrics",
            ],
        )?;
        let line = text
            .lines()
            .find(|line| line.split([' ', '{']).next() == Some(name));
        let value = line
            .and_then(|line| line.rsplit(' ').next())
            .with_context(|| format!("no metric {name}"))?;
        Ok(value.parse()?)
    }

    async fn nodes() -> Result<Vec<NodeStatus>> {
        let channel = tonic::transport::Endpoint::from_static("http://marchd.invalid")
            .connect_with_connector(tower::service_fn(|_: tonic::transport::Uri| async {
                tokio::net::UnixStream::connect(Path::new(SOCKET))
                    .await
                    .map(hyper_util::rt::TokioIo::new)
            }))
            .await?;
        let mut client = ControlClient::new(channel);
        Ok(client
            .nodes(NodesRequest::default())
            .await?
            .into_inner()
            .nodes)
    }

    /// What the daemon knows of the lab's node.
    pub fn node_status(&self) -> Result<NodeStatus> {
        let nodes = self.runtime.block_on(Self::nodes())?;
        nodes
            .into_iter()
            .find(|node| node.node == documents::NODE)
            .context("the node never connected")
    }

    /// The node's last telemetry.
    pub fn telemetry(&self) -> Result<Telemetry> {
        self.node_status()?
            .telemetry
            .context("the node has not reported yet")
    }

    /// Telemetry that the node took after this call, so that it covers everything that happened before.
    pub fn fresh_telemetry(&self) -> Result<Telemetry> {
        // Reports come about once a second and carry no time. Two changes of report after now are certainly newer than now.
        let mut last = self.report_age()?;
        let mut fresh = 0;
        poll::until_ok("fresh telemetry", PATIENCE, || {
            let status = self.node_status()?;
            if status.silent_ms < last {
                fresh += 1;
            }
            last = status.silent_ms;
            ensure!(fresh >= 2, "no new report yet");
            status.telemetry.context("the node has not reported yet")
        })
    }

    fn report_age(&self) -> Result<u64> {
        Ok(self.node_status()?.silent_ms)
    }

    /// The end of both daemons' logs, for messages.
    pub fn logs(&self) -> String {
        let tails: Vec<String> = [&self.daemon, &self.node]
            .into_iter()
            .flatten()
            .map(Process::log_tail)
            .collect();
        tails.join("\n")
    }
}

/// The report of one port.
pub fn port<'a>(telemetry: &'a Telemetry, name: &str) -> Result<&'a PortTelemetry> {
    telemetry
        .ports
        .iter()
        .find(|port| port.name == name)
        .with_context(|| format!("no port {name} in the telemetry"))
}

/// The report of one service.
pub fn service<'a>(telemetry: &'a Telemetry, name: &str) -> Result<&'a ServiceTelemetry> {
    telemetry
        .services
        .iter()
        .find(|service| service.name == name)
        .with_context(|| format!("no service {name} in the telemetry"))
}

/// The report of one backend of a pool.
pub fn backend<'a>(
    telemetry: &'a Telemetry,
    pool: &str,
    address: &str,
) -> Result<&'a BackendTelemetry> {
    telemetry
        .backends
        .iter()
        .find(|backend| backend.pool == pool && backend.address == address)
        .with_context(|| format!("no backend {address} of {pool} in the telemetry"))
}

/// Packets dropped for `reason` on all ports.
pub fn drops(telemetry: &Telemetry, reason: &str) -> u64 {
    telemetry
        .drops
        .iter()
        .filter(|drop| drop.reason == reason)
        .map(|drop| drop.packets)
        .sum()
}
