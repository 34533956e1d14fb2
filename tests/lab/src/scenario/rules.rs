//! What rules, mappings, limits and guards do to real packets, and that `explain` knows it beforehand.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::traffic::curl;
use crate::documents::{self, NODE};
use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan};
use crate::process::Process;
use crate::product::{self, PATIENCE};
use crate::servers::HTTP_PORT;
use crate::topology::{
    CLIENT4, DENIED4, PROXY_LAN4, ROUTED_VIP4, VIP4, VIP6, WAN, backend4, inside,
};
use crate::{command, poll};

const WITHIN: Duration = Duration::from_secs(30);

/// One document of any kind.
fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "---\napiVersion: marchproxy/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {{ {spec} }}\n"
    )
}

/// A command in a namespace, its output and error together.
pub(super) fn shell(namespace: &str, words: &[&str]) -> Result<String> {
    let [program, arguments @ ..] = words else {
        return Ok(String::new());
    };
    let finished = command::finish(inside(namespace, program).args(arguments))?;
    Ok(finished.stdout + &finished.stderr)
}

/// A capture in a namespace that ends with its first packet, or with its time.
struct Capture(Process);

impl Capture {
    fn start(name: &str, namespace: &str, interface: &str, filter: &str) -> Result<Self> {
        let mut command = inside(namespace, "timeout");
        command.args([
            "20", "tcpdump", "-n", "-e", "-c", "1", "-i", interface, filter,
        ]);
        let process = Process::start(name, command)?;
        poll::until_ok("tcpdump listens", PATIENCE, || {
            let said = process.log_tail();
            ensure!(said.contains("listening on"), "{said}");
            Ok(())
        })?;
        Ok(Self(process))
    }

    /// The packet, in words.
    fn packet(mut self) -> Result<String> {
        let status = poll::until_ok("tcpdump has ended", WITHIN, || {
            self.0.ended().context("it still runs")
        })?;
        let said = self.0.log_tail();
        ensure!(status == 0, "no such packet: {said}");
        Ok(said.lines().last().unwrap_or_default().trim().to_owned())
    }
}

pub(super) fn actions(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let to_vip =
        |port: u16| format!("destinations: [\"{VIP4}/32\"], ports: [{port}], protocol: tcp");
    let rules = [
        documents::rule("reject-tcp", 10, &to_vip(8081), "reject"),
        documents::rule(
            "reject-ping",
            11,
            "destinations: [\"10.0.1.0/24\"], protocol: icmp",
            "reject",
        ),
        documents::rule(
            "to-service",
            12,
            &format!("destinations: [\"{ROUTED_VIP4}/32\"], ports: [8181], protocol: tcp"),
            "redirect, redirect: { service: web4 }",
        ),
        documents::rule(
            "to-address",
            13,
            &to_vip(8282),
            &format!(
                "redirect, redirect: {{ address: {:?}, port: {HTTP_PORT} }}",
                backend4(1).to_string()
            ),
        ),
        documents::rule("counted", 14, &to_vip(80), "count, mark: ef"),
        documents::rule(
            "copied",
            15,
            &to_vip(9001),
            "allow, mirror: { port: lan, packetsPerSecond: 1000 }",
        ),
        documents::rule("never", 16, &to_vip(9999), "drop"),
    ];
    lab.product().apply("actions.yaml", &rules.concat())?;
    refused_and_redirected(findings)?;
    marked_and_copied(findings)?;
    told_of(lab, findings)
}

fn refused_and_redirected(findings: &mut Findings) -> Result<()> {
    let refused = curl(&[&format!("http://{VIP4}:8081/")]).unwrap_err();
    findings.check(
        "reject: TCP is refused at once",
        refused.to_string().contains("refused") || refused.to_string().contains("status 7"),
        "connection refused",
    );
    let backend = backend4(1).to_string();
    let ping = shell("client", &["ping", "-n", "-c", "1", "-W", "2", &backend])?;
    findings.check(
        "reject: all else hears that it is prohibited",
        ping.contains("filtered"),
        ping.lines().nth(1).unwrap_or("no answer").to_owned(),
    );
    let answer = curl(&[&format!("http://{ROUTED_VIP4}:8181/")])?;
    findings.check(
        "redirect to a service: one of its backends answers",
        answer.starts_with('b'),
        answer.trim_end(),
    );
    let answer = curl(&[&format!("http://{VIP4}:8282/")])?;
    findings.equal(
        "redirect to an address: that one answers",
        &answer.trim_end(),
        &"b2",
    );

    Ok(())
}

fn marked_and_copied(findings: &mut Findings) -> Result<()> {
    let filter =
        format!("tcp dst port {HTTP_PORT} and ip[1] & 0xfc = 0xb8 and src host {PROXY_LAN4}");
    let marked: Result<Vec<Capture>> = ["b1", "b2", "b3"]
        .iter()
        .map(|name| Capture::start(&format!("tcpdump-{name}"), name, "eth0", &filter))
        .collect();
    let marked = marked?;
    for _ in 0..30 {
        curl(&[&format!("http://{VIP4}/")])?;
    }
    let seen: Vec<String> = marked
        .into_iter()
        .filter_map(|capture| capture.packet().ok())
        .collect();
    findings.check(
        "mark: backends see DSCP EF",
        !seen.is_empty(),
        format_args!("on {} of 3 backends", seen.len()),
    );

    let copy = Capture::start(
        "tcpdump-copy",
        "b1",
        "eth0",
        &format!("tcp dst port 9001 and dst host {VIP4}"),
    )?;
    shell(
        "client",
        &[
            "curl",
            "-sS",
            "--max-time",
            "2",
            &format!("telnet://{VIP4}:9001"),
        ],
    )?;
    let copy = copy.packet();
    findings.check(
        "mirror: the copy is as the packet came",
        copy.is_ok(),
        copy.unwrap_or_else(|error| error.to_string()),
    );

    Ok(())
}

fn told_of(lab: &Lab, findings: &mut Findings) -> Result<()> {
    let table = lab.product().ctl_ok(["get", "rules", "-o", "wide"])?;
    let row = |name: &str| {
        table
            .lines()
            .find(|line| line.starts_with(name))
            .unwrap_or_default()
            .to_owned()
    };
    findings.check(
        "get rules -o wide: hits and place",
        row("counted").contains("fast path") && !row("counted").contains(" 0 "),
        row("counted")
            .split_whitespace()
            .collect::<Vec<_>>()
            .join(" "),
    );
    let unused = lab
        .product()
        .ctl_ok(["get", "rules", "--unused", "-o", "name"])?;
    let unused: Vec<&str> = unused.lines().collect();
    findings.equal(
        "get rules --unused",
        &unused,
        &vec!["Rule/deny-one-client", "Rule/never"],
    );
    Ok(())
}

/// What a port says of packets that no rule decides about, and what it guards.
fn wan(lab: &Lab, rest: &str) -> String {
    format!(
        "---\napiVersion: marchproxy/v1\nkind: Port\nmetadata: {{ name: wan }}\n\
         spec: {{ node: {NODE}, interface: {WAN}, tier: {:?}, {rest} }}\n",
        lab.tier.asked_for()
    )
}

fn reaches(url: &str, source: &str) -> bool {
    curl(&["--max-time", "2", "--interface", source, url]).is_ok()
}

fn counted(lab: &Lab, reason: &str) -> Result<u64> {
    Ok(product::drops(&lab.product().fresh_telemetry()?, reason))
}

pub(super) fn mappings(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let url = format!("http://{VIP4}/");
    let client = CLIENT4.to_string();
    lab.product()
        .apply("deny.yaml", &wan(lab, "default: { services: deny }"))?;
    findings.check(
        "services denied by default: no answer",
        !reaches(&url, &client),
        "no answer",
    );
    let denied = counted(lab, "default_deny")?;
    findings.check("counted as default_deny", denied > 0, denied);

    let office = document("AddressSet", "office", &format!("prefixes: [{CLIENT4}/32]"));
    let mapping = |state: &str| {
        document(
            "Mapping",
            "office-to-web",
            &format!("sources: [office], destinations: [web4], approval: {{ state: {state} }}"),
        )
    };
    lab.product()
        .apply("pending.yaml", &(office + &mapping("pending")))?;
    findings.check(
        "a mapping that is pending opens nothing",
        !reaches(&url, &client),
        "no answer",
    );
    lab.product().apply("approved.yaml", &mapping("approved"))?;
    findings.check("approved: answers", reaches(&url, &client), "200");
    let udp = format!("{client}:40000");
    let (from, to) = (udp.as_str(), format!("{VIP4}:80"));
    let told = lab
        .product()
        .ctl_ok(["explain", "--port", "wan", from, &to])?;
    findings.check(
        "explain traces it back to the mapping",
        told.contains("office-to-web"),
        told.lines()
            .find(|line| line.contains("office-to-web"))
            .unwrap_or("it does not")
            .trim()
            .to_owned(),
    );
    lab.product().apply("rejected.yaml", &mapping("rejected"))?;
    findings.check(
        "rejected: no answer again",
        !reaches(&url, &client),
        "no answer",
    );
    Ok(())
}

pub(super) fn guarded(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    lab.product()
        .ctl_ok(["delete", "rule", "deny-one-client"])?;
    let url = format!("http://{VIP4}/");
    let (bad, good) = (DENIED4.to_string(), CLIENT4.to_string());
    findings.check("before: both answer", reaches(&url, &bad), "200");
    let set = document("AddressSet", "bad", &format!("prefixes: [{DENIED4}/32]"));
    lab.product()
        .apply("guard.yaml", &(set + &wan(lab, "guard: { block: [bad] }")))?;
    findings.check(
        "a blocked source: no answer",
        !reaches(&url, &bad),
        "no answer",
    );
    findings.check("another source: answers", reaches(&url, &good), "200");
    let blocked = counted(lab, "blocked")?;
    findings.check("counted as blocked", blocked > 0, blocked);
    lab.product()
        .ctl_ok(["set", "add", "bad", "203.0.113.0/24"])?;
    lab.product()
        .ctl_ok(["set", "remove", "bad", &format!("{DENIED4}/32")])?;
    findings.check("taken out of the set: answers", reaches(&url, &bad), "200");

    let limit = document("RateLimit", "slow", "per: shared, packets: 100, burst: 100");
    let rule = documents::rule(
        "slow-udp",
        20,
        &format!("destinations: [\"{VIP4}/32\"], ports: [9000], protocol: udp"),
        "allow, rateLimit: slow",
    );
    lab.product().apply("limit.yaml", &(limit + &rule))?;
    let limited = Load::start(&Plan {
        patience_ms: 500,
        ..Plan::new(Kind::Udp, VIP4, 9000).flows(4).rate(400)
    })?;
    let free = Load::start(&Plan::new(Kind::Udp, VIP6, 9000).flows(4).rate(200))?;
    let seen = limited.until("requests are lost", WITHIN, |report| report.lost >= 1_000)?;
    findings.check(
        "a limited rule: some are answered, most are not",
        seen.right > 20 && seen.right < seen.lost,
        seen.tally(),
    );
    let free = free.finish()?;
    findings.check(
        "another service: none is lost",
        free.lost == 0,
        free.tally(),
    );
    let dropped = counted(lab, "rate_limited")?;
    findings.check("counted as rate_limited", dropped > 0, dropped);
    limited.finish()?;
    Ok(())
}

/// Prefixes of the large set.
const MILLION: u32 = 1_000_000;

pub(super) fn large_set(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    use std::fmt::Write as _;
    let mut text = String::new();
    for number in 0..MILLION {
        // Spread over 11.0.0.0/8 to 26.0.0.0/8, none of which the lab uses.
        let address = std::net::Ipv4Addr::from(0x0b00_0000 + number * 241);
        writeln!(text, "{address}/32")?;
    }
    let file = lab.product().write("million.txt", &text)?;
    let load = Load::start(&Plan::new(Kind::Udp, VIP4, 9000).flows(8).rate(200))?;
    lab.product()
        .ctl_ok(["set", "load", "million", &file.to_string_lossy()])?;
    lab.product()
        .apply("guard.yaml", &wan(lab, "guard: { block: [million] }"))?;
    let database = lab.product().state.join("marchd").join("marchd.db");
    let size = || -> Result<u64> {
        // What is not yet in the main file counts too.
        let log = database.with_extension("db-wal");
        Ok(std::fs::metadata(&database)?.len()
            + std::fs::metadata(log).map_or(0, |meta| meta.len()))
    };
    let before = size()?;
    let blocked = DENIED4.to_string();
    let url = format!("http://{VIP4}/");
    lab.product()
        .ctl_ok(["delete", "rule", "deny-one-client"])?;
    findings.check("not in the set: answers", reaches(&url, &blocked), "200");
    let mut times = Vec::new();
    for _ in 0..5 {
        for verb in ["add", "remove"] {
            let done = lab.product().ctl_ok([
                "set",
                verb,
                "million",
                &format!("{DENIED4}/32"),
                "-o",
                "json",
            ])?;
            let done: Value = serde_json::from_str(&done)?;
            if let Some(time) = done["nodes"][0]["commitToAckUs"].as_u64() {
                times.push(time);
            }
        }
    }
    lab.product()
        .ctl_ok(["set", "add", "million", &format!("{DENIED4}/32")])?;
    findings.check(
        "one prefix added: blocked",
        !reaches(&url, &blocked),
        "no answer",
    );
    times.sort_unstable();
    findings.figure(
        "commit to running, one prefix of a million (ms)",
        format_args!(
            "median {}, worst {}",
            times.get(times.len() / 2).copied().unwrap_or(0) / 1000,
            times.last().copied().unwrap_or(0) / 1000
        ),
    );
    let grown = (size()?.saturating_sub(before)) / 11;
    findings.check(
        "the database grows by less than 1 MB for each",
        grown < 1 << 20,
        format_args!("{} KB", grown >> 10),
    );
    let report = load.finish()?;
    findings.check(
        "traffic meanwhile: none is lost",
        report.lost == 0,
        report.tally(),
    );
    Ok(())
}
