//! A flood of SYNs from addresses that do not exist, and one real client beside it.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use march_proto::v1::{FlowTelemetry, Telemetry};

use super::traffic::curl;
use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan};
use crate::process::Process;
use crate::product::{self, PATIENCE};
use crate::servers::lab_program;
use crate::topology::{VIP4, inside};
use crate::{documents, poll};

const WITHIN: Duration = Duration::from_secs(60);
/// IPv4 flows of the node in this scenario, and with them the handshakes: a sixteenth, at least 4096.
const FLOWS: &str = "65536";
const HANDSHAKES: u64 = 4_096;
/// What the flooded service takes.
const HALF_OPEN: u64 = 3_000;
const NEW_PER_SECOND: u64 = 3_500;
/// SYNs per second: more than that.
const FLOOD: u32 = 4_000;
/// Once a flood is over, most of its handshakes are gone after 3 seconds, a round of the sweep of 2, and a report or two; what is
/// less than a quarter of the table has the usual 30.
const CALM: Duration = Duration::from_secs(15);
const RECOVERY: Duration = Duration::from_secs(45);

fn flows(telemetry: &Telemetry) -> FlowTelemetry {
    telemetry.flows.unwrap_or_default()
}

/// The node anew with small tables, so that a small flood is a large one.
fn with_small_tables(lab: &mut Lab) -> Result<()> {
    let product = lab.product_mut();
    if let Some(mut node) = product.node.take() {
        node.stop(PATIENCE)?;
    }
    product.start_node_with(&["--flows4", FLOWS])?;
    product.wait_connected()?;
    let limits =
        format!("limits: {{ newConnectionsPerSecond: {NEW_PER_SECOND}, halfOpen: {HALF_OPEN} }}");
    let web = documents::services().replace(
        &format!("address: \"{VIP4}\", port: 80, protocol: tcp,"),
        &format!("address: \"{VIP4}\", port: 80, protocol: tcp, {limits},"),
    );
    ensure!(
        web.contains(&limits),
        "the service that is flooded has limits"
    );
    lab.product().apply("limits.yaml", &web)?;
    poll::until_ok("the services answer again", PATIENCE, || {
        curl(&["--max-time", "2", &format!("http://{VIP4}/")]).map(drop)
    })
}

pub(super) fn syn_flood(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    with_small_tables(lab)?;
    let streams = Load::start(&Plan::new(Kind::Stream, VIP4, 9001).flows(8).rate(200))?;
    let before = streams.more(200, WITHIN)?;
    findings.check(
        "before: connections are answered",
        before.lost == 0,
        before.tally(),
    );

    let mut command = inside("client", lab_program()?);
    command.args([
        "flood",
        "c0",
        &VIP4.to_string(),
        "--per-second",
        &FLOOD.to_string(),
    ]);
    let mut flood = Process::start("flood", command)?;
    let flooded = poll::until_ok("the flood shows", PATIENCE, || {
        let telemetry = lab.product().telemetry()?;
        ensure!(flows(&telemetry).flood_mode > 0, "{:?}", telemetry.flows);
        Ok(telemetry)
    })
    .with_context(|| flood.log_tail())?;
    findings.check(
        "flood mode begins before the table is full",
        flows(&flooded).embryonic_evicted == 0,
        format_args!(
            "at {} of {HANDSHAKES} handshakes",
            flows(&flooded).embryonic
        ),
    );
    let clients = Load::start(&Plan {
        patience_ms: 5_000,
        ..Plan::new(Kind::Http, VIP4, 80).flows(16).rate(50)
    })?;
    let quiet = streams.report();
    let started = Instant::now();
    streams.more(2_000, WITHIN)?;
    let seconds = started.elapsed().as_secs_f64();
    let through = streams.report();
    #[expect(clippy::cast_precision_loss, reason = "a rate in words")]
    let rate = (through.right - quiet.right) as f64 / seconds;
    findings.check(
        "during: connections keep their rate, none breaks, nothing is lost",
        through.lost == quiet.lost && through.broken == 0 && rate > 160.0,
        format_args!("{rate:.0} of 200 answers/s, {}", through.tally()),
    );
    held_to_its_caps(lab, findings)?;
    let opened = clients.finish()?;
    findings.check(
        "during: new connections of a real client to the flooded service (measured, no bound)",
        opened.wrong == 0,
        format_args!("{} of {} succeed", opened.right, opened.sent),
    );

    flood.kill()?;
    let started = Instant::now();
    poll::until_ok("flood mode is over", CALM, || {
        let flows = flows(&lab.product().telemetry()?);
        ensure!(flows.flood_mode == 0, "{flows:?}");
        Ok(())
    })?;
    let after =
        |started: Instant| format!("{:.1} s after its end", started.elapsed().as_secs_f64());
    findings.check("after: flood mode ends", true, after(started));
    let again = Load::start(&Plan::new(Kind::Http, VIP4, 80).flows(8).rate(100))?;
    again.more(200, WITHIN)?;
    let again = again.finish()?;
    findings.check(
        "after: new connections succeed",
        again.lost == 0,
        again.tally(),
    );
    poll::until_ok("the flood is forgotten", RECOVERY, || {
        let flows = flows(&lab.product().telemetry()?);
        ensure!(flows.embryonic < 32, "{flows:?}");
        Ok(())
    })?;
    findings.check("after: its handshakes are forgotten", true, after(started));
    let streams = streams.finish()?;
    findings.equal("connections that broke, over all", &streams.broken, &0);
    Ok(())
}

/// What the node shows of the flood, and that its bounds hold.
fn held_to_its_caps(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let telemetry = lab.product().fresh_telemetry()?;
    let seen = flows(&telemetry);
    findings.check(
        "caps: handshakes stay in their table, and no flow makes room for one",
        seen.embryonic <= HANDSHAKES && seen.evicted == 0,
        format_args!(
            "{} handshakes, {} flows evicted",
            seen.embryonic, seen.evicted
        ),
    );
    let half_open = product::service(&telemetry, "web4")?.half_open;
    findings.check(
        "caps: the service has no more half-open connections than it may",
        half_open > 0 && half_open <= HALF_OPEN,
        format_args!("{half_open} of {HALF_OPEN}"),
    );
    let refused =
        ["half_open_limit", "new_connection_rate"].map(|reason| product::drops(&telemetry, reason));
    findings.check(
        "the rest is refused by name",
        refused.iter().sum::<u64>() > 0,
        format_args!(
            "half_open_limit {}, new_connection_rate {}",
            refused[0], refused[1]
        ),
    );
    let shown = lab.product().ctl_ok(["stats"])?;
    let line = shown.lines().find(|line| line.starts_with("handshakes:"));
    findings.check(
        "`marchctl stats` shows it",
        line.is_some_and(|line| line.ends_with("flood mode")),
        line.unwrap_or("no line about handshakes"),
    );
    findings.equal(
        "the metric shows it",
        &lab.product().metric("marchproxy_flood_mode")?,
        &1,
    );
    let log = lab.product().node.as_ref().context("no node")?.log()?;
    findings.check(
        "the log tells that it began",
        log.contains("flood.began") || log.contains("half of the places"),
        "once",
    );
    Ok(())
}
