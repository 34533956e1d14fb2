//! Counters and drops.

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, SystemTime};

use march_proto::v1;
use tokio_stream::StreamExt;

use crate::args::{DropsArgs, Output, StatsArgs};
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::history::utc;
use crate::output;
use crate::table::Table;

pub(crate) async fn stats(socket: &Path, output: Output, args: StatsArgs) -> Result<Code, Failure> {
    let nodes = control(socket)
        .await?
        .nodes(v1::NodesRequest { node: args.node })
        .await?
        .into_inner()
        .nodes;
    output::value(output, &nodes, || match output {
        Output::Name => nodes
            .iter()
            .fold(String::new(), |text, node| format!("{text}{}\n", node.node)),
        _ => {
            let texts: Vec<String> = nodes.iter().map(node_text).collect();
            texts.join("\n")
        }
    })?;
    if nodes.is_empty() {
        eprintln!("no node ever connected");
    }
    Ok(Code::Ok)
}

fn node_text(node: &v1::NodeStatus) -> String {
    let mut text = format!(
        "node {}: {}, revision {}",
        node.node,
        node.state().word(),
        node.running_revision
    );
    let Some(telemetry) = &node.telemetry else {
        return text + ", no telemetry yet\n";
    };
    let flows = telemetry.flows.unwrap_or_default();
    let _ = writeln!(
        text,
        ", generation {}, heard {} ms ago\nflows: {} live of {}, {} created, {} expired",
        telemetry.generation,
        node.silent_ms,
        flows.live,
        flows.capacity,
        flows.created,
        flows.expired
    );
    if flows.embryonic_capacity > 0 {
        let flood = if flows.flood_mode > 0 {
            ", flood mode"
        } else {
            ""
        };
        let _ = writeln!(
            text,
            "handshakes: {} of {}, {} made room{flood}",
            flows.embryonic, flows.embryonic_capacity, flows.embryonic_evicted
        );
    }
    if let Some(sources) = telemetry.sources {
        let _ = writeln!(
            text,
            "sources: {} followed of {}, {} forgotten early",
            sources.tracked, sources.capacity, sources.evicted
        );
    }
    text.push('\n');
    text += &ports_table(&telemetry.ports).to_text();
    if !telemetry.services.is_empty() {
        text.push('\n');
        text += &services_table(&telemetry.services).to_text();
    }
    if !telemetry.lcores.is_empty() {
        text.push('\n');
        text += &lcores_table(&telemetry.lcores).to_text();
    }
    text
}

fn ports_table(ports: &[v1::PortTelemetry]) -> Table {
    let mut table = Table::new(&[
        "PORT",
        "TIER",
        "RX",
        "FORWARDED",
        "ANSWERED",
        "PUNTED",
        "HELD",
        "DROPPED",
        "TX",
        "FORWARDED IN",
        "ANSWERED OUT",
        "ORIGINATED",
    ]);
    for port in ports {
        let originated: u64 = port.originated.iter().map(|kind| kind.count).sum();
        table.row(vec![
            port.name.clone(),
            port.tier.clone(),
            port.rx_packets.to_string(),
            port.forwarded.to_string(),
            port.answered.to_string(),
            port.punted.to_string(),
            port.held.to_string(),
            port.dropped.to_string(),
            port.tx_packets.to_string(),
            port.forwarded_in.to_string(),
            port.answered_out.to_string(),
            originated.to_string(),
        ]);
    }
    table
}

fn services_table(services: &[v1::ServiceTelemetry]) -> Table {
    let mut table = Table::new(&[
        "SERVICE",
        "TIER",
        "FLOWS",
        "HALF OPEN",
        "NEW",
        "PACKETS",
        "BYTES",
        "REPLY PACKETS",
        "REPLY BYTES",
    ]);
    for service in services {
        table.row(vec![
            service.name.clone(),
            service.tier.clone(),
            service.active_flows.to_string(),
            service.half_open.to_string(),
            service.new_flows.to_string(),
            service.packets.to_string(),
            service.bytes.to_string(),
            service.reply_packets.to_string(),
            service.reply_bytes.to_string(),
        ]);
    }
    table
}

fn lcores_table(lcores: &[v1::LcoreTelemetry]) -> Table {
    let mut table = Table::new(&["LCORE", "CPU", "BUSY", "BURSTS", "PACKETS"]);
    for lcore in lcores {
        let total = lcore.busy_cycles.saturating_add(lcore.idle_cycles).max(1);
        let per_mille = u128::from(lcore.busy_cycles) * 1000 / u128::from(total);
        table.row(vec![
            lcore.lcore.to_string(),
            lcore.cpu.to_string(),
            format!("{}.{}%", per_mille / 10, per_mille % 10),
            lcore.bursts.to_string(),
            lcore.packets.to_string(),
        ]);
    }
    table
}

pub(crate) async fn drops(socket: &Path, output: Output, args: DropsArgs) -> Result<Code, Failure> {
    let mut client = control(socket).await?;
    if args.watch {
        let request = v1::WatchDropsRequest { node: args.node };
        let reports = client.watch_drops(request).await?.into_inner();
        return watch(output, reports, args.time).await;
    }
    let nodes = client
        .nodes(v1::NodesRequest { node: args.node })
        .await?
        .into_inner()
        .nodes;
    let reports: Vec<v1::DropReport> = nodes
        .into_iter()
        .filter_map(|node| {
            let totals = node.telemetry?.drops;
            Some(v1::DropReport {
                node: node.node,
                totals,
                ..Default::default()
            })
        })
        .collect();
    output::value(output, &reports, || drops_text(&reports, output))?;
    Ok(Code::Ok)
}

fn drops_text(reports: &[v1::DropReport], output: Output) -> String {
    let is_wide = output == Output::Wide;
    let mut headings = vec!["NODE", "PORT", "REASON", "PACKETS"];
    headings.extend(is_wide.then_some("MEANING"));
    let mut table = Table::new(&headings);
    for report in reports {
        let mut totals: Vec<&v1::DropTelemetry> = report
            .totals
            .iter()
            .filter(|drop| drop.packets > 0)
            .collect();
        totals.sort_by(|a, b| {
            b.packets
                .cmp(&a.packets)
                .then_with(|| a.reason.cmp(&b.reason))
        });
        for drop in totals {
            let mut cells = vec![
                report.node.clone(),
                drop.port.clone(),
                drop.reason.clone(),
                drop.packets.to_string(),
            ];
            cells.extend(is_wide.then(|| meaning(&drop.reason).to_owned()));
            table.row(cells);
        }
    }
    match output {
        Output::Name => {
            let mut reasons: Vec<&str> = reports
                .iter()
                .flat_map(|report| &report.totals)
                .filter(|drop| drop.packets > 0)
                .map(|drop| drop.reason.as_str())
                .collect();
            reasons.sort_unstable();
            reasons.dedup();
            reasons
                .into_iter()
                .fold(String::new(), |text, reason| format!("{text}{reason}\n"))
        }
        _ => table.to_text(),
    }
}

fn meaning(reason: &str) -> &'static str {
    let found = march_wire::DropReason::ALL
        .iter()
        .find(|known| known.as_str() == reason);
    found.map_or("", |reason| reason.help())
}

/// One line for each port and reason that grew, or one JSON object for each report.
async fn watch(
    output: Output,
    mut reports: tonic::Streaming<v1::DropReport>,
    time: Option<Duration>,
) -> Result<Code, Failure> {
    let end = async {
        match time {
            Some(time) => tokio::time::sleep(time).await,
            None => std::future::pending().await,
        }
    };
    tokio::pin!(end);
    loop {
        let report = tokio::select! {
            report = reports.next() => report,
            () = &mut end => return Ok(Code::Ok),
        };
        let Some(report) = report.transpose()? else {
            return Err(Failure::new(
                Code::Unavailable,
                "the daemon ended the watch",
            ));
        };
        match output {
            Output::Json | Output::Yaml => {
                let line = serde_json::to_string(&report).expect("a report is JSON");
                output::data(&format!("{line}\n"))?;
            }
            _ => output::data(&report_lines(&report))?,
        }
    }
}

fn report_lines(report: &v1::DropReport) -> String {
    let now = SystemTime::now()
        .duration_since(SystemTime::UNIX_EPOCH)
        .unwrap_or_default();
    let time = utc(now.as_secs());
    let total = |drop: &v1::DropTelemetry| {
        let found = report
            .totals
            .iter()
            .find(|other| other.port == drop.port && other.reason == drop.reason);
        found.map_or(0, |found| found.packets)
    };
    report.since_last.iter().fold(String::new(), |text, drop| {
        format!(
            "{text}{time} {} {} {} +{} ({} in all)\n",
            report.node,
            drop.port,
            drop.reason,
            drop.packets,
            total(drop)
        )
    })
}
