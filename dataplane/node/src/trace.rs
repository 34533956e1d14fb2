//! The trace that runs on this node: started, read and stopped by the daemon's questions.
//!
//! One runs at a time. It ends when it has what it was asked for, when its time is over, when nobody reads it for a
//! while, when its lcore is gone, or when another one starts.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use march_lcore::{Command, Head, LcoreHandle, Trace, TraceFilter, TraceRecord};
use march_proto::v1::{TraceEvent, TraceEvents, TraceStart};
use march_wire::{Packet, Verdict};

use crate::compile::{FastPort, port_id};
use crate::explain::words;

/// The most packets that a trace records.
const MAX_COUNT: u32 = 100_000;
/// The longest that it runs, seconds.
const MAX_SECONDS: u32 = 600;
/// A trace that nobody read for so long is over.
const UNREAD: Duration = Duration::from_secs(5);
/// Events in one answer.
const EVENTS_PER_READ: usize = 256;

/// The trace that runs, and those whose memory an lcore may still hold.
#[derive(Debug, Default)]
pub struct Tracer {
    running: Option<Running>,
    ended: Vec<Arc<Trace>>,
    last_id: u64,
}

#[derive(Debug)]
struct Running {
    id: u64,
    trace: Arc<Trace>,
    ends: Instant,
    read: Instant,
}

impl Tracer {
    /// Starts a trace and returns its number; an error says in words why not.
    pub fn start(
        &mut self,
        asked: &TraceStart,
        lcore: &LcoreHandle,
        ports: &[FastPort],
    ) -> Result<u64, String> {
        if !(1..=MAX_COUNT).contains(&asked.count) {
            return Err(format!("a trace records 1 to {MAX_COUNT} packets"));
        }
        if !(1..=MAX_SECONDS).contains(&asked.seconds) {
            return Err(format!("a trace runs for 1 to {MAX_SECONDS} seconds"));
        }
        let filter = TraceFilter::parse(&asked.filter, |name| port_id(ports, name))
            .map_err(|error| error.to_string())?;
        self.end();
        let trace = Trace::new(filter, asked.count);
        if !lcore.command(Command::Trace(Arc::clone(&trace))) {
            return Err("the lcore has too many commands waiting".to_owned());
        }
        self.last_id += 1;
        let now = Instant::now();
        self.running = Some(Running {
            id: self.last_id,
            trace,
            ends: now + Duration::from_secs(asked.seconds.into()),
            read: now,
        });
        Ok(self.last_id)
    }

    /// What was recorded since the last read of this trace.
    pub fn read(&mut self, id: u64, clock: &LcoreClock, ports: &[FastPort]) -> TraceEvents {
        let Some(running) = self.running.as_mut().filter(|running| running.id == id) else {
            return over("another trace was started, or the lcore has stopped");
        };
        running.read = Instant::now();
        let is_complete = running.trace.is_over();
        let is_late = running.read > running.ends;
        let mut answer = TraceEvents::default();
        while answer.events.len() < EVENTS_PER_READ
            && let Some(record) = running.trace.next()
        {
            answer.events.push(event(&record, clock, ports));
            running.trace.give_back(record);
        }
        answer.lost = running.trace.lost();
        if answer.events.len() < EVENTS_PER_READ && (is_complete || is_late) {
            answer.over = true;
            answer.why = if is_complete {
                "the packets asked for were recorded".to_owned()
            } else {
                "its time is over".to_owned()
            };
            self.end();
        }
        answer
    }

    /// Ends this trace.
    pub fn stop(&mut self, id: u64) {
        if self
            .running
            .as_ref()
            .is_some_and(|running| running.id == id)
        {
            self.end();
        }
    }

    /// Ends whatever runs.
    pub fn end(&mut self) {
        if let Some(running) = self.running.take() {
            running.trace.end();
            self.ended.push(running.trace);
        }
    }

    /// Ends what nobody reads any more, and frees what no lcore holds any more.
    pub fn care(&mut self) {
        if self
            .running
            .as_ref()
            .is_some_and(|running| running.read.elapsed() > UNREAD)
        {
            self.end();
        }
        self.ended.retain(|trace| Arc::strong_count(trace) > 1);
    }
}

/// An answer about a trace that is no more.
pub(crate) fn over(why: &str) -> TraceEvents {
    TraceEvents {
        over: true,
        why: why.to_owned(),
        ..TraceEvents::default()
    }
}

/// The lcore's wrapping milliseconds next to the time of day.
#[derive(Clone, Copy, Debug)]
pub struct LcoreClock {
    now_ms: u32,
    now: SystemTime,
}

impl LcoreClock {
    /// Both as they are now.
    #[must_use]
    pub fn read(now_ms: u32) -> Self {
        Self {
            now_ms,
            now: SystemTime::now(),
        }
    }

    fn unix_us(&self, at_ms: u32) -> u64 {
        let ago = Duration::from_millis(self.now_ms.wrapping_sub(at_ms).into());
        let at = self.now.checked_sub(ago).unwrap_or(self.now);
        at.duration_since(SystemTime::UNIX_EPOCH)
            .map_or(0, |since| u64::try_from(since.as_micros()).unwrap_or(0))
    }
}

fn event(record: &TraceRecord, clock: &LcoreClock, ports: &[FastPort]) -> TraceEvent {
    let name = |id: u16| {
        ports
            .get(usize::from(id))
            .map(|port| port.name.clone())
            .unwrap_or_default()
    };
    let (verdict, reason, egress) = words(record.verdict);
    let is_changed = record.before.bytes() != record.after.bytes()
        && matches!(
            record.verdict,
            Verdict::Forward { .. } | Verdict::Answer { .. }
        );
    TraceEvent {
        at_unix_us: clock.unix_us(record.at_ms),
        ingress: name(record.ingress),
        egress: egress.map(name).unwrap_or_default(),
        verdict: verdict.to_owned(),
        reason,
        generation: record.generation,
        length: record.before.frame_len,
        before: line(&record.before),
        after: if is_changed {
            line(&record.after)
        } else {
            String::new()
        },
        before_head: record.before.bytes().to_vec(),
        after_head: record.after.bytes().to_vec(),
    }
}

/// One line about a frame of which only the head is known.
fn line(head: &Head) -> String {
    // The parser wants whole packets; what is behind the head does not show.
    let mut frame = head.bytes().to_vec();
    frame.resize(head.frame_len as usize, 0);
    match march_wire::parse(frame.as_slice()) {
        Ok(Packet::Ip(packet)) => march_pipeline::describe(&frame, &packet),
        Ok(Packet::Arp(_)) => "ARP".to_owned(),
        Ok(Packet::Other(link)) => format!("Ethernet type 0x{:04x}", link.ethertype),
        Err(reason) => format!("not a good packet: {reason}"),
    }
}
