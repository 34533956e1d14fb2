//! Rules: who is refused, what is said about it, and what passes without a service.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::traffic::curl;
use crate::documents;
use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan};
use crate::product::{self, PATIENCE};
use crate::servers::HTTP_PORT;
use crate::topology::{CLIENT4, DENIED4, VIP4, backend4};
use crate::{command, poll};

const WITHIN: Duration = Duration::from_secs(30);

pub(super) fn denied(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let before = product::drops(&lab.product().fresh_telemetry()?, "rule_drop");
    let url = format!("http://{VIP4}/");
    let refused = curl(&["--max-time", "2", "--interface", &DENIED4.to_string(), &url]);
    findings.check(
        "the denied client gets no answer",
        refused.is_err(),
        refused.unwrap_or_else(|_| "no answer".to_owned()),
    );
    let allowed = curl(&["--interface", &CLIENT4.to_string(), &url]);
    findings.check(
        "another client does",
        allowed.is_ok(),
        match &allowed {
            Ok(body) => body.trim_end().to_owned(),
            Err(error) => format!("{error:#}"),
        },
    );
    let after = product::drops(&lab.product().fresh_telemetry()?, "rule_drop");
    findings.check(
        "rule_drop is counted",
        after > before,
        format_args!("{before} before, {after} after"),
    );
    let shown = lab.product().ctl_ok(["drops"])?;
    let line = shown
        .lines()
        .find(|line| line.contains("rule_drop"))
        .unwrap_or("no line with rule_drop")
        .trim()
        .to_owned();
    findings.check(
        "`marchctl drops` shows it",
        line.contains("rule_drop") && line.contains("wan"),
        line,
    );
    Ok(())
}

/// What `marchctl explain` says about a tuple, as JSON.
fn explained(lab: &Lab, source: &str, destination: &str, port: &str) -> Result<serde_json::Value> {
    let (from, to) = (format!("{source}:40000"), format!("{destination}:{port}"));
    let output = lab
        .product()
        .ctl_ok(["explain", "--port", "wan", &from, &to, "-o", "json"])?;
    Ok(serde_json::from_str(&output)?)
}

/// An explanation in a line.
fn in_short(answer: &serde_json::Value) -> String {
    let words = ["verdict", "reason", "rule", "service", "backend"]
        .map(|field| answer[field].as_str().unwrap_or_default());
    words
        .into_iter()
        .filter(|word| !word.is_empty())
        .collect::<Vec<_>>()
        .join(" ")
}

pub(super) fn explain(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let (client, denied, vip) = (CLIENT4.to_string(), DENIED4.to_string(), VIP4.to_string());
    let answer = explained(lab, &client, &vip, "80")?;
    findings.check(
        "a request to the VIP",
        answer["verdict"] == "forward" && answer["service"] == "web4" && answer["egress"] == "lan",
        in_short(&answer),
    );
    let answer = explained(lab, &denied, &vip, "80")?;
    findings.check(
        "from the denied client",
        answer["verdict"] == "drop"
            && answer["reason"] == "rule_drop"
            && answer["rule"] == "deny-one-client",
        in_short(&answer),
    );
    let answer = explained(lab, &client, &vip, "81")?;
    findings.check(
        "to a port without a service",
        answer["verdict"] == "drop" && answer["reason"] == "no_service",
        in_short(&answer),
    );
    let flows = lab.product().fresh_telemetry()?.flows.unwrap_or_default();
    explained(lab, &client, &vip, "80")?;
    let again = lab.product().fresh_telemetry()?.flows.unwrap_or_default();
    findings.check(
        "explaining makes no flow",
        again.created == flows.created,
        format_args!("{} before, {} after", flows.created, again.created),
    );
    Ok(())
}

pub(super) fn transit(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let url = format!("http://{}:{HTTP_PORT}/", backend4(1));
    let before = product::drops(&lab.product().fresh_telemetry()?, "no_service");
    let refused = curl(&["--max-time", "2", &url]);
    findings.check(
        "without a rule: refused",
        refused.is_err(),
        format_args!("{:?}", refused.map_err(|_| "no answer")),
    );
    let after = product::drops(&lab.product().fresh_telemetry()?, "no_service");
    findings.check(
        "without a rule: counted as no_service",
        after > before,
        format_args!("{before} before, {after} after"),
    );

    let matching = format!(
        "sources: [\"198.51.100.0/24\"], destinations: [\"10.0.1.0/24\"], ports: [{HTTP_PORT}], protocol: tcp"
    );
    lab.product().apply(
        "transit.yaml",
        &documents::rule("allow-transit", 200, &matching, "allow"),
    )?;
    let allowed = curl(&[&url])?;
    findings.equal(
        "with a rule: carried to the very backend",
        &allowed.trim_end(),
        &"b2",
    );
    let ping = command::run(
        "ip",
        [
            "netns",
            "exec",
            "client",
            "ping",
            "-n",
            "-c",
            "1",
            "-W",
            "1",
            &backend4(1).to_string(),
        ],
    );
    findings.check(
        "with a rule: what it does not name is still refused",
        ping.is_err(),
        if ping.is_err() {
            "no answer"
        } else {
            "answered"
        },
    );

    lab.product().ctl_ok(["delete", "rule", "allow-transit"])?;
    let refused = curl(&["--max-time", "2", &url]);
    findings.check(
        "rule deleted: refused again",
        refused.is_err(),
        format_args!("{:?}", refused.map_err(|_| "no answer")),
    );
    Ok(())
}

pub(super) fn rule_added(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let plan = Plan {
        patience_ms: 700,
        ..Plan::new(Kind::Udp, VIP4, 9000).flows(8).rate(200)
    };
    let load = Load::start(&plan)?;
    let before = load.more(200, WITHIN)?;
    findings.check("before: answers", before.lost == 0, before.tally());
    let matching = format!("sources: [\"{CLIENT4}/32\"], ports: [9000], protocol: udp");
    lab.product().apply(
        "deny-udp.yaml",
        &documents::rule("deny-udp", 50, &matching, "drop"),
    )?;
    let denied = load.until("requests are lost", WITHIN, |report| report.lost >= 100)?;
    let still = load.until("more requests are lost", WITHIN, |report| {
        report.lost >= denied.lost + 100
    })?;
    findings.equal(
        "denied: answers to present flows",
        &(still.right - denied.right),
        &0,
    );
    poll::until_ok("policy_changed is counted", PATIENCE, || {
        let dropped = product::drops(&lab.product().telemetry()?, "policy_changed");
        ensure!(dropped > 0, "{dropped} so far");
        Ok(())
    })?;
    findings.check(
        "denied: counted as policy_changed",
        true,
        product::drops(&lab.product().telemetry()?, "policy_changed"),
    );
    lab.product().ctl_ok(["delete", "rule", "deny-udp"])?;
    let again = load.more(200, WITHIN)?;
    findings.check("rule deleted: answers again", true, again.tally());
    findings.equal("wrong answers", &load.finish()?.wrong, &0);
    Ok(())
}
