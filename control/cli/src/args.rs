//! The command line's grammar.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

/// Drives MarchProxy through its control daemon.
#[derive(Debug, Parser)]
#[command(name = "marchctl", version, propagate_version = true, after_help = EXIT_CODES)]
pub(crate) struct Flags {
    /// The daemon's unix socket.
    #[arg(long, global = true, env = "MARCHPROXY_SOCKET", default_value = march_proto::DEFAULT_SOCKET)]
    pub socket: PathBuf,
    /// How results are written.
    #[arg(short, long, global = true, value_enum, default_value_t = Output::Table)]
    pub output: Output,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "Exit codes: 0 ok, 1 differences (diff only), 2 usage, 3 invalid, 4 not found, 5 conflict, \
                          6 denied, 7 unavailable, 8 committed but not converged";

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Output {
    Table,
    /// The table with more columns.
    Wide,
    Json,
    Yaml,
    /// Only the names.
    Name,
}

/// How many columns a table has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Width {
    Narrow,
    Wide,
}

impl Output {
    pub const fn width(self) -> Width {
        match self {
            Output::Wide => Width::Wide,
            _ => Width::Narrow,
        }
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Makes the desired state what the documents say.
    Apply(ApplyArgs),
    /// Shows what apply would change; exit code 1 when something would.
    Diff(DiffArgs),
    /// Shows documents with what the nodes say about them.
    Get(GetArgs),
    /// Shows everything about one thing.
    Describe(DescribeArgs),
    /// Deletes documents.
    Delete(DeleteArgs),
    /// Shows revisions, newest first.
    History(HistoryArgs),
    /// Makes a new revision that equals an old one.
    Rollback(RollbackArgs),
    /// Shows the counters of the nodes.
    Stats(StatsArgs),
    /// Shows dropped packets by reason.
    Drops(DropsArgs),
    /// Says what would happen to a packet.
    Explain(ExplainArgs),
    /// Shows live packets as they came and as they left.
    Trace(TraceArgs),
    /// Loads, changes and shows what address sets hold.
    Set(crate::set::SetArgs),
    /// Takes a backend out or brings it back, outside revisions.
    Backend(BackendArgs),
    /// Checks this machine, the daemon and the nodes.
    Doctor,
    /// Shows the versions of this program and of the daemon.
    Version,
    /// Writes a completion script for a shell.
    Completion {
        /// The shell.
        shell: clap_complete::Shell,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Files {
    /// A file, a directory of *.yaml, *.yml and *.json, or `-` for standard input; may be repeated.
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// Deletes every document that is not given.
    #[arg(long)]
    pub prune: bool,
}

/// Whether a change waits for the nodes.
#[derive(Debug, Args)]
pub(crate) struct Waiting {
    /// Waits until every connected node runs the revision; the default.
    #[arg(long, conflicts_with = "no_wait")]
    pub wait: bool,
    /// Answers as soon as the revision is on the daemon's disk.
    #[arg(long)]
    pub no_wait: bool,
    /// How long to wait for the nodes, such as 30s or 2m.
    #[arg(long, default_value = "30s", value_parser = duration)]
    pub timeout: Duration,
}

impl Waiting {
    /// Milliseconds to wait; 0 for not at all.
    pub fn wait_ms(&self) -> u32 {
        if self.no_wait {
            0
        } else {
            u32::try_from(self.timeout.as_millis())
                .unwrap_or(u32::MAX)
                .max(1)
        }
    }
}

#[derive(Debug, Args)]
pub(crate) struct ApplyArgs {
    #[command(flatten)]
    pub files: Files,
    #[command(flatten)]
    pub waiting: Waiting,
    /// Checks and lists the changes, commits nothing.
    #[arg(long)]
    pub dry_run: bool,
    /// Why, for the history.
    #[arg(long, default_value = "")]
    pub comment: String,
    /// Refuses when the newest revision is not this one.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub base: u64,
}

#[derive(Debug, Args)]
pub(crate) struct DiffArgs {
    #[command(flatten)]
    pub files: Files,
}

#[derive(Debug, Args)]
pub(crate) struct GetArgs {
    /// port, service, pool, rule, addressset, ratelimit, mapping, node, backend or all; singular or plural.
    #[arg(value_parser = what)]
    pub what: What,
    /// Only the one of this name; for backends: of this pool.
    pub name: Option<String>,
    /// Documents of an older revision.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub revision: u64,
    /// Only rules that matched nothing since the nodes' agents started.
    #[arg(long, conflicts_with = "name")]
    pub unused: bool,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// port, service, pool, rule, addressset, ratelimit, mapping or node.
    #[arg(value_parser = what)]
    pub what: What,
    /// Which one.
    pub name: String,
}

#[derive(Debug, Args)]
pub(crate) struct DeleteArgs {
    /// port, service, pool, rule, addressset, ratelimit or mapping.
    #[arg(value_parser = what)]
    pub what: What,
    /// Which ones.
    #[arg(required = true)]
    pub names: Vec<String>,
    #[command(flatten)]
    pub waiting: Waiting,
    /// Why, for the history.
    #[arg(long, default_value = "")]
    pub comment: String,
    /// Refuses when the newest revision is not this one.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    pub base: u64,
}

#[derive(Debug, Args)]
pub(crate) struct HistoryArgs {
    /// How many.
    #[arg(long, default_value_t = 20)]
    pub limit: u32,
    /// Only this one, with its changes.
    #[arg(long)]
    pub revision: Option<u64>,
}

#[derive(Debug, Args)]
pub(crate) struct RollbackArgs {
    /// The revision to go back to.
    pub revision: u64,
    #[command(flatten)]
    pub waiting: Waiting,
    /// Why, for the history.
    #[arg(long, default_value = "")]
    pub comment: String,
}

#[derive(Debug, Args)]
pub(crate) struct StatsArgs {
    /// Only this node.
    #[arg(long, default_value = "")]
    pub node: String,
}

#[derive(Debug, Args)]
pub(crate) struct DropsArgs {
    /// Only this node.
    #[arg(long, default_value = "")]
    pub node: String,
    /// Goes on, with what is new each time a node reports.
    #[arg(long)]
    pub watch: bool,
    /// Stops watching after this time, such as 10s.
    #[arg(long = "for", value_parser = duration, requires = "watch")]
    pub time: Option<Duration>,
}

#[derive(Debug, Args)]
#[command(after_help = "Examples:
  marchctl explain 203.0.113.9:40000 192.0.2.10:80
  marchctl explain --proto udp '[2001:db8::9]:5353' '[2001:db8:1::10]:53'
  marchctl explain --proto icmp 203.0.113.9 192.0.2.10
  marchctl explain -f new-rules.yaml 203.0.113.9:40000 192.0.2.10:80
  marchctl explain --pcap capture.pcap --port wan0
  marchctl explain --node edge1 --port wan0 '203.0.113.9:40000 -> 192.0.2.10:80'
  marchctl explain --frame 02000000000a02000000000b0800450000...")]
pub(crate) struct ExplainArgs {
    /// The node to ask; may be left out when only one is connected.
    #[arg(long, default_value = "")]
    pub node: String,
    /// The port by which the packet comes in; by default the one towards its source.
    #[arg(long, default_value = "")]
    pub port: String,
    /// tcp, udp, icmp or icmpv6.
    #[arg(long, value_parser = ["tcp", "udp", "icmp", "icmpv6"], default_value = "tcp")]
    pub proto: String,
    /// An Ethernet frame in hexadecimal, as captured, instead of addresses.
    #[arg(long, value_name = "HEX", conflicts_with = "packet")]
    pub frame: Option<String>,
    /// The packets of a capture file (pcap or pcapng), one line each.
    #[arg(long, value_name = "FILE", conflicts_with_all = ["packet", "frame"])]
    pub pcap: Option<PathBuf>,
    /// How many packets of a capture file, at most.
    #[arg(long, default_value_t = 1000, requires = "pcap")]
    pub limit: usize,
    /// Judged by this revision instead of by what runs.
    #[arg(
        long,
        default_value_t = 0,
        hide_default_value = true,
        conflicts_with = "files"
    )]
    pub revision: u64,
    /// Judged as if these files had been applied; nothing is.
    #[arg(short, long = "file", value_name = "FILE|DIR|-")]
    pub files: Vec<PathBuf>,
    /// With files: as if every document that is not given were deleted.
    #[arg(long, requires = "files")]
    pub prune: bool,
    /// How long the node may take; 2s, or 10s where it has to compile first.
    #[arg(long, value_parser = duration)]
    pub timeout: Option<Duration>,
    /// Source and destination: `ADDRESS:PORT ADDRESS:PORT`; a quoted `->` between them may be.
    #[arg(required_unless_present_any = ["frame", "pcap"], num_args = 1..=3)]
    pub packet: Vec<String>,
}

#[derive(Debug, Args)]
#[command(after_help = "A filter is words, all of which must hold:
  host ADDRESS, src ADDRESS, dst ADDRESS (or a prefix), port N, sport N, dport N,
  tcp, udp, icmp, icmpv6, proto N, in PORT, forward, answer, punt, hold, drop, drop REASON
What names ends matches both directions, before or after the rewrite.
Examples:
  marchctl trace --filter 'host 203.0.113.9 port 80' -c 20
  marchctl trace --filter 'drop rule_drop' --for 1m -o json")]
pub(crate) struct TraceArgs {
    /// The node; may be left out when only one is connected.
    #[arg(long, default_value = "")]
    pub node: String,
    /// Which packets; every one if left out.
    #[arg(long, default_value = "")]
    pub filter: String,
    /// Ends after so many packets.
    #[arg(short, long, default_value_t = 10, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub count: u32,
    /// Ends after this time, at most 10m.
    #[arg(long = "for", default_value = "30s", value_parser = duration)]
    pub time: Duration,
}

#[derive(Debug, Args)]
pub(crate) struct BackendArgs {
    /// What to do.
    #[arg(value_enum)]
    pub action: BackendAction,
    /// The pool.
    pub pool: String,
    /// The backend; without a port every backend of the pool with this address.
    #[arg(value_name = "ADDRESS[:PORT]", value_parser = endpoint)]
    pub backend: (IpAddr, u16),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum BackendAction {
    /// No new flows, the present ones finish.
    Drain,
    /// Takes new flows again.
    Enable,
    /// No flows at all, now.
    Offline,
}

/// What `get` and the like can show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum What {
    Documents(march_model::Kind),
    Nodes,
    Backends,
    All,
}

fn what(word: &str) -> Result<What, String> {
    if let Some(kind) = march_model::Kind::from_word(word) {
        return Ok(What::Documents(kind));
    }
    match word.to_ascii_lowercase().as_str() {
        "node" | "nodes" => Ok(What::Nodes),
        "backend" | "backends" => Ok(What::Backends),
        "all" => Ok(What::All),
        _ => Err("there is port, service, pool, rule, addressset, ratelimit, mapping, node, backend and all".to_owned()),
    }
}

fn duration(text: &str) -> Result<Duration, String> {
    text.parse::<march_model::DurationMs>()
        .map(march_model::DurationMs::as_duration)
}

/// `ADDRESS`, `ADDRESS:PORT` or `[ADDRESS]:PORT`; port 0 when there is none.
pub(crate) fn endpoint(text: &str) -> Result<(IpAddr, u16), String> {
    if let Ok(endpoint) = text.parse::<std::net::SocketAddr>() {
        return match endpoint.port() {
            0 => Err("port 0 is no port".to_owned()),
            port => Ok((endpoint.ip(), port)),
        };
    }
    let address = text
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(text);
    address
        .parse()
        .map(|address| (address, 0))
        .map_err(|_| format!("`{text}` is not ADDRESS, ADDRESS:PORT or [ADDRESS]:PORT"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_grammar_is_sound() {
        <Flags as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn endpoints_of_both_families_are_read() {
        assert_eq!(
            endpoint("10.0.0.1:80"),
            Ok(("10.0.0.1".parse().unwrap(), 80))
        );
        assert_eq!(endpoint("10.0.0.1"), Ok(("10.0.0.1".parse().unwrap(), 0)));
        assert_eq!(
            endpoint("[2001:db8::1]:53"),
            Ok(("2001:db8::1".parse().unwrap(), 53))
        );
        assert_eq!(
            endpoint("2001:db8::1"),
            Ok(("2001:db8::1".parse().unwrap(), 0))
        );
        assert!(endpoint("10.0.0.1:0").is_err());
        assert!(endpoint("web:80").is_err());
    }
}
