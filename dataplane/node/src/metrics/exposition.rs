//! The text exposition format, version 0.0.4.

use core::fmt::{Display, Write};
use core::time::Duration;

/// In front of every family's name.
const PREFIX: &str = "marchproxy_";

/// What a family's numbers do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    /// Only goes up, from 0 at the agent's start.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// Text under construction.
#[derive(Debug, Default)]
pub(super) struct Exposition {
    text: String,
}

/// The family whose samples come next.
#[derive(Debug)]
pub(super) struct Family<'a> {
    text: &'a mut String,
    name: String,
}

impl Exposition {
    /// Begins a family. `name` is without the prefix.
    pub(super) fn family(&mut self, name: &str, kind: Kind, help: &str) -> Family<'_> {
        debug_assert_eq!(kind == Kind::Counter, name.ends_with("_total"), "{name}");
        let name = format!("{PREFIX}{name}");
        let kind = match kind {
            Kind::Counter => "counter",
            Kind::Gauge => "gauge",
        };
        let help = help.replace('\\', "\\\\").replace('\n', "\\n");
        write(
            &mut self.text,
            format_args!("# HELP {name} {help}\n# TYPE {name} {kind}\n"),
        );
        Family {
            text: &mut self.text,
            name,
        }
    }

    pub(super) fn into_text(self) -> String {
        self.text
    }
}

impl Family<'_> {
    /// One line.
    pub(super) fn sample(&mut self, labels: &[(&str, &str)], value: u64) {
        self.line(labels, value);
    }

    /// One line whose value is a duration in seconds.
    pub(super) fn seconds(&mut self, labels: &[(&str, &str)], value: Duration) {
        self.line(labels, value.as_secs_f64());
    }

    fn line(&mut self, labels: &[(&str, &str)], value: impl Display) {
        self.text.push_str(&self.name);
        for (index, (label, text)) in labels.iter().enumerate() {
            let before = if index == 0 { '{' } else { ',' };
            write(
                self.text,
                format_args!("{before}{label}=\"{}\"", escaped(text)),
            );
        }
        let close = if labels.is_empty() { "" } else { "}" };
        write(self.text, format_args!("{close} {value}\n"));
    }
}

fn escaped(text: &str) -> String {
    text.replace('\\', "\\\\")
        .replace('"', "\\\"")
        .replace('\n', "\\n")
}

fn write(text: &mut String, what: core::fmt::Arguments<'_>) {
    text.write_fmt(what)
        .expect("writing to a String cannot fail");
}
