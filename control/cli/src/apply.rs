//! Changes: apply, diff, delete, rollback.

use std::fmt::Write as _;
use std::path::Path;

use march_model::read_sources;
use march_proto::v1;
use serde::Serialize;

use crate::args::{ApplyArgs, DeleteArgs, DiffArgs, Files, Output, RollbackArgs, What};
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::output::{self, Colour, coloured};

pub(crate) async fn apply(socket: &Path, output: Output, args: ApplyArgs) -> Result<Code, Failure> {
    let (files, prune) = read(&args.files)?;
    let mut request = v1::ApplyRequest {
        files,
        comment: args.comment,
        base_revision: args.base,
        wait_ms: args.waiting.wait_ms(),
        ..Default::default()
    };
    request.set_prune(prune);
    if args.dry_run {
        request.set_dry_run(v1::DryRun::OnlyCheck);
        request.wait_ms = 0;
    }
    let mut client = control(socket).await?;
    announce_wait(request.wait_ms);
    let response = client.apply(request).await?.into_inner();
    show(output, &response)
}

pub(crate) async fn diff(socket: &Path, output: Output, args: DiffArgs) -> Result<Code, Failure> {
    let (files, prune) = read(&args.files)?;
    let mut request = v1::DiffRequest {
        files,
        ..Default::default()
    };
    request.set_prune(prune);
    let response = control(socket).await?.diff(request).await?.into_inner();
    warn(&response.warnings);
    output::value(output, &response, || match output {
        Output::Name => names(&response.changes),
        _ => changes_text(&response.changes),
    })?;
    Ok(if response.changes.is_empty() {
        Code::Ok
    } else {
        Code::Differences
    })
}

pub(crate) async fn delete(
    socket: &Path,
    output: Output,
    args: DeleteArgs,
) -> Result<Code, Failure> {
    let What::Documents(kind) = args.what else {
        return Err(Failure::new(
            Code::Usage,
            "only port, service, pool, rule, addressset, ratelimit and mapping can be deleted",
        ));
    };
    let reference = |name: String| v1::DocumentRef {
        kind: kind.to_string(),
        name,
    };
    let request = v1::DeleteRequest {
        documents: args.names.into_iter().map(reference).collect(),
        comment: args.comment,
        base_revision: args.base,
        wait_ms: args.waiting.wait_ms(),
    };
    let mut client = control(socket).await?;
    announce_wait(request.wait_ms);
    let response = client.delete(request).await?.into_inner();
    show(output, &response)
}

pub(crate) async fn rollback(
    socket: &Path,
    output: Output,
    args: RollbackArgs,
) -> Result<Code, Failure> {
    let request = v1::RollbackRequest {
        revision: args.revision,
        comment: args.comment,
        base_revision: 0,
        wait_ms: args.waiting.wait_ms(),
    };
    let mut client = control(socket).await?;
    announce_wait(request.wait_ms);
    let response = client.rollback(request).await?.into_inner();
    show(output, &response)
}

/// The texts as they are: the daemon reads them, so that every client's errors have file and line.
pub(crate) fn read(files: &Files) -> Result<(Vec<v1::SourceFile>, v1::Prune), Failure> {
    let sources = read_sources(&files.files, &mut std::io::stdin()).map_err(Failure::invalid)?;
    let file = |source: march_model::Source| v1::SourceFile {
        name: source.name,
        text: source.text,
    };
    let prune = if files.prune {
        v1::Prune::DeleteOthers
    } else {
        v1::Prune::Unspecified
    };
    Ok((sources.into_iter().map(file).collect(), prune))
}

pub(crate) fn announce_wait(wait_ms: u32) {
    if wait_ms > 0 {
        output::progress("committing, then waiting for the nodes ...");
    }
}

fn warn(warnings: &[v1::FieldError]) {
    for warning in warnings {
        eprintln!(
            "warning: {}",
            march_model::FieldError::from(warning.clone())
        );
    }
}

fn show(output: Output, response: &v1::ApplyResponse) -> Result<Code, Failure> {
    show_as(output, response, response, "")
}

/// The same as `value` for tools, and with some lines before it for people.
pub(crate) fn show_as(
    output: Output,
    value: &impl Serialize,
    response: &v1::ApplyResponse,
    before: &str,
) -> Result<Code, Failure> {
    warn(&response.warnings);
    output::value(output, value, || match output {
        Output::Name => names(&response.changes),
        _ => format!("{before}{}", response_text(response)),
    })?;
    if response.convergence() == v1::Convergence::Missed {
        eprintln!(
            "marchctl: revision {} is committed, but not every node runs it",
            response.revision
        );
        return Ok(Code::NotConverged);
    }
    Ok(Code::Ok)
}

fn names(changes: &[v1::Change]) -> String {
    changes.iter().fold(String::new(), |text, change| {
        format!("{text}{}/{}\n", change.kind, change.name)
    })
}

fn response_text(response: &v1::ApplyResponse) -> String {
    let mut text = changes_text(&response.changes);
    let short_hash = response.hash.get(..12).unwrap_or(&response.hash);
    let _ = match response.outcome() {
        v1::Outcome::Checked => {
            writeln!(
                text,
                "checked against revision {}, nothing committed: {}",
                response.revision,
                counts(&response.changes)
            )
        }
        v1::Outcome::Unchanged => writeln!(
            text,
            "nothing to change, revision {} stays",
            response.revision
        ),
        _ => writeln!(
            text,
            "revision {} ({short_hash}) committed: {}",
            response.revision,
            counts(&response.changes)
        ),
    };
    if response.convergence() != v1::Convergence::Unspecified {
        nodes_text(&response.nodes, &mut text);
    }
    text
}

fn counts(changes: &[v1::Change]) -> String {
    let count = |kind| {
        changes
            .iter()
            .filter(|change| change.change() == kind)
            .count()
    };
    format!(
        "{} added, {} changed, {} removed",
        count(v1::ChangeKind::Added),
        count(v1::ChangeKind::Changed),
        count(v1::ChangeKind::Removed)
    )
}

fn nodes_text(nodes: &[v1::NodeResult], text: &mut String) {
    for node in nodes {
        let state = node.state();
        let colour = if state == v1::NodeState::Running {
            Colour::Green
        } else {
            Colour::Red
        };
        let _ = write!(
            text,
            "node {} {}",
            node.node,
            coloured(colour, state.word())
        );
        match (state, node.commit_to_ack_us) {
            (v1::NodeState::Running, 0) => {}
            (v1::NodeState::Running, micros) => {
                let _ = write!(
                    text,
                    ", {}.{:03} ms after the commit",
                    micros / 1000,
                    micros % 1000
                );
            }
            _ => {
                let _ = write!(text, ", runs revision {}", node.running_revision);
            }
        }
        text.push('\n');
        for error in &node.errors {
            let _ = writeln!(text, "    {}", march_model::FieldError::from(error.clone()));
        }
    }
    let running = nodes
        .iter()
        .filter(|node| node.state() == v1::NodeState::Running)
        .count();
    let _ = match nodes.len() {
        0 => writeln!(text, "0 nodes connected"),
        count => writeln!(text, "{running} of {count} nodes run it"),
    };
}

/// Changes as lines: `+`, `~` with fields below, `-`.
pub(crate) fn changes_text(changes: &[v1::Change]) -> String {
    let mut text = String::new();
    for change in changes {
        let (sign, colour) = match change.change() {
            v1::ChangeKind::Added => ("+", Colour::Green),
            v1::ChangeKind::Removed => ("-", Colour::Red),
            _ => ("~", Colour::Yellow),
        };
        let line = format!("{sign} {}/{}", change.kind, change.name);
        let _ = writeln!(text, "{}", coloured(colour, &line));
        for field in &change.fields {
            let shown = |value: &str| {
                if value.is_empty() {
                    "(absent)".to_owned()
                } else {
                    value.to_owned()
                }
            };
            let _ = writeln!(
                text,
                "    {}: {} -> {}",
                field.path,
                shown(&field.before),
                shown(&field.after)
            );
        }
    }
    text
}
