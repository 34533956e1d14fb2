//! Every frame is accounted for: the conservation equations per port, against the kernel's own count of what was sent.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use march_proto::v1::{PortTelemetry, Telemetry};
use march_wire::DropReason;

use super::traffic::{check_spread, curl};
use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan};
use crate::product::{self, PATIENCE};
use crate::servers::lab_program;
use crate::tier::Tier;
use crate::topology::{VIP4, VIP6};
use crate::{command, documents, frames, poll};

const WITHIN: Duration = Duration::from_secs(30);
/// Bytes that are fetched past peers with offloads on.
const PART_BYTES: usize = 200_000;
/// How often each odd frame is sent.
const TIMES: u32 = 10;

/// Frames that the peer of a port has sent towards it.
fn sent_by_peer(namespace: Option<&str>, interface: &str) -> Result<u64> {
    let mut words = vec!["-s", "-j", "link", "show", "dev", interface];
    if let Some(namespace) = namespace {
        words.splice(0..0, ["-netns", namespace]);
    }
    let json: serde_json::Value = serde_json::from_str(&command::run("ip", words)?)?;
    json[0]["stats64"]["tx"]["packets"]
        .as_u64()
        .context("no transmit counter")
}

/// Telemetry of a moment in which nothing moves: two reports in a row with the same counters and nothing held.
fn at_rest(lab: &Lab) -> Result<Telemetry> {
    let mut last = lab.product().fresh_telemetry()?;
    poll::until_ok("traffic comes to rest", PATIENCE, || {
        let now = lab.product().fresh_telemetry()?;
        let still = now.ports == last.ports && now.ports.iter().all(|port| port.held == 0);
        last = now.clone();
        ensure!(still, "frames still move or are held: {:?}", now.ports);
        Ok(now)
    })
}

/// Both equations of one port, to the frame.
fn check_port(findings: &mut Findings, telemetry: &Telemetry, port: &PortTelemetry) {
    let reasons: u64 = telemetry
        .drops
        .iter()
        .filter(|drop| drop.port == port.name)
        .map(|drop| drop.packets)
        .sum();
    let accounted = port.forwarded + port.answered + port.punted + port.held + reasons;
    findings.check(
        format!(
            "{}: rx = forwarded + answered + punted + held + drops",
            port.name
        ),
        port.rx_packets == accounted && port.dropped == reasons,
        format_args!(
            "{} = {} + {} + {} + {} + {reasons}",
            port.rx_packets, port.forwarded, port.answered, port.punted, port.held
        ),
    );
    let originated: u64 = port.originated.iter().map(|kind| kind.count).sum();
    findings.check(
        format!("{}: tx = forwarded in + answered + originated", port.name),
        port.tx_packets == port.forwarded_in + port.answered_out + originated,
        format_args!(
            "{} = {} + {} + {originated}",
            port.tx_packets, port.forwarded_in, port.answered_out
        ),
    );
}

pub(super) fn conservation(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    lab.product()
        .apply("quiet.yaml", &documents::without_checks(lab.tier))?;
    let before = at_rest(lab)?;
    let sent_before = (
        sent_by_peer(Some("client"), "c0")?,
        sent_by_peer(None, "to-proxy")?,
    );

    let loads = [
        Load::start(&Plan::new(Kind::Udp, VIP4, 9000).rate(300))?,
        Load::start(&Plan::new(Kind::Http, VIP6, 80).rate(100))?,
        Load::start(&Plan::new(Kind::Stream, VIP4, 9001).rate(200))?,
    ];
    loads[0].more(200, WITHIN)?;
    let program = lab_program()?;
    command::run(
        "ip",
        [
            "netns",
            "exec",
            "client",
            &program.to_string_lossy(),
            "frames",
            "c0",
            "--times",
            &TIMES.to_string(),
        ],
    )?;
    let _ = command::finish(crate::topology::inside("client", "ping").args([
        "-n",
        "-c",
        "3",
        "-i",
        "0.2",
        "198.51.100.1",
    ]))?;
    loads[0].more(300, WITHIN)?;
    for (kind, load) in ["UDP", "HTTP", "streams"].into_iter().zip(loads) {
        let report = load.finish()?;
        findings.check(
            format!("{kind} beside the odd frames"),
            report.wrong == 0 && report.lost == 0,
            report.tally(),
        );
    }

    let after = at_rest(lab)?;
    let sent = (
        sent_by_peer(Some("client"), "c0")? - sent_before.0,
        sent_by_peer(None, "to-proxy")? - sent_before.1,
    );
    // net_af_packet's sockets are in a fanout group that reassembles: the kernel keeps the odd fragments.
    let kept = if lab.tier == Tier::Dpdk {
        u64::from(TIMES)
    } else {
        0
    };
    for (name, sent) in [("wan", sent.0 - kept), ("lan", sent.1)] {
        let port = product::port(&after, name)?;
        check_port(findings, &after, port);
        let received = port.rx_packets - product::port(&before, name)?.rx_packets;
        findings.check(
            format!("{name}: received = sent by the peer"),
            received == sent,
            format_args!("{received} received, {sent} sent"),
        );
    }
    let mut miscounted = Vec::new();
    let odd = frames::all()
        .into_iter()
        .filter(|frame| !(kept > 0 && frame.drop == Some(DropReason::Fragment)));
    let odd: Vec<_> = odd
        .filter_map(|frame| Some((frame.what, frame.drop?)))
        .collect();
    for (what, reason) in &odd {
        let dropped =
            product::drops(&after, reason.as_str()) - product::drops(&before, reason.as_str());
        if dropped != u64::from(TIMES) {
            miscounted.push(format!("{what}: {dropped} of {TIMES} as {reason}"));
        }
    }
    let seen = if miscounted.is_empty() {
        format!("{} kinds, {TIMES} each", odd.len())
    } else {
        miscounted.join("; ")
    };
    findings.check(
        "odd frames are counted by their reasons",
        miscounted.is_empty(),
        seen,
    );
    // With its health checks again, as whatever comes next expects it.
    lab.product().apply("lab.yaml", &documents::all(lab.tier))
}

pub(super) fn offloads(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    for (name, address) in [
        ("IPv4", std::net::IpAddr::from(VIP4)),
        ("IPv6", VIP6.into()),
    ] {
        // Nothing broken may reach a socket. A super-frame that a tier cannot carry is counted, and TCP sends it again in pieces,
        // one timeout at a time: a part of the file is enough.
        let last = PART_BYTES - 1;
        let url = format!("http://{}/large", crate::topology::socket(address, 80));
        let part = curl(&["--max-time", "60", "--range", &format!("0-{last}"), &url])?;
        let intact = part.len() == PART_BYTES
            && part
                .bytes()
                .enumerate()
                .all(|(at, byte)| usize::from(byte - b'a') == at % 23);
        findings.check(
            format!("{name}: a body of many segments is intact"),
            intact,
            format_args!("{} bytes", part.len()),
        );
        for kind in [Kind::Udp, Kind::Http] {
            let port = if kind == Kind::Udp { 9000 } else { 80 };
            let load = Load::start(&Plan::new(kind, address, port).rate(300))?;
            load.more(600, WITHIN)?;
            check_spread(
                findings,
                &format!("{kind:?} {name} with partial checksums"),
                &load.finish()?,
            );
        }
    }
    for namespace in ["client", "b1", "b2", "b3"] {
        let broken = broken_checksums(namespace)?;
        findings.equal(
            format!("{namespace}: packets received with a bad checksum"),
            &broken,
            &0,
        );
    }
    lab.product()
        .apply("quiet.yaml", &documents::without_checks(lab.tier))?;
    let telemetry = at_rest(lab)?;
    for name in ["wan", "lan"] {
        check_port(findings, &telemetry, product::port(&telemetry, name)?);
    }
    Ok(())
}

/// TCP and UDP packets that the stack of a namespace refused for their checksum.
fn broken_checksums(namespace: &str) -> Result<u64> {
    let counters = command::run("ip", ["netns", "exec", namespace, "nstat", "-asz"])?;
    let mut sum = 0;
    for line in counters.lines() {
        let mut words = line.split_whitespace();
        if let (
            Some("TcpInCsumErrors" | "UdpInCsumErrors" | "Udp6InCsumErrors" | "IcmpInCsumErrors"),
            Some(count),
        ) = (words.next(), words.next())
        {
            sum += count.parse::<u64>()?;
        }
    }
    Ok(sum)
}
