//! The host that the product runs on: what it takes, it gives back.

use std::time::Duration;

use anyhow::{Result, ensure};

use crate::findings::Findings;
use crate::lab::Lab;
use crate::product::{self, PATIENCE};
use crate::topology::{self, LAN, PROXY4, WAN};
use crate::{command, documents, poll};

/// Addresses, routes and interfaces of the proxy namespace, and whether it forwards, in a form that can be compared.
fn belongings() -> Result<String> {
    let mut all = String::new();
    for words in [
        ["-o", "addr", "show"],
        ["-o", "-4", "route"],
        ["-o", "-6", "route"],
    ] {
        let mut arguments = vec!["-netns", "proxy"];
        arguments.extend(words);
        all += &command::run("ip", arguments)?;
    }
    let mut lines: Vec<String> = all
        .lines()
        .map(|line| {
            line.split_whitespace()
                .skip_while(|word| word.ends_with(':'))
                .collect::<Vec<_>>()
                .join(" ")
        })
        // The kernel makes link-local addresses and multicast routes by itself, at its own pace.
        .filter(|line| !line.contains("fe80:") && !line.contains("ff00:"))
        .collect();
    for key in [
        "net/ipv4/conf/wan0/forwarding",
        "net/ipv6/conf/wan0/forwarding",
    ] {
        lines.push(format!(
            "{key} = {}",
            command::run(
                "ip",
                ["netns", "exec", "proxy", "cat", &format!("/proc/sys/{key}")]
            )?
            .trim()
        ));
    }
    lines.sort_unstable();
    Ok(lines.join("\n"))
}

/// Lines of one but not of the other, for messages.
fn difference(before: &str, after: &str) -> String {
    let missing = before
        .lines()
        .filter(|line| !after.lines().any(|other| other == *line))
        .map(|line| format!("- {line}"));
    let new = after
        .lines()
        .filter(|line| !before.lines().any(|other| other == *line))
        .map(|line| format!("+ {line}"));
    missing.chain(new).collect::<Vec<_>>().join("; ")
}

fn check_given_back(findings: &mut Findings, what: &str, before: &str) {
    let outcome = poll::until_ok("everything is given back", Duration::from_secs(10), || {
        let after = belongings()?;
        ensure!(after == before, "{}", difference(before, &after));
        Ok(())
    });
    findings.check(
        what,
        outcome.is_ok(),
        outcome.map_or_else(|error| format!("{error:#}"), |()| "as before".to_owned()),
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
            "2",
            &PROXY4.to_string(),
        ],
    );
    findings.check(
        format!("{what}: the kernel answers ping"),
        ping.is_ok(),
        if ping.is_ok() {
            "1 received"
        } else {
            "no answer"
        },
    );
}

pub(super) fn given_back(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let stop = |lab: &mut Lab| -> Result<()> {
        if let Some(mut node) = lab.product_mut().node.take() {
            node.stop(PATIENCE)?;
        }
        Ok(())
    };
    // What belonged to the host before the product came: the lab's own addresses and routes.
    stop(lab)?;
    let before = belongings()?;
    for (interface, address) in [(WAN, "198.51.100.1/24"), (LAN, "10.0.1.1/24")] {
        findings.check(
            format!("after a stop: {interface} has its address"),
            before.contains(&format!("{interface} inet {address}")),
            address,
        );
    }
    let restart = |lab: &mut Lab| -> Result<()> {
        lab.product_mut().start_node()?;
        lab.product_mut().wait_connected()?;
        let wanted = lab.tier.asked_for();
        poll::until_ok("the ports are up", PATIENCE, || {
            let telemetry = lab.product().telemetry()?;
            let port = product::port(&telemetry, "wan")?;
            ensure!(
                port.tier == wanted && port.state == "up",
                "{} {}",
                port.tier,
                port.state
            );
            Ok(())
        })
    };
    restart(lab)?;
    stop(lab)?;
    check_given_back(findings, "after a second stop", &before);

    restart(lab)?;
    if let Some(mut node) = lab.product_mut().node.take() {
        node.kill()?;
    }
    let mut detach = topology::inside("proxy", product::binary("marchdp")?);
    detach.args([
        "--node",
        documents::NODE,
        "--socket",
        product::SOCKET,
        "--state-dir",
    ]);
    detach.arg(lab.product().state.join("node")).arg("--detach");
    let finished = command::finish(&mut detach)?;
    findings.equal("marchdp --detach after kill -9", &finished.status, &0);
    check_given_back(findings, "after kill -9 and --detach", &before);
    Ok(())
}

pub(super) fn default_route(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    command::ip_batch(Some("proxy"), "route add default via 198.51.100.2\n")?;
    let product = lab.start_product()?;
    let text = documents::ports("af_xdp");
    let finished = product.try_apply("ports.yaml", &text)?;
    let answer = format!("{}{}", finished.stderr, finished.stdout);
    let refused = poll::until_ok("wan is refused for the default route", PATIENCE, || {
        let telemetry = product.telemetry()?;
        let port = product::port(&telemetry, "wan")?;
        let reasons = format!("{:?} {answer}", port.reasons).to_lowercase();
        ensure!(
            port.tier != "af_xdp" && reasons.contains("default route"),
            "{} {} {:?}",
            port.tier,
            port.state,
            port.reasons
        );
        Ok(format!("{} {:?}", port.state, port.reasons))
    });
    match refused {
        Ok(reasons) => findings.check(
            "the interface of the default route is refused",
            true,
            reasons,
        ),
        Err(error) => findings.failure("the interface of the default route is refused", &error),
    }
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
            "2",
            &PROXY4.to_string(),
        ],
    );
    findings.check(
        "its kernel still answers",
        ping.is_ok(),
        if ping.is_ok() {
            "1 received"
        } else {
            "no answer"
        },
    );
    Ok(())
}
