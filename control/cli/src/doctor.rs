//! What is wrong and what to do about it; and the versions.

use std::fmt::Write as _;
use std::path::Path;

use march_proto::v1;
use march_proto::v1::control_client::ControlClient;
use serde_json::json;
use tonic::transport::Channel;

use crate::args::Output;
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::machine::{self, Finding, Level};
use crate::output::{self, Colour, coloured};
use crate::table::Table;

pub(crate) async fn doctor(socket: &Path, output: Output) -> Result<Code, Failure> {
    let mut findings = machine::findings();
    let code = match control(socket).await {
        Ok(client) => system(client, &mut findings).await?,
        Err(failure) => {
            let fix = match failure.code {
                Code::Denied => {
                    format!("usermod -aG {} USER, then log in again", march_proto::GROUP)
                }
                _ => {
                    "start marchd, or give its socket with --socket or MARCHPROXY_SOCKET".to_owned()
                }
            };
            findings.push(Finding::fail("daemon", failure.message(), fix));
            failure.code
        }
    };
    output::value(output, &findings, || findings_text(&findings, output))?;
    Ok(code)
}

fn findings_text(findings: &[Finding], output: Output) -> String {
    if output == Output::Name {
        let open = findings.iter().filter(|finding| finding.level != Level::Ok);
        return open.fold(String::new(), |text, finding| {
            format!("{text}{}\n", finding.what)
        });
    }
    let mut text = String::new();
    for finding in findings {
        let level = match finding.level {
            Level::Ok => coloured(Colour::Green, "ok  "),
            Level::Note => coloured(Colour::Yellow, "note"),
            Level::Fail => coloured(Colour::Red, "FAIL"),
        };
        let _ = writeln!(text, "{level}  {:<15} {}", finding.what, finding.found);
        if !finding.fix.is_empty() {
            let _ = writeln!(text, "      {:<15} fix: {}", "", finding.fix);
        }
    }
    text
}

async fn system(
    mut client: ControlClient<Channel>,
    findings: &mut Vec<Finding>,
) -> Result<Code, Failure> {
    let info = client.info(v1::InfoRequest {}).await?.into_inner();
    let ours = env!("CARGO_PKG_VERSION");
    findings.push(if info.version == ours {
        Finding::ok(
            "daemon",
            format!("version {ours}, database {}", info.database),
        )
    } else {
        let found = format!("marchd is version {}, marchctl is {ours}", info.version);
        Finding::note("daemon", found, "install the same version of both")
    });
    findings.push(match info.revision {
        0 => Finding::note(
            "revision",
            "nothing was ever applied",
            "marchctl apply -f FILE",
        ),
        revision => Finding::ok(
            "revision",
            format!("{revision}, {} documents", info.documents),
        ),
    });
    let nodes = client
        .nodes(v1::NodesRequest::default())
        .await?
        .into_inner()
        .nodes;
    if nodes.is_empty() {
        let fix = "start marchdp with --socket set to the daemon's socket";
        findings.push(Finding::note("nodes", "none ever connected", fix));
    }
    let mut code = Code::Ok;
    for node in &nodes {
        let finding = node_finding(node);
        if finding.level == Level::Fail {
            code = Code::NotConverged;
        }
        findings.push(finding);
        findings.extend(
            node.telemetry
                .iter()
                .flat_map(|telemetry| port_findings(&node.node, telemetry)),
        );
    }
    Ok(code)
}

fn node_finding(node: &v1::NodeStatus) -> Finding {
    let name = &node.node;
    let (running, head) = (node.running_revision, node.head_revision);
    match node.state() {
        v1::NodeState::Running => Finding::ok("node", format!("{name} runs revision {running}")),
        v1::NodeState::Refused => {
            let errors: Vec<String> = node
                .errors
                .iter()
                .map(|error| march_model::FieldError::from(error.clone()).to_string())
                .collect();
            let found = format!(
                "{name} refused revision {head} and runs {running}: {}",
                errors.join("; ")
            );
            Finding::fail(
                "node",
                found,
                "correct the field and apply again, or marchctl rollback",
            )
        }
        v1::NodeState::Pending | v1::NodeState::Unspecified => Finding::fail(
            "node",
            format!("{name} runs revision {running}, the head is {head}, no answer yet"),
            "look at the node's log if this stays",
        ),
        v1::NodeState::Stale => Finding::fail(
            "node",
            format!("{name} is connected but silent for {} ms", node.silent_ms),
            "look at marchdp on the node: is it stopped or out of CPU time?",
        ),
        v1::NodeState::Lost => Finding::fail(
            "node",
            format!(
                "{name} is not connected, last heard {} ms ago; it goes on with revision {running}",
                node.silent_ms
            ),
            "start marchdp on the node",
        ),
    }
}

fn port_findings(node: &str, telemetry: &v1::Telemetry) -> Vec<Finding> {
    let finding = |port: &v1::PortTelemetry| {
        let found = format!(
            "{} of {node} runs {} on {}, {}",
            port.name, port.tier, port.interface, port.state
        );
        let reasons: Vec<String> = port
            .reasons
            .iter()
            .map(|reason| format!("{}: {}", reason.tier, reason.why))
            .collect();
        match (port.state.as_str(), reasons.is_empty()) {
            ("up", true) => Finding::ok("port", found),
            ("up", false) => Finding::note(
                "port",
                found,
                format!("for a higher tier: {}", reasons.join("; ")),
            ),
            _ if reasons.is_empty() => {
                Finding::note("port", found, "look at the interface and the node's log")
            }
            _ => Finding::note("port", found, reasons.join("; ")),
        }
    };
    telemetry.ports.iter().map(finding).collect()
}

pub(crate) async fn version(socket: &Path, output: Output) -> Result<Code, Failure> {
    let ours = env!("CARGO_PKG_VERSION");
    let info = match control(socket).await {
        Ok(mut client) => Some(client.info(v1::InfoRequest {}).await?.into_inner()),
        // The own version is known without a daemon.
        Err(_) => None,
    };
    let theirs = info.as_ref().map(|info| info.version.clone());
    output::value(
        output,
        &json!({ "marchctl": ours, "marchd": theirs }),
        || {
            let mut table = Table::new(&["PROGRAM", "VERSION"]);
            table.row(vec!["marchctl".to_owned(), ours.to_owned()]);
            table.row(vec![
                "marchd".to_owned(),
                theirs.clone().unwrap_or_else(|| "not reachable".to_owned()),
            ]);
            table.to_text()
        },
    )?;
    Ok(Code::Ok)
}
