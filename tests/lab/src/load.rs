//! Load clients that know what a right answer is.
//!
//! A client runs as its own process in the client's namespace (`lab load ...`), prints a [`Report`] as a line of JSON many times a
//! second, and ends when its standard input closes: it stops sending, waits for what is outstanding, and prints the last report.
//! [`Load`] is the handle that a scenario holds.

mod http;
mod stream;
mod udp;

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::net::{IpAddr, SocketAddr};
use std::process::{Child, ChildStdin, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};

use crate::{poll, servers, topology};

/// What a client has seen so far. Every request ends as exactly one of right, wrong or lost.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Report {
    /// Requests sent: datagrams, HTTP requests, messages on streams.
    pub sent: u64,
    /// Answers that were as they must be.
    pub right: u64,
    /// Answers with other content than they must have.
    pub wrong: u64,
    /// Requests without an answer in time, or whose connection broke or was refused.
    pub lost: u64,
    /// Right answers by the backend that gave them.
    pub backends: BTreeMap<String, u64>,
    /// Streams: live connections by backend. Others: empty.
    pub connections: BTreeMap<String, u64>,
    /// Connections that ended before the client wanted it.
    pub broken: u64,
    /// Streams: those of them that the other end reset. Others: 0.
    pub reset: u64,
    /// Flows that were answered by another backend than before.
    pub moved: u64,
    /// What went wrong last, in words.
    pub last_error: String,
    /// Whether this is the last report of the client.
    pub finished: bool,
}

impl Report {
    /// Requests that have neither been answered nor given up.
    pub fn outstanding(&self) -> u64 {
        self.sent - self.right - self.wrong - self.lost
    }

    /// Right answers of one backend.
    pub fn of(&self, backend: &str) -> u64 {
        self.backends.get(backend).copied().unwrap_or(0)
    }

    /// Live connections to one backend.
    pub fn live(&self, backend: &str) -> u64 {
        self.connections.get(backend).copied().unwrap_or(0)
    }

    /// The spread over backends in words.
    pub fn spread(&self) -> String {
        counts(&self.backends)
    }

    /// Live connections by backend in words.
    pub fn open(&self) -> String {
        counts(&self.connections)
    }

    /// Right, wrong and lost in words.
    pub fn tally(&self) -> String {
        let mut text = format!(
            "{} right, {} wrong, {} lost",
            self.right, self.wrong, self.lost
        );
        if !self.last_error.is_empty() {
            text.push_str(" (last error: ");
            text.push_str(&self.last_error);
            text.push(')');
        }
        text
    }
}

fn counts(by_backend: &BTreeMap<String, u64>) -> String {
    let parts: Vec<String> = by_backend
        .iter()
        .map(|(name, count)| format!("{name} {count}"))
        .collect();
    parts.join(", ")
}

/// What kind of requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Kind {
    /// Datagrams to the UDP echo; a flow is a socket.
    Udp,
    /// Short HTTP requests, a new connection each.
    Http,
    /// Messages on TCP connections that stay open.
    Stream,
}

/// What a client is to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Plan {
    /// What kind of requests
    #[arg(value_enum)]
    pub kind: Kind,
    /// Where to
    pub target: SocketAddr,
    /// Address to send from
    #[arg(long)]
    pub source: Option<IpAddr>,
    /// UDP flows, HTTP workers or streams at a time
    #[arg(long, default_value_t = 16)]
    pub flows: u32,
    /// Requests per second, all flows together
    #[arg(long, default_value_t = 500)]
    pub rate: u32,
    /// Bytes of payload in a datagram or message
    #[arg(long, default_value_t = 64)]
    pub size: usize,
    /// How long an answer may take, in milliseconds
    #[arg(long, default_value_t = 3000)]
    pub patience_ms: u64,
}

impl Plan {
    /// A plan with the defaults.
    pub fn new(kind: Kind, address: impl Into<IpAddr>, port: u16) -> Self {
        Self {
            kind,
            target: SocketAddr::new(address.into(), port),
            source: None,
            flows: 16,
            rate: 500,
            size: 64,
            patience_ms: 3000,
        }
    }

    /// With this many flows at a time.
    #[must_use]
    pub fn flows(self, flows: u32) -> Self {
        Self { flows, ..self }
    }

    /// With this many requests per second.
    #[must_use]
    pub fn rate(self, rate: u32) -> Self {
        Self { rate, ..self }
    }

    /// With this many bytes of payload.
    #[must_use]
    pub fn size(self, size: usize) -> Self {
        Self { size, ..self }
    }

    /// From this source address.
    #[must_use]
    pub fn source(self, address: impl Into<IpAddr>) -> Self {
        Self {
            source: Some(address.into()),
            ..self
        }
    }

    fn patience(&self) -> Duration {
        Duration::from_millis(self.patience_ms)
    }

    /// Time between two requests of one flow.
    fn interval(&self) -> Duration {
        Duration::from_secs_f64(f64::from(self.flows) / f64::from(self.rate.max(1)))
    }
}

/// The report that the flows of a client write together. One thread, so the lock is never contended.
type Shared = Arc<Mutex<Report>>;

fn note(shared: &Shared, change: impl FnOnce(&mut Report)) {
    change(&mut shared.lock().expect("a flow panicked"));
}

/// What `lab load ...` does: runs the plan until standard input closes.
pub fn run(plan: &Plan) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()?;
    runtime.block_on(async {
        let shared = Shared::default();
        let (stop, stopped) = tokio::sync::watch::channel(());
        let mut flows = tokio::task::JoinSet::new();
        for index in 0..plan.flows {
            let (plan, shared, stopped) = (plan.clone(), Arc::clone(&shared), stopped.clone());
            match plan.kind {
                Kind::Udp => flows.spawn(udp::flow(plan, index, shared, stopped)),
                Kind::Http => flows.spawn(http::worker(plan, index, shared, stopped)),
                Kind::Stream => flows.spawn(stream::stream(plan, index, shared, stopped)),
            };
        }
        let mut input = tokio::io::stdin();
        let mut nowhere = tokio::io::sink();
        let end = tokio::io::copy(&mut input, &mut nowhere);
        tokio::pin!(end);
        let mut tick = tokio::time::interval(Duration::from_millis(20));
        loop {
            tokio::select! {
                _ = &mut end => break,
                _ = tick.tick() => print(&shared)?,
            }
        }
        drop(stop);
        while let Some(flow) = flows.join_next().await {
            flow?.context("a flow of the load client")?;
        }
        note(&shared, |report| report.finished = true);
        print(&shared)
    })
}

fn print(shared: &Shared) -> Result<()> {
    use std::io::Write as _;
    let line = serde_json::to_string(&*shared.lock().expect("a flow panicked"))?;
    let mut output = std::io::stdout().lock();
    writeln!(output, "{line}")?;
    output.flush()?;
    Ok(())
}

/// A running load client. Killed when dropped.
#[derive(Debug)]
pub struct Load {
    child: Child,
    input: Option<ChildStdin>,
    latest: Arc<Mutex<Option<Report>>>,
    what: String,
}

impl Load {
    /// Starts a client in the client's namespace.
    pub fn start(plan: &Plan) -> Result<Self> {
        let mut command = topology::inside("client", servers::lab_program()?);
        command.arg("load");
        command.arg(match plan.kind {
            Kind::Udp => "udp",
            Kind::Http => "http",
            Kind::Stream => "stream",
        });
        command.arg(plan.target.to_string());
        if let Some(source) = plan.source {
            command.args(["--source", &source.to_string()]);
        }
        for (option, value) in [
            ("--flows", u64::from(plan.flows)),
            ("--rate", u64::from(plan.rate)),
            ("--size", plan.size as u64),
            ("--patience-ms", plan.patience_ms),
        ] {
            command.args([option, &value.to_string()]);
        }
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()?;
        let output = child.stdout.take().context("no output")?;
        let latest = Arc::new(Mutex::new(None));
        let writer = Arc::clone(&latest);
        std::thread::spawn(move || {
            for line in BufReader::new(output).lines().map_while(Result::ok) {
                if let Ok(report) = serde_json::from_str(&line) {
                    *writer.lock().expect("a reader panicked") = Some(report);
                }
            }
        });
        Ok(Self {
            input: child.stdin.take(),
            child,
            latest,
            what: format!("{:?} load on {}", plan.kind, plan.target),
        })
    }

    /// The latest report.
    pub fn report(&self) -> Report {
        self.latest
            .lock()
            .expect("the reader panicked")
            .clone()
            .unwrap_or_default()
    }

    /// Waits until the report satisfies `condition`.
    pub fn until(
        &self,
        what: &str,
        deadline: Duration,
        condition: impl Fn(&Report) -> bool,
    ) -> Result<Report> {
        poll::until(&format!("{}: {what}", self.what), deadline, || {
            Some(self.report()).filter(|report| condition(report))
        })
        .with_context(|| self.report().tally())
    }

    /// Waits until `count` more requests are answered rightly.
    pub fn more(&self, count: u64, deadline: Duration) -> Result<Report> {
        let before = self.report().right;
        self.until(&format!("{count} more right answers"), deadline, |report| {
            report.right >= before + count
        })
    }

    /// Stops sending, waits for what is outstanding and returns the last report.
    pub fn finish(mut self) -> Result<Report> {
        drop(self.input.take());
        let report = self.until("the client ends", Duration::from_secs(20), |report| {
            report.finished
        })?;
        if report.outstanding() != 0 {
            bail!(
                "{}: {} requests are unaccounted for",
                self.what,
                report.outstanding()
            );
        }
        Ok(report)
    }
}

impl Drop for Load {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
