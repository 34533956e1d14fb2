//! Live packets of a node.

use std::fmt::Write as _;
use std::path::Path;

use march_proto::v1;
use serde_json::json;
use tokio_stream::StreamExt;

use crate::args::{Output, TraceArgs};
use crate::client::control;
use crate::exit::{Code, Failure};
use crate::history::utc;
use crate::output;

pub(crate) async fn trace(socket: &Path, output: Output, args: TraceArgs) -> Result<Code, Failure> {
    if matches!(output, Output::Yaml | Output::Name) {
        let message = "trace writes a table (also wide) or json, an object per packet and line";
        return Err(Failure::new(Code::Usage, message));
    }
    let request = v1::TraceRequest {
        node: args.node,
        start: Some(v1::TraceStart {
            filter: args.filter,
            count: args.count,
            seconds: u32::try_from(args.time.as_secs().max(1)).unwrap_or(u32::MAX),
        }),
    };
    let mut reads = control(socket).await?.trace(request).await?.into_inner();
    output::progress("waiting for packets; ctrl-C ends it");
    let mut shown: u64 = 0;
    while let Some(events) = reads.next().await {
        let events = events?;
        for event in &events.events {
            shown += 1;
            output::data(&match output {
                Output::Json => format!("{}\n", json!(event)),
                _ => line(event, output),
            })?;
        }
        if events.over {
            let lost = match events.lost {
                0 => String::new(),
                lost => format!(", {lost} more matched and found no room"),
            };
            eprintln!("{shown} packets{lost}: {}", events.why);
        }
    }
    Ok(Code::Ok)
}

/// One packet: when, where, what became of it, and what it was; how it left on a second line.
fn line(event: &v1::TraceEvent, output: Output) -> String {
    let (seconds, micros) = (event.at_unix_us / 1_000_000, event.at_unix_us % 1_000_000);
    let day = utc(seconds);
    let time = day
        .split('T')
        .nth(1)
        .map_or("", |time| time.trim_end_matches('Z'));
    let verdict = if event.reason.is_empty() {
        event.verdict.clone()
    } else {
        format!("{}({})", event.verdict, event.reason)
    };
    let ports = if event.egress.is_empty() {
        event.ingress.clone()
    } else {
        format!("{} -> {}", event.ingress, event.egress)
    };
    let mut text = format!(
        "{time}.{:03}  {ports:<14} {verdict:<20} {}\n",
        micros / 1000,
        event.before
    );
    if !event.after.is_empty() {
        let _ = writeln!(text, "{:<50}as {}", "", event.after);
    }
    if output == Output::Wide {
        let _ = writeln!(
            text,
            "{:<50}generation {}, frame {}",
            "",
            event.generation,
            hex(&event.before_head)
        );
    }
    text
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_is_two_lines_where_it_was_rewritten() {
        let event = v1::TraceEvent {
            at_unix_us: 1_700_000_000_123_456,
            ingress: "wan0".to_owned(),
            egress: "lan0".to_owned(),
            verdict: "forward".to_owned(),
            before: "UDP a -> b".to_owned(),
            after: "UDP c -> d".to_owned(),
            before_head: vec![0xab, 1],
            generation: 3,
            ..Default::default()
        };
        let text = line(&event, Output::Wide);
        let lines: Vec<&str> = text.lines().collect();
        assert_eq!(
            lines[0],
            "22:13:20.123  wan0 -> lan0   forward              UDP a -> b"
        );
        assert_eq!(lines[1].trim(), "as UDP c -> d");
        assert_eq!(lines[2].trim(), "generation 3, frame ab01");
        let dropped = v1::TraceEvent {
            verdict: "drop".to_owned(),
            reason: "rule_drop".to_owned(),
            egress: String::new(),
            after: String::new(),
            ..event
        };
        let text = line(&dropped, Output::Table);
        assert_eq!(text.lines().count(), 1);
        assert!(
            text.contains(" wan0           drop(rule_drop)      UDP"),
            "{text}"
        );
    }
}
