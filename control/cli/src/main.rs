//! `marchctl`, the command line of MarchProxy.
//!
//! What it is: the operator's API of `march-proto` as commands. What it is not: it has no other door to the daemon and
//! decides nothing. Entry point: [`args::Command`]. Invariants: data goes to standard output, everything else to
//! standard error; the exit code says what happened ([`exit::Code`]).
#![forbid(unsafe_code)]

mod apply;
mod args;
mod backend;
mod client;
mod doctor;
mod exit;
mod explain;
mod get;
mod history;
mod listing;
mod machine;
mod output;
mod packets;
mod rules;
mod set;
mod stats;
mod table;
mod trace;
mod yaml;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use crate::args::{Command, Flags};
use crate::exit::{Code, Failure};

fn main() -> ExitCode {
    let flags = Flags::parse();
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build();
    let outcome = match runtime {
        Ok(runtime) => runtime.block_on(run(flags)),
        Err(error) => Err(Failure::new(
            Code::Unavailable,
            format!("cannot start: {error}"),
        )),
    };
    match outcome {
        Ok(code) => code.into(),
        Err(failure) => {
            failure.print();
            failure.code.into()
        }
    }
}

async fn run(flags: Flags) -> Result<Code, Failure> {
    let Flags {
        socket,
        output,
        command,
    } = flags;
    match command {
        Command::Apply(args) => apply::apply(&socket, output, args).await,
        Command::Diff(args) => apply::diff(&socket, output, args).await,
        Command::Delete(args) => apply::delete(&socket, output, args).await,
        Command::Rollback(args) => apply::rollback(&socket, output, args).await,
        Command::Get(args) => get::get(&socket, output, args).await,
        Command::Describe(args) => get::describe(&socket, output, args).await,
        Command::History(args) => history::history(&socket, output, args).await,
        Command::Stats(args) => stats::stats(&socket, output, args).await,
        Command::Drops(args) => stats::drops(&socket, output, args).await,
        Command::Explain(args) => explain::explain(&socket, output, args).await,
        Command::Trace(args) => trace::trace(&socket, output, args).await,
        Command::Set(args) => set::set(&socket, output, args).await,
        Command::Backend(args) => backend::backend(&socket, output, args).await,
        Command::Doctor => doctor::doctor(&socket, output).await,
        Command::Version => doctor::version(&socket, output).await,
        Command::Completion { shell } => {
            clap_complete::generate(
                shell,
                &mut Flags::command(),
                "marchctl",
                &mut std::io::stdout(),
            );
            Ok(Code::Ok)
        }
    }
}
