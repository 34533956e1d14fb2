//! Getting results to standard output.

use std::io::{IsTerminal, Write};

use serde::Serialize;
use serde_json::Value;

use crate::args::Output;
use crate::exit::{Code, Failure};
use crate::yaml::to_yaml;

/// Writes data. A reader that went away ends the program quietly, as `head` expects.
pub(crate) fn data(text: &str) -> Result<(), Failure> {
    let mut stdout = std::io::stdout().lock();
    match stdout
        .write_all(text.as_bytes())
        .and_then(|()| stdout.flush())
    {
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => std::process::exit(0),
        Err(error) => Err(Failure::new(
            Code::Unavailable,
            format!("cannot write the result: {error}"),
        )),
        Ok(()) => Ok(()),
    }
}

/// Writes a value as JSON or YAML, or else what the closure makes for people.
pub(crate) fn value(
    output: Output,
    value: &impl Serialize,
    people: impl FnOnce() -> String,
) -> Result<(), Failure> {
    let tree = || serde_json::to_value(value).expect("results have text keys and finite numbers");
    match output {
        Output::Json => data(&format!("{:#}\n", tree())),
        Output::Yaml => data(&to_yaml(&tree())),
        Output::Table | Output::Wide | Output::Name => data(&people()),
    }
}

/// Writes documents so that apply reads them back: a JSON list, or YAML documents.
pub(crate) fn documents(output: Output, documents: &[Value]) -> Result<(), Failure> {
    match output {
        Output::Yaml => {
            let texts: Vec<String> = documents.iter().map(to_yaml).collect();
            data(&texts.join("---\n"))
        }
        _ => data(&format!("{:#}\n", Value::from(documents))),
    }
}

/// Colours, only where a person looks and has not asked for none.
#[derive(Clone, Copy)]
pub(crate) enum Colour {
    Red,
    Green,
    Yellow,
}

/// The text in a colour, or as it is.
pub(crate) fn coloured(colour: Colour, text: &str) -> String {
    if !std::io::stdout().is_terminal() || std::env::var_os("NO_COLOR").is_some() {
        return text.to_owned();
    }
    let number = match colour {
        Colour::Red => 31,
        Colour::Green => 32,
        Colour::Yellow => 33,
    };
    format!("\x1b[{number}m{text}\x1b[0m")
}

/// Says what is going on, to a person at a terminal only.
pub(crate) fn progress(text: &str) {
    if std::io::stderr().is_terminal() {
        eprintln!("{text}");
    }
}
