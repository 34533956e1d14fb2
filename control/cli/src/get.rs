//! Showing documents, nodes and backends.

use std::path::Path;

use march_model::{Document, Kind, Name, Spec};
use march_proto::v1;
use serde_json::{Value, json};

use crate::args::{DescribeArgs, GetArgs, Output, What};
use crate::backend::endpoint;
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::listing::{backends_table, nodes_table, table};
use crate::output;
use crate::rules::Hits;

/// Documents and what the nodes say about them.
pub(crate) struct View {
    documents: Vec<Document>,
    nodes: Vec<v1::NodeStatus>,
    admins: Vec<v1::BackendAdmin>,
}

impl View {
    async fn load(socket: &Path, kind: &str, name: &str, revision: u64) -> Result<Self, Failure> {
        let mut client = control(socket).await?;
        let request = v1::GetRequest {
            kind: kind.to_owned(),
            name: name.to_owned(),
            revision,
        };
        let response = client.get(request).await?.into_inner();
        let nodes = client
            .nodes(v1::NodesRequest::default())
            .await?
            .into_inner()
            .nodes;
        let admins = client
            .backend_states(v1::BackendStatesRequest {})
            .await?
            .into_inner()
            .states;
        let parse = |document: &v1::Document| {
            Document::from_canonical(&document.json).map_err(|invalid| {
                let message = format!(
                    "the daemon's document {}/{}: {invalid}",
                    document.kind, document.name
                );
                Failure::new(Code::Unavailable, message)
            })
        };
        let documents: Result<Vec<Document>, Failure> =
            response.documents.iter().map(parse).collect();
        Ok(Self {
            documents: documents?,
            nodes,
            admins,
        })
    }

    pub fn telemetry(&self) -> impl Iterator<Item = (&str, &v1::Telemetry)> {
        self.nodes
            .iter()
            .filter_map(|node| Some((node.node.as_str(), node.telemetry.as_ref()?)))
    }

    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = (&str, &Spec)> {
        let matching = self
            .documents
            .iter()
            .filter(move |document| document.key().kind == kind);
        matching.map(|document| (document.key().name.as_str(), document.spec()))
    }

    pub fn port_telemetry(&self, node: &Name, name: &str) -> Option<&v1::PortTelemetry> {
        let (_, telemetry) = self.telemetry().find(|(from, _)| *from == node.as_str())?;
        telemetry.ports.iter().find(|port| port.name == name)
    }
}

pub(crate) async fn get(socket: &Path, output: Output, args: GetArgs) -> Result<Code, Failure> {
    let name = args.name.unwrap_or_default();
    match args.what {
        What::Nodes => nodes(socket, output, name).await,
        What::Backends => backends(socket, output, &name).await,
        What::All => documents(socket, output, None, &name, args.revision).await,
        What::Documents(Kind::Rule) if args.unused => {
            unused_rules(socket, output, args.revision).await
        }
        What::Documents(kind) => documents(socket, output, Some(kind), &name, args.revision).await,
    }
}

/// How often rules matched, if rules are to be shown as a table.
async fn hits(socket: &Path, kinds: &[Kind], output: Output) -> Result<Hits, Failure> {
    if !kinds.contains(&Kind::Rule) || !matches!(output, Output::Table | Output::Wide) {
        return Ok(Hits::default());
    }
    all_hits(socket).await
}

async fn all_hits(socket: &Path) -> Result<Hits, Failure> {
    let mut client = control(socket).await?;
    let request = v1::RuleHitsRequest::default();
    let nodes = client.get_rule_hits(request).await?.into_inner().nodes;
    Ok(Hits::new(nodes))
}

/// Rules that matched nothing since the nodes' agents started.
async fn unused_rules(socket: &Path, output: Output, revision: u64) -> Result<Code, Failure> {
    let hits = all_hits(socket).await?;
    if !hits.has_nodes {
        let message = "no node is connected, so nothing is known of what rules matched";
        return Err(Failure::new(Code::Unavailable, message));
    }
    let mut view = View::load(socket, Kind::Rule.as_str(), "", revision).await?;
    let used = hits.used();
    view.documents
        .retain(|document| !used.contains(document.key().name.as_str()));
    if !hits.is_whole {
        eprintln!("not every node answered: some of these may have matched there");
    }
    show(&view, &hits, output, &[Kind::Rule], Many::List)
}

/// Whether one document was asked for, or as many as there are.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Many {
    One,
    List,
}

async fn documents(
    socket: &Path,
    output: Output,
    kind: Option<Kind>,
    name: &str,
    revision: u64,
) -> Result<Code, Failure> {
    let view = View::load(socket, kind.map_or("", Kind::as_str), name, revision).await?;
    let kinds = kind.map_or_else(|| Kind::ALL.to_vec(), |kind| vec![kind]);
    let hits = hits(socket, &kinds, output).await?;
    let many = if name.is_empty() {
        Many::List
    } else {
        Many::One
    };
    show(&view, &hits, output, &kinds, many)
}

fn show(
    view: &View,
    hits: &Hits,
    output: Output,
    kinds: &[Kind],
    many: Many,
) -> Result<Code, Failure> {
    match output {
        Output::Json | Output::Yaml => {
            let parse = |document: &Document| -> Value {
                serde_json::from_str(document.canonical()).expect("the canonical form is JSON")
            };
            let values: Vec<Value> = view.documents.iter().map(parse).collect();
            match (values.as_slice(), many) {
                ([only], Many::One) => output::value(output, only, String::new)?,
                _ => output::documents(output, &values)?,
            }
        }
        Output::Name => {
            let keys = view
                .documents
                .iter()
                .map(|document| format!("{}\n", document.key()));
            output::data(&keys.collect::<String>())?;
        }
        Output::Table | Output::Wide => {
            let shown = |kind: &Kind| view.of_kind(*kind).next().is_some() || kinds.len() == 1;
            let tables: Vec<String> = kinds
                .iter()
                .filter(|kind| shown(kind))
                .map(|kind| table(view, hits, *kind, output.width()).to_text())
                .collect();
            output::data(&tables.join("\n"))?;
        }
    }
    Ok(Code::Ok)
}

async fn nodes(socket: &Path, output: Output, name: String) -> Result<Code, Failure> {
    let is_one = !name.is_empty();
    let nodes = control(socket)
        .await?
        .nodes(v1::NodesRequest { node: name })
        .await?
        .into_inner()
        .nodes;
    let people = || match output {
        Output::Name => nodes.iter().fold(String::new(), |text, node| {
            format!("{text}Node/{}\n", node.node)
        }),
        _ => nodes_table(&nodes, output.width()).to_text(),
    };
    match (nodes.as_slice(), is_one) {
        ([only], true) => output::value(output, only, people)?,
        _ => output::value(output, &nodes, people)?,
    }
    Ok(Code::Ok)
}

/// One backend as one node sees it, or as the documents have it when no node says anything.
fn backend_rows(view: &View, pool_name: &str) -> Vec<Value> {
    let mut rows = Vec::new();
    for (name, spec) in view
        .of_kind(Kind::Pool)
        .filter(|(name, _)| pool_name.is_empty() || *name == pool_name)
    {
        let Spec::Pool(pool) = spec else { continue };
        for backend in &pool.backends {
            let (address, port) = (
                backend.address.to_string(),
                u32::from(backend.port.unwrap_or(0)),
            );
            let admin = view
                .admins
                .iter()
                .find(|admin| admin.pool == name && admin.address == address && admin.port == port)
                .map_or("enabled", |admin| admin.state().word());
            let base = json!({
                "pool": name, "address": address, "port": backend.port, "weight": backend.weight, "admin": admin,
                "backend": endpoint(&address, port),
            });
            let is_it = |live: &&v1::BackendTelemetry| {
                live.pool == name && live.address == address && live.port == port
            };
            let mut seen = false;
            for (node, telemetry) in view.telemetry() {
                for live in telemetry.backends.iter().filter(is_it) {
                    let mut row = base.clone();
                    row["node"] = json!(node);
                    row["status"] = json!(live);
                    rows.push(row);
                    seen = true;
                }
            }
            if !seen {
                rows.push(base);
            }
        }
    }
    rows
}

async fn backends(socket: &Path, output: Output, pool: &str) -> Result<Code, Failure> {
    let view = View::load(socket, Kind::Pool.as_str(), pool, 0).await?;
    let rows = backend_rows(&view, pool);
    output::value(output, &rows, || match output {
        Output::Name => {
            let mut names: Vec<String> = rows
                .iter()
                .map(|row| format!("{}/{}\n", cell(&row["pool"]), cell(&row["backend"])))
                .collect();
            names.dedup();
            names.concat()
        }
        _ => backends_table(&rows, output.width()).to_text(),
    })?;
    Ok(Code::Ok)
}

pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

pub(crate) async fn describe(
    socket: &Path,
    output: Output,
    args: DescribeArgs,
) -> Result<Code, Failure> {
    // Everything about one thing is a tree: people get it as YAML.
    let output = if matches!(output, Output::Table | Output::Wide) {
        Output::Yaml
    } else {
        output
    };
    let kind = match args.what {
        What::Documents(kind) => kind,
        What::Nodes => return nodes(socket, output, args.name).await,
        What::Backends | What::All => {
            return Err(Failure::new(
                Code::Usage,
                "describe takes port, service, pool, rule, addressset, ratelimit, mapping or node",
            ));
        }
    };
    let view = View::load(socket, kind.as_str(), &args.name, 0).await?;
    let document = view
        .documents
        .first()
        .ok_or_else(|| Failure::new(Code::NotFound, "nothing came back"))?;
    let mut value: Value =
        serde_json::from_str(document.canonical()).expect("the canonical form is JSON");
    value["hash"] = json!(document.hash().to_string());
    value["status"] = match document.spec() {
        Spec::Port(port) => json!(view.port_telemetry(&port.node, &args.name)),
        Spec::Service(_) => {
            let of_node = |(node, telemetry): (&str, &v1::Telemetry)| {
                let live = telemetry
                    .services
                    .iter()
                    .find(|service| service.name == args.name)?;
                Some(json!({ "node": node, "counters": live }))
            };
            Value::from(view.telemetry().filter_map(of_node).collect::<Vec<_>>())
        }
        Spec::Pool(_) => Value::from(backend_rows(&view, &args.name)),
        Spec::Rule(_) | Spec::AddressSet(_) | Spec::RateLimit(_) | Spec::Mapping(_) => Value::Null,
    };
    output::value(output, &value, || format!("{}\n", document.key()))?;
    Ok(Code::Ok)
}
