//! Broken input and a broken world: each gets a clear error that names the thing, nothing is half-applied, forwarding goes on.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::command::Finished;
use crate::findings::Findings;
use crate::lab::Lab;
use crate::load::{Kind, Load, Plan};
use crate::process::Process;
use crate::product::{self, PATIENCE, Product};
use crate::topology::{self, VIP4};
use crate::{command, documents, poll, sandbox};

const WITHIN: Duration = Duration::from_secs(30);
/// Exit code of `marchctl` for documents that are wrong.
const INVALID: i32 = 3;

/// A set of documents with one thing wrong, and words that the error must contain.
struct Mistake {
    what: &'static str,
    text: String,
    words: &'static [&'static str],
}

fn document(kind: &str, name: &str, spec: &str) -> String {
    format!(
        "apiVersion: marchproxy/v1\nkind: {kind}\nmetadata: {{ name: {name} }}\nspec: {spec}\n---\n"
    )
}

fn mistakes() -> Vec<Mistake> {
    let pool = document(
        "Pool",
        "p",
        "{ backends: [ { address: 10.0.1.11, port: 80 } ] }",
    );
    let service = |name: &str, address: &str, port: &str| {
        document(
            "Service",
            name,
            &format!("{{ address: {address:?}, port: {port}, protocol: tcp, pool: p }}"),
        )
    };
    vec![
        Mistake {
            what: "broken YAML",
            text: "kind: [Pool\nmetadata: {".to_owned(),
            words: &["mistake.yaml:"],
        },
        Mistake {
            what: "unknown field",
            text: document(
                "Pool",
                "p",
                "{ backends: [ { address: 10.0.1.11, port: 80, wieght: 3 } ] }",
            ),
            words: &["mistake.yaml:4", "spec.backends[0].wieght"],
        },
        Mistake {
            what: "VIP used twice",
            text: pool.clone()
                + &service("one", "192.0.2.77", "80")
                + &service("two", "192.0.2.77", "80"),
            words: &["mistake.yaml:", "192.0.2.77", "one", "two"],
        },
        Mistake {
            what: "port 0",
            text: pool.clone() + &service("one", "192.0.2.77", "0"),
            words: &["mistake.yaml:", "spec.port"],
        },
        Mistake {
            what: "empty pool",
            text: document("Pool", "p", "{ backends: [] }"),
            words: &["mistake.yaml:4", "spec.backends"],
        },
        Mistake {
            what: "prefix with host bits",
            text: document(
                "Rule",
                "r",
                "{ priority: 1, match: { sources: [\"192.0.2.1/24\"] }, action: drop }",
            ),
            words: &["mistake.yaml:4", "spec.match.sources[0]", "192.0.2.0/24"],
        },
        Mistake {
            what: "backend equal to its VIP",
            text: document(
                "Pool",
                "p",
                "{ backends: [ { address: 192.0.2.77, port: 80 } ] }",
            ) + &service("one", "192.0.2.77", "80"),
            words: &["mistake.yaml:", "192.0.2.77"],
        },
        Mistake {
            what: "several mistakes at once",
            text: document(
                "Pool",
                "p",
                "{ backends: [ { address: not-an-address, port: 70000 } ] }",
            ) + &service("one", "192.0.2.77", "0"),
            words: &[
                "spec.backends[0].address",
                "spec.backends[0].port",
                "spec.port",
            ],
        },
        Mistake {
            what: "a service without its pool",
            text: service("one", "192.0.2.77", "80").replace("pool: p", "pool: nowhere"),
            words: &["mistake.yaml:", "nowhere"],
        },
    ]
}

fn said(finished: &Finished) -> String {
    format!("{}{}", finished.stderr, finished.stdout)
}

pub(super) fn bad_input(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let load = Load::start(&Plan::new(Kind::Udp, VIP4, 9000).rate(200))?;
    load.more(50, WITHIN)?;
    let before = lab.product().node_status()?;
    for mistake in mistakes() {
        let finished = lab.product().try_apply("mistake.yaml", &mistake.text)?;
        let text = said(&finished);
        let missing: Vec<_> = mistake
            .words
            .iter()
            .filter(|word| !text.contains(**word))
            .collect();
        let first = text.lines().next().unwrap_or("(nothing said)");
        findings.check(
            mistake.what,
            finished.status == INVALID && missing.is_empty(),
            format_args!(
                "exit {}, {first}{}",
                finished.status,
                if missing.is_empty() {
                    String::new()
                } else {
                    format!("; does not say {missing:?}")
                }
            ),
        );
    }
    let finished = lab.product().try_apply("huge.yaml", &huge())?;
    let text = said(&finished);
    findings.check(
        "a 100 MB file",
        matches!(finished.status, 2 | INVALID) && text.contains("huge.yaml"),
        format_args!(
            "exit {}, {}",
            finished.status,
            text.lines().next().unwrap_or("")
        ),
    );
    let after = lab.product().node_status()?;
    findings.equal(
        "head revision after all that",
        &after.head_revision,
        &before.head_revision,
    );
    findings.equal(
        "running revision after all that",
        &after.running_revision,
        &before.running_revision,
    );
    load.more(50, WITHIN)?;
    let report = load.finish()?;
    findings.check(
        "traffic meanwhile",
        report.lost == 0 && report.wrong == 0,
        report.tally(),
    );
    Ok(())
}

/// A file of 100 MB that would be valid otherwise.
fn huge() -> String {
    let mut text = document(
        "Pool",
        "p",
        "{ backends: [ { address: 10.0.1.11, port: 80 } ] }",
    );
    text.reserve(100_000_000);
    while text.len() < 100_000_000 {
        text.push_str(
            "# this line says nothing, and there are very many of them, one after the other\n",
        );
    }
    text
}

pub(super) fn missing_nic(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let load = Load::start(&Plan::new(Kind::Udp, VIP4, 9000).rate(200))?;
    load.more(50, WITHIN)?;
    let finished = lab
        .product()
        .try_apply("nic.yaml", &documents::port("ghost", "ghost0", "auto"))?;
    let answer = said(&finished);
    let named = poll::until("`get ports` names the missing interface", PATIENCE, || {
        let ports = lab.product().ctl_ok(["get", "ports", "-o", "wide"]).ok()?;
        (answer.contains("ghost0") || (ports.contains("ghost0") && ports.contains("missing")))
            .then_some(())
    });
    findings.check(
        "the missing interface is named",
        named.is_ok(),
        format_args!("exit {}, {}", finished.status, answer.trim()),
    );
    load.more(200, WITHIN)?;
    let report = load.finish()?;
    findings.check(
        "traffic on the other ports",
        report.lost == 0 && report.wrong == 0,
        report.tally(),
    );
    Ok(())
}

pub(super) fn full_disk(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let load = Load::start(&Plan::new(Kind::Http, VIP4, 80).rate(50))?;
    load.more(20, WITHIN)?;
    // The daemon moves to a file system of its own that is then filled up.
    let state = lab.product().state.join("marchd");
    if let Some(mut daemon) = lab.product_mut().daemon.take() {
        daemon.stop(PATIENCE)?;
    }
    let kept = sandbox::directory("kept")?;
    command::run(
        "cp",
        [
            "-a",
            &format!("{}/.", state.display()),
            &kept.to_string_lossy(),
        ],
    )?;
    command::run(
        "mount",
        [
            "-t",
            "tmpfs",
            "-o",
            "size=4m",
            "small",
            &state.to_string_lossy(),
        ],
    )?;
    command::run(
        "cp",
        [
            "-a",
            &format!("{}/.", kept.display()),
            &state.to_string_lossy(),
        ],
    )?;
    lab.product_mut().start_daemon()?;
    lab.product_mut().wait_connected()?;
    let before = lab.product().node_status()?;
    let _ = command::run(
        "dd",
        [
            "if=/dev/zero",
            &format!("of={}/ballast", state.display()),
            "bs=4k",
        ],
    );

    let mut big = documents::weighted_echo_pool([7, 1, 1]);
    for index in 0..300 {
        let _ = write!(
            big,
            "{}",
            documents::rule(
                &format!("ballast-{index}"),
                1000 + index,
                "sources: [\"192.0.2.99/32\"]",
                "drop"
            )
        );
    }
    let finished = lab.product().try_apply("big.yaml", &big)?;
    let text = said(&finished);
    findings.check(
        "apply on a full disk",
        finished.status == 7 && (text.contains("full") || text.contains("space")),
        format_args!("exit {}, {}", finished.status, text.trim()),
    );
    let after = lab.product().node_status()?;
    findings.equal("head revision", &after.head_revision, &before.head_revision);
    let rules = lab.product().ctl_ok(["get", "rules", "-o", "json"])?;
    findings.check(
        "nothing half-applied",
        !rules.contains("ballast"),
        "no rule of the refused file",
    );

    std::fs::remove_file(state.join("ballast"))?;
    lab.product().apply("big.yaml", &big)?;
    findings.check("with room again the same file is accepted", true, "applied");
    let report = load.finish()?;
    findings.check(
        "traffic meanwhile",
        report.lost == 0 && report.wrong == 0,
        report.tally(),
    );
    Ok(())
}

/// Files below a directory, with their sizes.
fn files(directory: &std::path::Path) -> Result<Vec<(std::path::PathBuf, u64)>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(directory).with_context(|| directory.display().to_string())? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            found.extend(files(&entry.path())?);
        } else {
            found.push((entry.path(), entry.metadata()?.len()));
        }
    }
    Ok(found)
}

pub(super) fn truncated_last_good(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    let directory = lab.product().state.join("node");
    if let Some(mut node) = lab.product_mut().node.take() {
        node.stop(PATIENCE)?;
    }
    let mut truncated = Vec::new();
    for (path, length) in files(&directory)? {
        if path.to_string_lossy().contains("last") && length > 0 {
            std::fs::OpenOptions::new()
                .write(true)
                .open(&path)?
                .set_len(length / 2)?;
            truncated.push(path);
        }
    }
    ensure!(
        !truncated.is_empty(),
        "no last-good file in {}",
        directory.display()
    );
    lab.product_mut().start_node()?;
    lab.product_mut().wait_connected()?;
    let name = truncated[0]
        .file_name()
        .map(|name| name.to_string_lossy().into_owned())
        .unwrap_or_default();
    let log = lab.product().node.as_ref().context("no node")?.log()?;
    let line = log
        .lines()
        .rev()
        .find(|line| line.contains(&name))
        .unwrap_or("(not named)")
        .to_owned();
    findings.check("the log names the file", line.contains(&name), line);
    let load = Load::start(&Plan::new(Kind::Http, VIP4, 80).rate(100))?;
    load.until("answers with the daemon's copy", WITHIN, |report| {
        report.right > 100
    })?;
    findings.check(
        "traffic with the daemon's copy",
        true,
        load.finish()?.tally(),
    );
    Ok(())
}

/// Applies the lab's documents with `tier: auto` and waits until both ports run `wanted`; the reasons given for the rungs above.
fn auto(lab: &Lab, wanted: &str) -> Result<Vec<(String, String)>> {
    let product = lab.product();
    let text = documents::all(lab.tier)
        .replace(&format!("tier: {:?}", lab.tier.asked_for()), "tier: auto");
    product.apply("auto.yaml", &text)?;
    poll::until_ok(&format!("both ports run {wanted}"), PATIENCE, || {
        let telemetry = product.telemetry()?;
        let mut reasons = Vec::new();
        for name in ["wan", "lan"] {
            let port = product::port(&telemetry, name)?;
            ensure!(
                port.tier == wanted,
                "{name} runs {}: {:?}",
                port.tier,
                port.reasons
            );
            reasons.extend(
                port.reasons
                    .iter()
                    .map(|reason| (reason.tier.clone(), reason.why.clone())),
            );
        }
        Ok(reasons)
    })
    .with_context(|| product.logs())
}

fn check_reason(findings: &mut Findings, reasons: &[(String, String)], tier: &str, words: &[&str]) {
    let why = reasons
        .iter()
        .find(|(passed, _)| passed == tier)
        .map_or("(no reason)", |(_, why)| why);
    let lower = why.to_lowercase();
    findings.check(
        format!("why not {tier}"),
        words.iter().any(|word| lower.contains(word)),
        why,
    );
}

fn check_answers(findings: &mut Findings) -> Result<()> {
    let load = Load::start(&Plan::new(Kind::Http, VIP4, 80).rate(100))?;
    let report = load.until("answers", WITHIN, |report| report.right > 100)?;
    findings.check("traffic", report.wrong == 0, report.tally());
    Ok(())
}

/// Starts the product with another way of starting the node.
fn start_with(lab: &mut Lab, words: &[&str]) -> Result<()> {
    let product: &mut Product = lab.start_product()?;
    if let Some(mut node) = product.node.take() {
        node.stop(PATIENCE)?;
    }
    let mut command = topology::inside("proxy", words[0]);
    command.args(&words[1..]).arg(product::binary("marchdp")?);
    command
        .args([
            "--node",
            documents::NODE,
            "--socket",
            product::SOCKET,
            "--state-dir",
        ])
        .arg(product.state.join("node"));
    product.node = Some(Process::start("marchdp", command)?);
    product.wait_connected()
}

pub(super) fn no_bpf(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    // Everything but the right to load programs, and no way to get it back.
    start_with(
        lab,
        &[
            "setpriv",
            "--bounding-set",
            "-bpf,-sys_admin",
            "--inh-caps",
            "-bpf,-sys_admin",
        ],
    )?;
    let reasons = auto(lab, "socket")?;
    check_reason(
        findings,
        &reasons,
        "dpdk",
        &["driver", "virtual", "pci", "device"],
    );
    check_reason(
        findings,
        &reasons,
        "af_xdp",
        &["cap_bpf", "capabilit", "permission", "permitted"],
    );
    check_answers(findings)
}

pub(super) fn no_hugepages(lab: &mut Lab, findings: &mut Findings) -> Result<()> {
    // Without the mount, EAL finds no huge pages whatever the kernel has reserved.
    start_with(
        lab,
        &[
            "sh",
            "-c",
            "mount -t tmpfs none /sys/kernel/mm && exec \"$0\" \"$@\"",
        ],
    )?;
    let reasons = auto(lab, "af_xdp")?;
    check_reason(
        findings,
        &reasons,
        "dpdk",
        &["driver", "virtual", "pci", "device", "huge"],
    );
    check_answers(findings)?;
    // Asked for by name it is refused, by name; what runs goes on.
    let finished = lab
        .product()
        .try_apply("dpdk.yaml", &documents::ports("dpdk(net_af_packet)"))?;
    let said_so = poll::until("the refusal names huge pages", PATIENCE, || {
        let ports = lab
            .product()
            .ctl_ok(["get", "ports", "-o", "wide"])
            .ok()?
            .to_lowercase();
        (said(&finished).to_lowercase().contains("huge") || ports.contains("huge")).then_some(())
    });
    findings.check(
        "dpdk by name without huge pages",
        said_so.is_ok(),
        said(&finished).trim(),
    );
    Ok(())
}
