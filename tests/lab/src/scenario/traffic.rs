//! Plain traffic: does it get there, is it right, how is it spread, how much of it.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan, Report};
use crate::servers::LARGE_BYTES;
use crate::topology::{self, BACKENDS, PROXY_LAN4, PROXY4, PROXY6, ROUTED_VIP4, VIP4, VIP6};
use crate::{command, product};

const WITHIN: Duration = Duration::from_secs(30);

/// curl once; the body of the answer.
pub(super) fn curl(arguments: &[&str]) -> Result<String> {
    let mut words = vec![
        "netns",
        "exec",
        "client",
        "curl",
        "-sS",
        "--max-time",
        "10",
        "--fail",
    ];
    words.extend(arguments);
    command::run("ip", words)
}

fn families() -> [(&'static str, IpAddr); 2] {
    [("IPv4", VIP4.into()), ("IPv6", VIP6.into())]
}

/// Every backend answers, and nothing but right answers come.
pub(super) fn check_spread(findings: &mut Findings, what: &str, report: &Report) {
    findings.check(
        format!("{what}: answers"),
        report.wrong == 0 && report.lost == 0,
        report.tally(),
    );
    let all = BACKENDS.iter().all(|name| report.of(name) > 0);
    findings.check(format!("{what}: spread"), all, report.spread());
}

pub(super) fn http(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    for (name, address) in [
        ("HTTP IPv4", IpAddr::from(VIP4)),
        ("HTTP IPv6", VIP6.into()),
        ("HTTP routed VIP", ROUTED_VIP4.into()),
    ] {
        let url = format!("http://{}/", topology::socket(address, 80));
        let body = curl(&[&url])?;
        findings.check(
            format!("{name}: curl"),
            BACKENDS.contains(&body.trim_end()),
            body.trim_end(),
        );

        let load = Load::start(&Plan::new(Kind::Http, address, 80).rate(400))?;
        load.more(600, WITHIN)?;
        check_spread(findings, name, &load.finish()?);

        let large = curl(&[&format!("{url}large")])?;
        let intact = large.len() == LARGE_BYTES
            && large
                .bytes()
                .enumerate()
                .all(|(at, byte)| usize::from(byte - b'a') == at % 23);
        findings.check(
            format!("{name}: a large body is intact"),
            intact,
            format_args!("{} bytes", large.len()),
        );
    }
    if lab.has_product() && lab.tier.is_fast() {
        let telemetry = lab.product().fresh_telemetry()?;
        let web = product::service(&telemetry, "web4")?;
        findings.check(
            "the service's counters saw it",
            web.packets > 0 && web.reply_packets > 0,
            format_args!("{} packets, {} replies", web.packets, web.reply_packets),
        );
    }
    Ok(())
}

pub(super) fn udp(_: &mut Lab, findings: &mut Findings) -> Result<()> {
    for (name, address) in families() {
        let load = Load::start(&Plan::new(Kind::Udp, address, 9000).flows(30).rate(600))?;
        load.more(1500, WITHIN)?;
        let report = load.finish()?;
        check_spread(findings, &format!("UDP {name}"), &report);
        findings.equal(
            format!("UDP {name}: flows that changed their backend"),
            &report.moved,
            &0,
        );

        let sizes = Load::start(&Plan::new(Kind::Udp, address, 9000).size(1400).rate(200))?;
        sizes.more(200, WITHIN)?;
        let report = sizes.finish()?;
        findings.check(
            format!("UDP {name}: large datagrams"),
            report.wrong == 0 && report.lost == 0,
            report.tally(),
        );
    }
    Ok(())
}

pub(super) fn stream(_: &mut Lab, findings: &mut Findings) -> Result<()> {
    for (name, address) in families() {
        let load = Load::start(
            &Plan::new(Kind::Stream, address, 9001)
                .flows(24)
                .rate(600)
                .size(3000),
        )?;
        load.more(1500, WITHIN)?;
        let report = load.finish()?;
        check_spread(findings, &format!("TCP streams {name}"), &report);
        findings.equal(format!("TCP streams {name}: broken"), &report.broken, &0);
    }
    Ok(())
}

/// iperf3 through a VIP: bits per second that arrived.
fn iperf(address: IpAddr) -> Result<f64> {
    let target = address.to_string();
    let output = command::run(
        "ip",
        [
            "netns", "exec", "client", "iperf3", "-J", "-t", "3", "-c", &target,
        ],
    )?;
    let json: serde_json::Value = serde_json::from_str(&output)?;
    json["end"]["sum_received"]["bits_per_second"]
        .as_f64()
        .with_context(|| format!("iperf3 reports no bandwidth: {output:.400}"))
}

pub(super) fn throughput(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    for (name, address) in families() {
        let bits = iperf(address)?;
        findings.check(
            format!("iperf3 {name}"),
            bits > 1e6,
            format_args!("{:.2} Gbit/s", bits / 1e9),
        );
    }
    // Answered datagrams per second: twice that many packets pass each port. More is asked for than can be answered.
    let load = Load::start(&Plan {
        patience_ms: 500,
        ..Plan::new(Kind::Udp, VIP4, 9000).flows(64).rate(60_000)
    })?;
    let first = load.more(500, WITHIN)?;
    let started = std::time::Instant::now();
    let last = load.more(30_000, WITHIN)?;
    #[expect(clippy::cast_precision_loss, reason = "a count of a short run")]
    let answered = (last.right - first.right) as f64 / started.elapsed().as_secs_f64();
    findings.figure(
        "datagrams answered per second",
        format_args!("{:.0} k", answered / 1e3),
    );
    let report = load.finish()?;
    findings.equal("wrong answers at full speed", &report.wrong, &0);
    if lab.has_product() && lab.tier.is_fast() {
        let telemetry = lab.product().fresh_telemetry()?;
        ensure!(!telemetry.lcores.is_empty(), "no lcore reports");
    }
    Ok(())
}

pub(super) fn ping(_: &mut Lab, findings: &mut Findings) -> Result<()> {
    let own: [(&str, IpAddr); 3] = [
        ("own IPv4 address", PROXY4.into()),
        ("own IPv6 address", PROXY6.into()),
        ("own address of the other port", PROXY_LAN4.into()),
    ];
    let vips: [(&str, IpAddr); 3] = [
        ("IPv4 VIP", VIP4.into()),
        ("IPv6 VIP", VIP6.into()),
        ("routed VIP", ROUTED_VIP4.into()),
    ];
    for (name, address) in own.into_iter().chain(vips) {
        let target = address.to_string();
        let output = command::finish(
            topology::inside("client", "ping")
                .args(["-n", "-c", "5", "-i", "0.2", "-W", "2", &target]),
        )?;
        let summary = output
            .stdout
            .lines()
            .find(|line| line.contains("received"))
            .unwrap_or("no answer")
            .to_owned();
        // A duplicate means that two stacks answer.
        let good = output.status == 0
            && summary.contains(" 5 received")
            && !summary.contains("duplicates");
        findings.check(format!("ping of the {name}"), good, summary);
    }
    Ok(())
}
