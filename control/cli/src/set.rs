//! Address sets: what they hold, loaded, changed, exported and looked into.

use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Args, Subcommand};
use march_model::{AddressSet, FieldError, Kind, Spec};
use march_proto::v1;
use march_proto::v1::set_load_request::Part;
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

use crate::apply::{announce_wait, show_as};
use crate::args::{Output, Waiting};
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::output;
use crate::table::Table;

/// How much of a list goes in one message, in bytes.
const PIECE_BYTES: usize = 256 << 10;

#[derive(Debug, Args)]
pub(crate) struct SetArgs {
    #[command(subcommand)]
    command: SetCommand,
}

#[derive(Debug, Subcommand)]
#[command(
    after_help = "A list has one prefix or address a line; # starts a comment, blank lines do not count.
A set that is not there is made; rules and guards name it as they name any AddressSet.

Examples:
  marchctl set load scanners blocklist.txt
  curl -s https://lists.example/v4.txt | marchctl set load scanners -
  marchctl set add scanners 198.51.100.0/24 2001:db8:bad::/48
  marchctl set contains scanners 198.51.100.7"
)]
enum SetCommand {
    /// Makes a set hold just what a list has.
    Load {
        /// Which set.
        name: String,
        /// The list, or `-` for standard input.
        #[arg(value_name = "FILE|-")]
        file: PathBuf,
        #[command(flatten)]
        terms: Terms,
    },
    /// Adds prefixes to a set.
    Add(Prefixes),
    /// Takes prefixes out of a set.
    Remove(Prefixes),
    /// Writes what a set holds, sorted, one prefix a line.
    Export {
        /// Which set.
        name: String,
        /// What it held in an older revision.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        revision: u64,
    },
    /// Says by which prefix a set holds an address; exit code 4 when by none.
    Contains {
        /// Which set.
        name: String,
        /// IPv4 or IPv6.
        address: String,
        /// What it held in an older revision.
        #[arg(long, default_value_t = 0, hide_default_value = true)]
        revision: u64,
    },
    /// Shows the sets with how many prefixes they hold.
    List,
}

#[derive(Debug, Args)]
struct Prefixes {
    /// Which set.
    name: String,
    /// Prefixes or addresses.
    #[arg(required = true, value_name = "PREFIX")]
    prefixes: Vec<String>,
    #[command(flatten)]
    terms: Terms,
}

#[derive(Debug, Args)]
struct Terms {
    #[command(flatten)]
    waiting: Waiting,
    /// Why, for the history.
    #[arg(long, default_value = "")]
    comment: String,
    /// Refuses when the newest revision is not this one.
    #[arg(long, default_value_t = 0, hide_default_value = true)]
    base: u64,
}

impl Terms {
    fn message(self, name: String, mode: v1::SetMode, file: String) -> v1::SetLoadTerms {
        v1::SetLoadTerms {
            name,
            mode: mode.into(),
            file,
            wait_ms: self.waiting.wait_ms(),
            comment: self.comment,
            base_revision: self.base,
        }
    }
}

pub(crate) async fn set(socket: &Path, output: Output, args: SetArgs) -> Result<Code, Failure> {
    match args.command {
        SetCommand::Load { name, file, terms } => {
            let called = match file.as_os_str().to_str() {
                Some("-") => march_model::STDIN.to_owned(),
                _ => file.display().to_string(),
            };
            let list: Box<dyn Read + Send> = if file.as_os_str() == "-" {
                Box::new(std::io::stdin())
            } else {
                Box::new(File::open(&file).map_err(|error| unreadable(&called, &error))?)
            };
            let terms = terms.message(name, v1::SetMode::Replace, called);
            load(socket, output, terms, list).await
        }
        SetCommand::Add(given) => change(socket, output, v1::SetMode::Add, given).await,
        SetCommand::Remove(given) => change(socket, output, v1::SetMode::Remove, given).await,
        SetCommand::Export { name, revision } => export(socket, name, revision).await,
        SetCommand::Contains {
            name,
            address,
            revision,
        } => {
            let request = v1::SetContainsRequest {
                name,
                address,
                revision,
            };
            contains(socket, output, request).await
        }
        SetCommand::List => list(socket, output).await,
    }
}

fn unreadable(file: &str, error: &std::io::Error) -> Failure {
    Failure::invalid(vec![FieldError::of_file(
        file,
        format!("cannot be read: {error}"),
    )])
}

async fn change(
    socket: &Path,
    output: Output,
    mode: v1::SetMode,
    given: Prefixes,
) -> Result<Code, Failure> {
    let Prefixes {
        name,
        prefixes,
        terms,
    } = given;
    // An argument with a line end in it would be two, and one with a comment none.
    if let Some(odd) = prefixes.iter().find(|one| one.contains(['\n', '#'])) {
        return Err(Failure::new(
            Code::Usage,
            format!("`{}` is not a prefix", odd.escape_debug()),
        ));
    }
    let terms = terms.message(name, mode, String::new());
    let list = std::io::Cursor::new(prefixes.join("\n"));
    load(socket, output, terms, Box::new(list)).await
}

/// Sends the terms and the list. A list that cannot be read to its end ends the call instead of the list: half of it
/// must not become what the set holds.
async fn load(
    socket: &Path,
    output: Output,
    terms: v1::SetLoadTerms,
    list: Box<dyn Read + Send>,
) -> Result<Code, Failure> {
    let mut client = control(socket).await?;
    announce_wait(terms.wait_ms);
    let (name, file) = (terms.name.clone(), terms.file.clone());
    let (pieces, stream) = mpsc::channel(4);
    let (broken, is_broken) = oneshot::channel();
    // A thread of its own: the program must not wait for a list that hangs when the call has ended.
    std::thread::spawn(move || {
        if let Err(error) = send(terms, list, &pieces) {
            // The stream stays open as long as the sender does, and that goes with the error.
            let _ = broken.send((error, pieces));
        }
    });
    let called = client.set_load(ReceiverStream::new(stream));
    let response = tokio::select! {
        response = called => response?.into_inner(),
        Ok((error, _open)) = is_broken => return Err(unreadable(&file, &error)),
    };
    let applied = response.applied.unwrap_or_default();
    let counts = format!(
        "AddressSet/{name}: {} prefixes, {} added, {} removed\n",
        response.prefixes, response.added, response.removed
    );
    // As `apply` answers, and what became of the set.
    let mut value = serde_json::to_value(&applied).expect("an answer has text keys");
    for (field, count) in [
        ("prefixes", response.prefixes),
        ("added", response.added),
        ("removed", response.removed),
    ] {
        value[field] = count.into();
    }
    show_as(output, &value, &applied, &counts)
}

fn send(
    terms: v1::SetLoadTerms,
    mut list: Box<dyn Read + Send>,
    pieces: &mpsc::Sender<v1::SetLoadRequest>,
) -> std::io::Result<()> {
    let mut part = Part::Terms(terms);
    loop {
        let request = v1::SetLoadRequest { part: Some(part) };
        if pieces.blocking_send(request).is_err() {
            // The daemon has answered already.
            return Ok(());
        }
        let mut piece = Vec::with_capacity(PIECE_BYTES);
        let limit = u64::try_from(PIECE_BYTES).expect("a small number");
        if list.by_ref().take(limit).read_to_end(&mut piece)? == 0 {
            return Ok(());
        }
        part = Part::List(piece);
    }
}

async fn export(socket: &Path, name: String, revision: u64) -> Result<Code, Failure> {
    let request = v1::SetExportRequest { name, revision };
    let mut lists = control(socket)
        .await?
        .set_export(request)
        .await?
        .into_inner();
    while let Some(piece) = lists.message().await? {
        output::data(&piece.list)?;
    }
    Ok(Code::Ok)
}

async fn contains(
    socket: &Path,
    output: Output,
    request: v1::SetContainsRequest,
) -> Result<Code, Failure> {
    let asked = request.clone();
    let response = control(socket)
        .await?
        .set_contains(request)
        .await?
        .into_inner();
    let is_in = !response.prefix.is_empty();
    output::value(output, &response, || {
        if is_in {
            format!("{}\n", response.prefix)
        } else {
            String::new()
        }
    })?;
    if is_in {
        return Ok(Code::Ok);
    }
    eprintln!(
        "marchctl: no prefix of AddressSet/{} holds {}",
        asked.name, asked.address
    );
    Ok(Code::NotFound)
}

async fn list(socket: &Path, output: Output) -> Result<Code, Failure> {
    let request = v1::GetRequest {
        kind: Kind::AddressSet.to_string(),
        ..Default::default()
    };
    let response = control(socket).await?.get(request).await?.into_inner();
    let mut table = Table::new(&["NAME", "PREFIXES", "CONTENT"]);
    let mut names = String::new();
    for document in &response.documents {
        let read = march_model::Document::from_canonical(&document.json);
        let Ok(Spec::AddressSet(set)) = read.as_ref().map(march_model::Document::spec) else {
            continue;
        };
        let content = match set {
            AddressSet::Prefixes(_) => "in the document".to_owned(),
            AddressSet::Content(content) => content.hash.to_string(),
        };
        names = format!("{names}AddressSet/{}\n", document.name);
        table.row(vec![document.name.clone(), set.len().to_string(), content]);
    }
    output::value(output, &response, || match output {
        Output::Name => names,
        _ => table.to_text(),
    })?;
    Ok(Code::Ok)
}
