//! What `explain` says of packets, and what becomes of the same packets.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use anyhow::{Result, ensure};
use serde_json::Value;

use super::rules::shell;
use super::traffic::curl;
use crate::findings::Findings;
use crate::lab::Lab;
use crate::process::Process;
use crate::product::{self, PATIENCE};
use crate::servers::lab_program;
use crate::topology::VIP4;
use crate::{documents, frames, poll, sandbox};

const WITHIN: Duration = Duration::from_secs(30);

/// How many packets are explained and then sent.
const PACKETS: usize = 1_000;

pub(super) fn sent_as_explained(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let to_vip =
        |port: u16| format!("destinations: [\"{VIP4}/32\"], ports: [{port}], protocol: tcp");
    let rules = [
        documents::rule("a-reject", 10, &to_vip(8081), "reject"),
        documents::rule(
            "b-redirect",
            11,
            &to_vip(8181),
            "redirect, redirect: { service: web4 }",
        ),
        documents::rule(
            "c-transit",
            12,
            "destinations: [\"10.0.1.0/24\"], ports: [\"5000-5999\"], protocol: udp",
            "allow",
        ),
        documents::rule(
            "d-odd",
            13,
            "sourcePorts: [\"30000-31000\"], protocol: udp",
            "drop",
        ),
    ];
    lab.product().apply("odd.yaml", &rules.concat())?;
    curl(&[&format!("http://{VIP4}/")])?;

    let sent = frames::random(PACKETS);
    let told = explained(lab, &sent)?;
    findings.equal("explained", &told.len(), &PACKETS);
    let happened = happened(&sent)?;
    compare(findings, &sent, &told, &happened);
    Ok(())
}

/// What the node says would happen to each of the frames.
fn explained(lab: &Lab, sent: &[Vec<u8>]) -> Result<Vec<Value>> {
    let file = sandbox::directory("captures")?.join("sent.pcap");
    frames::write_pcap(&file, sent)?;
    let file = file.to_string_lossy();
    let words = ["explain", "--pcap", &file, "--port", "wan", "-o", "json"];
    let told = lab.product().ctl_ok(words)?;
    Ok(serde_json::from_str(&told)?)
}

/// Sends the frames and returns what a trace saw of them, by their heads.
fn happened(sent: &[Vec<u8>]) -> Result<HashMap<Vec<u8>, Value>> {
    let list = sandbox::directory("captures")?.join("sent.hex");
    frames::write_hex(&list, sent)?;
    let mut trace = std::process::Command::new(product::binary("marchctl")?);
    trace.args([
        "--socket",
        product::SOCKET,
        "trace",
        "--filter",
        "in wan",
        "-c",
        "100000",
    ]);
    trace.args(["--for", "5m", "-o", "json"]);
    let trace = Process::start("trace", trace)?;
    poll::until_ok("the trace runs", PATIENCE, || {
        curl(&[&format!("http://{VIP4}/")])?;
        ensure!(!trace.log()?.is_empty(), "nothing recorded yet");
        Ok(())
    })?;
    let program = lab_program()?;
    let (program, list) = (program.to_string_lossy(), list.to_string_lossy());
    let replay = shell(
        "client",
        &[&program, "replay", "c0", &list, "--per-second", "400"],
    )?;
    ensure!(replay.is_empty(), "replay: {replay}");
    poll::until_ok("every packet was seen", WITHIN, || {
        let happened = events(&trace.log()?);
        let seen = sent
            .iter()
            .filter(|frame| happened.contains_key(&head(frame)));
        let seen = seen.count();
        ensure!(seen == sent.len(), "{seen} of {}", sent.len());
        Ok(happened)
    })
}

/// Verdict, reason and egress of an explanation or of an event.
fn outcome(value: &Value) -> [&str; 3] {
    ["verdict", "reason", "egress"].map(|field| value[field].as_str().unwrap_or_default())
}

/// Where a rewritten packet goes. The source port of a translation is drawn anew each time; this is not.
fn destination(text: &Value) -> &str {
    let after = text.as_str().and_then(|text| text.split("-> ").nth(1));
    after
        .and_then(|after| after.split([' ', ',']).next())
        .unwrap_or_default()
}

fn compare(
    findings: &mut Findings,
    sent: &[Vec<u8>],
    told: &[Value],
    happened: &HashMap<Vec<u8>, Value>,
) {
    let mut kinds = BTreeMap::new();
    let mut differences = Vec::new();
    for (frame, told) in sent.iter().zip(told) {
        let event = &happened[&head(frame)];
        let [verdict, reason, _] = outcome(told);
        *kinds.entry(format!("{verdict} {reason}")).or_insert(0) += 1;
        let (told_to, went_to) = (
            destination(&told["rewritten"]),
            destination(&event["after"]),
        );
        if outcome(told) != outcome(event) || verdict == "forward" && told_to != went_to {
            differences.push(format!(
                "{}: told {:?} {told_to}, happened {:?} {went_to}",
                event["before"],
                outcome(told),
                outcome(event)
            ));
        }
    }
    let kinds: Vec<String> = kinds
        .iter()
        .map(|(kind, count)| format!("{} {count}", kind.trim()))
        .collect();
    findings.figure("what was explained", kinds.join(", "));
    findings.check(
        "verdict, reason, egress and destination as explained",
        differences.is_empty(),
        format_args!(
            "{} differences {}",
            differences.len(),
            differences.first().cloned().unwrap_or_default()
        ),
    );
}

/// What a trace keeps of a frame.
fn head(frame: &[u8]) -> Vec<u8> {
    frame.iter().copied().take(192).collect()
}

/// The events of a trace's output, by the head of the packet as it came.
fn events(log: &str) -> HashMap<Vec<u8>, Value> {
    let parsed = log
        .lines()
        .filter_map(|line| serde_json::from_str::<Value>(line).ok());
    parsed
        .filter_map(|event| {
            let bytes = event["beforeHead"].as_array()?;
            let bytes: Option<Vec<u8>> = bytes
                .iter()
                .map(|byte| byte.as_u64().and_then(|byte| u8::try_from(byte).ok()))
                .collect();
            Some((bytes?, event))
        })
        .collect()
}
