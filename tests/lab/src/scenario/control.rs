//! The control plane comes, goes and changes its mind; the data plane must not notice.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use march_proto::v1::NodeState;

use super::traffic::check_spread;
use crate::documents;
use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan, Report};
use crate::poll;
use crate::product::PATIENCE;
use crate::topology::{VIP4, VIP6};

const WITHIN: Duration = Duration::from_mins(1);

fn unharmed(findings: &mut Findings, what: &str, report: &Report) {
    let good = report.wrong == 0 && report.lost == 0 && report.broken == 0 && report.moved == 0;
    findings.check(what, good, report.tally());
}

/// The node's generation once it has stood still: hosts meet for some seconds after a start, and each neighbour is a generation.
fn settled_generation(lab: &Lab) -> Result<u64> {
    const STILL: Duration = Duration::from_secs(8);
    let mut last = (0, Instant::now());
    poll::until_ok(
        "the generation stands still",
        Duration::from_mins(1),
        || {
            let now = lab.product().metric("marchproxy_node_generation")?;
            if now != last.0 {
                last = (now, Instant::now());
            }
            ensure!(last.1.elapsed() >= STILL, "generation {now} is new");
            Ok(now)
        },
    )
}

pub(super) fn daemon_killed(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let udp = Load::start(&Plan::new(Kind::Udp, VIP4, 9000).rate(300))?;
    let web = Load::start(&Plan::new(Kind::Http, VIP6, 80).rate(100))?;
    udp.more(200, WITHIN)?;
    let generation = settled_generation(lab)?;
    let revision = lab.product().node_status()?.running_revision;

    if let Some(mut daemon) = lab.product_mut().daemon.take() {
        daemon.kill()?;
    }
    udp.more(600, WITHIN)?;
    web.more(200, WITHIN)?;
    lab.product_mut().start_daemon()?;
    poll::until_ok("the node is back and runs the revision", PATIENCE, || {
        let status = lab.product().node_status()?;
        ensure!(
            status.state() == NodeState::Running && status.running_revision == revision,
            "{:?}",
            status.state()
        );
        Ok(())
    })?;
    udp.more(300, WITHIN)?;
    let telemetry = lab.product().fresh_telemetry()?;
    // A daemon knows the timings of each push that was acknowledged since it started.
    let pushed = lab.product().node_status()?.timings;
    findings.check(
        "after the restart: no push",
        pushed.is_none(),
        format_args!("{pushed:?}"),
    );
    findings.equal(
        "generation after the restart",
        &lab.product().metric("marchproxy_node_generation")?,
        &generation,
    );
    findings.equal("revision after the restart", &telemetry.revision, &revision);
    unharmed(findings, "datagrams throughout", &udp.finish()?);
    unharmed(findings, "HTTP requests throughout", &web.finish()?);

    // The daemon works as before: a change goes through.
    lab.product()
        .apply("weights.yaml", &documents::weighted_echo_pool([2, 1, 1]))?;
    let after = lab.product().node_status()?.running_revision;
    findings.equal(
        "the next change is the next revision",
        &after,
        &(revision + 1),
    );
    Ok(())
}

pub(super) fn node_alone(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let product = lab.product_mut();
    if let Some(mut daemon) = product.daemon.take() {
        daemon.kill()?;
    }
    if let Some(mut node) = product.node.take() {
        node.kill()?;
    }
    product.start_node()?;
    for (name, plan) in [
        ("HTTP from last-good, IPv4", Plan::new(Kind::Http, VIP4, 80)),
        ("HTTP from last-good, IPv6", Plan::new(Kind::Http, VIP6, 80)),
        (
            "UDP from last-good, IPv4",
            Plan::new(Kind::Udp, VIP4, 9000).flows(30),
        ),
    ] {
        // Until the first answer the node may still be starting; a load of its own must then lose nothing.
        let first = Load::start(&Plan {
            patience_ms: 500,
            ..plan.clone()
        })?;
        first.until("answers from last-good", WITHIN, |report| report.right > 50)?;
        drop(first);
        let load = Load::start(&plan)?;
        load.more(300, WITHIN)?;
        check_spread(findings, name, &load.finish()?);
    }
    lab.product_mut().start_daemon()?;
    lab.product_mut().wait_connected()?;
    poll::until_ok("the node runs the head", PATIENCE, || {
        let status = lab.product().node_status()?;
        ensure!(
            status.state() == NodeState::Running && status.running_revision == status.head_revision,
            "{:?}",
            status.state()
        );
        Ok(())
    })?;
    findings.check(
        "marchd back: the node is connected and runs the head",
        true,
        "running",
    );
    Ok(())
}

pub(super) fn config_changes(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    const CHANGES: u16 = 100;
    let plan = Plan::new(Kind::Udp, VIP4, 9000).flows(32).rate(400);
    // Control run: the same load, nothing changes.
    let control = Load::start(&plan)?;
    control.more(2000, WITHIN)?;
    unharmed(findings, "control run", &control.finish()?);

    let before = lab.product().node_status()?.running_revision;
    let udp = Load::start(&plan)?;
    let web = Load::start(&Plan::new(Kind::Http, VIP4, 80).rate(100))?;
    let streams = Load::start(&Plan::new(Kind::Stream, VIP6, 9001).rate(200))?;
    udp.more(100, WITHIN)?;
    for change in 0..CHANGES {
        let weights = [1 + change % 3, 2 + change % 2, 1 + change % 5];
        // Every third one moves the policy epoch too: flows are re-checked at their next packet.
        let rule = documents::rule(
            "deny-nobody",
            300 + u32::from(change / 3),
            "sources: [\"192.0.2.99/32\"]",
            "drop",
        );
        lab.product().apply(
            "change.yaml",
            &(documents::weighted_echo_pool(weights) + &rule),
        )?;
    }
    udp.more(200, WITHIN)?;
    let after = lab.product().node_status()?;
    findings.equal(
        "revisions",
        &(after.running_revision - before),
        &u64::from(CHANGES),
    );
    if let Some(timings) = after.timings {
        findings.figure(
            "last change, push to running",
            format_args!(
                "{:.1} ms",
                f64::from(u32::try_from(timings.running_us).unwrap_or(u32::MAX)) / 1e3
            ),
        );
    }
    for (what, load) in [
        ("datagrams", udp),
        ("HTTP requests", web),
        ("streams", streams),
    ] {
        unharmed(
            findings,
            &format!("{what} through {CHANGES} changes"),
            &load.finish()?,
        );
    }
    Ok(())
}

pub(super) fn same_again(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let before = lab.product().fresh_telemetry()?;
    let again = lab
        .product()
        .try_apply("again.yaml", &documents::all(lab.tier))?;
    findings.equal("apply of the same again", &again.status, &0);
    let diff = lab.product().ctl([
        "diff",
        "-f",
        &lab.product()
            .write("again.yaml", &documents::all(lab.tier))?
            .to_string_lossy(),
    ])?;
    findings.equal("diff of the same", &diff.status, &0);
    let after = lab.product().fresh_telemetry()?;
    findings.equal("revision", &after.revision, &before.revision);
    findings.equal("generation", &after.generation, &before.generation);
    let changed = lab
        .product()
        .write("changed.yaml", &documents::weighted_echo_pool([5, 1, 1]))?;
    let diff = lab
        .product()
        .ctl(["diff", "-f", &changed.to_string_lossy()])?;
    findings.equal("diff of something else", &diff.status, &1);
    Ok(())
}
