//! Runs vectors against an lcore over whatever ports a tier has, and accounts for every frame.
//!
//! The lcore is turned by hand with a clock of the rig's own, so that timeouts are a matter of arithmetic. After each frame
//! the counters of every port must have moved by exactly what the outcome says and by nothing else.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_queue::ArrayQueue;
use march_lcore::{FrameReceiver, Lcore, LcoreCounters, Parts, frame_ring};
use march_pipeline::{
    Counters, Limits, Now, Originated, Pipeline, PortCounters, ResolveRequest, Settings,
};
use march_port::Port;
use march_tables::{Config, Generation};
use march_wire::DropReason;

use crate::compare::{hex, matches};
use crate::encode::{Bindings, encode};
use crate::layer::FrameText;
use crate::vector::{Fixture, Outcome, Step, Suite, Vector};

/// How frames get to the ports of a tier and back.
pub trait Wire {
    /// The tier's ports.
    type Port: Port;
    /// The tier's name in `only` and `out[...]`.
    const TIER: &'static str;

    /// Puts a frame on the link of port `port`.
    fn send(
        &mut self,
        lcore: &mut Lcore<Self::Port>,
        port: usize,
        frame: &[u8],
    ) -> Result<(), String>;

    /// Takes the oldest frame that port `port` sent.
    fn receive(&mut self, lcore: &mut Lcore<Self::Port>, port: usize) -> Option<Vec<u8>>;

    /// Tells what works in front of the lcore about a configuration.
    fn configure(&mut self, config: &Config) -> Result<(), String>;

    /// What works in front of the lcore counted of port `port` since the start, as words of [`Tally`].
    fn outside(&mut self, port: usize) -> Result<Tally, String>;

    /// How long to wait for a frame that should come.
    fn patience(&self) -> Duration {
        Duration::from_secs(5)
    }
}

/// Counters by word: `rx_frames`, `drop(runt)`, `service web packets`...
pub type Tally = BTreeMap<String, u64>;

/// What a run said.
#[derive(Debug, Default)]
pub struct Report {
    /// Vectors that did what they should.
    pub passed: usize,
    /// Vectors that are not for this tier.
    pub skipped: Vec<String>,
    /// What went wrong, readable.
    pub failures: Vec<String>,
}

impl Report {
    /// One line, then the failures.
    pub fn text(&self, tier: &str) -> String {
        let mut text = format!(
            "{tier}: {} vectors passed, {} failed, {} not for this tier\n",
            self.passed,
            self.failures.len(),
            self.skipped.len()
        );
        for failure in &self.failures {
            let _ = writeln!(text, "\n{failure}");
        }
        text
    }
}

/// An lcore with its ports and everything around it.
pub struct Rig<W: Wire> {
    wire: W,
    lcore: Lcore<W::Port>,
    counters: Arc<Counters>,
    punts: FrameReceiver,
    _requests: Arc<ArrayQueue<ResolveRequest>>,
    generation: Arc<Generation>,
    now_ms: u32,
    /// Frames that came out and are not accounted for yet.
    out: Vec<(usize, Vec<u8>)>,
    /// Announcements that came out, by port.
    announced: Vec<u64>,
    ports: usize,
}

/// What must follow from one frame.
struct Expected<'a> {
    outcome: &'a Outcome,
    /// Ports that a copy leaves by.
    copies: &'a [String],
}

/// Flows that fit: few, so that a whole sweep is quick.
const FLOWS: usize = 4096;

/// Long enough for every flow to be over: longer than the longest timeout.
const FOREVER_MS: u32 = 2 * 3_600_000;

impl<W: Wire> Rig<W> {
    /// Puts an lcore over `ports`, running `first`.
    pub fn new(mut wire: W, ports: Vec<W::Port>, first: Generation) -> Result<Self, String> {
        let counters = Arc::new(Counters::new(Limits {
            ports: ports.len(),
            services: 64,
            backends: 64,
            rules: 64,
        }));
        let settings = Settings {
            flows4: FLOWS,
            flows6: FLOWS,
            sources: 1_024,
            seed: (0x9e37_79b9_7f4a_7c15, 0xd1b5_4a32_d192_ed03),
        };
        let pipeline =
            Pipeline::new(settings, Arc::clone(&counters)).map_err(|error| error.to_string())?;
        let (punt_sender, punts) = frame_ring(64);
        let (_, kernel) = frame_ring(1);
        let requests = Arc::new(ArrayQueue::new(16));
        let generation = Arc::new(first);
        let parts = Parts {
            pipeline,
            counters: Arc::new(LcoreCounters::default()),
            punts: punt_sender,
            kernel,
            requests: Arc::clone(&requests),
            hold_frames: 64,
            hold_ms: 1_000,
        };
        wire.configure(&Config::default())?;
        let count = ports.len();
        Ok(Self {
            wire,
            lcore: Lcore::new(ports, parts, &generation),
            counters,
            punts,
            _requests: requests,
            generation,
            now_ms: 1,
            out: Vec::new(),
            announced: vec![0; count],
            ports: count,
        })
    }

    /// Runs every vector of `suite` that is for this tier.
    pub fn run(&mut self, suite: &Suite) -> Report {
        let mut report = Report::default();
        for vector in &suite.vectors {
            if !vector.only.is_empty() && !vector.only.iter().any(|tier| tier == W::TIER) {
                report.skipped.push(vector.name.clone());
                continue;
            }
            match self.vector(suite, vector) {
                Ok(()) => report.passed += 1,
                Err((line, message)) => report.failures.push(format!(
                    "{} ({}:{line}) on {}:\n{message}",
                    vector.name,
                    vector.path.display(),
                    W::TIER
                )),
            }
        }
        report
    }

    fn vector(&mut self, suite: &Suite, vector: &Vector) -> Result<(), (usize, String)> {
        let here = |line| move |message| (line, message);
        let mut fixture = &suite.fixtures[&vector.config];
        self.forget(fixture).map_err(here(vector.line))?;
        let mut bindings = Bindings::new();
        for step in &vector.steps {
            match step {
                Step::Switch(name) => {
                    fixture = &suite.fixtures[name];
                    self.publish(fixture).map_err(here(vector.line))?;
                }
                Step::Wait { ms } => {
                    self.pass_time(*ms);
                }
                Step::Later { line, outcome } => {
                    self.later(fixture, outcome, &mut bindings)
                        .map_err(here(*line))?;
                }
                Step::Frame {
                    line,
                    port,
                    frame,
                    outcome,
                    exceptions,
                    copies,
                } => {
                    let outcome = exceptions.get(W::TIER).unwrap_or(outcome);
                    let expected = Expected { outcome, copies };
                    self.frame(fixture, port, frame, &expected, &mut bindings)
                        .map_err(here(*line))?;
                }
            }
        }
        Ok(())
    }

    /// Starts over: the configuration in force, every flow gone, every announcement made, nothing on its way.
    fn forget(&mut self, fixture: &Fixture) -> Result<(), String> {
        self.publish(fixture)?;
        // Twice, so that what ends in the first half is swept in the second.
        self.pass_time(FOREVER_MS / 2);
        self.pass_time(FOREVER_MS / 2);
        while self.punts.receive(|_, _| ()).is_some() {}
        self.drain();
        self.out.clear();
        let [live4, live6] = [0, 1].map(|family| self.counters.flows.live[family].get());
        if live4 + live6 > 0 {
            return Err(format!(
                "{live4} IPv4 and {live6} IPv6 flows outlive every timeout"
            ));
        }
        Ok(())
    }

    fn publish(&mut self, fixture: &Fixture) -> Result<(), String> {
        let config = crate::config::tables(fixture).map_err(|error| error.to_string())?;
        let next = march_tables::build(&config, Some(&self.generation))
            .map_err(|error| error.to_string())?;
        self.generation = Arc::new(next);
        self.wire.configure(&config)?;
        self.turn();
        Ok(())
    }

    /// So much time, in steps that let every announcement go out and the sweep of the flow table go round.
    fn pass_time(&mut self, ms: u32) {
        const STEPS: u32 = 64;
        for step in 0..STEPS {
            let until = |step| u64::from(ms) * u64::from(step) / u64::from(STEPS);
            let elapsed = until(step + 1) - until(step);
            self.now_ms = self
                .now_ms
                .wrapping_add(u32::try_from(elapsed).unwrap_or(ms));
            self.turn();
            self.drain();
        }
    }

    fn turn(&mut self) {
        self.lcore.turn(&self.generation, Now { ms: self.now_ms });
    }

    /// Takes what the ports sent, our own announcements aside: those are counted as originated and may come at any time.
    /// No more of them are set aside than were counted.
    fn drain(&mut self) {
        for port in 0..self.ports {
            let announced =
                self.counters.ports[port].originated[Originated::Gratuitous as usize].get();
            while let Some(frame) = self.wire.receive(&mut self.lcore, port) {
                if self.announced[port] < announced && is_announcement(&frame) {
                    self.announced[port] += 1;
                } else {
                    self.out.push((port, frame));
                }
            }
        }
    }

    /// One frame in, and everything that must follow from it.
    fn frame(
        &mut self,
        fixture: &Fixture,
        port: &str,
        frame: &FrameText,
        expected: &Expected<'_>,
        bindings: &mut Bindings,
    ) -> Result<(), String> {
        let Expected { outcome, copies } = *expected;
        let ingress = port_id(fixture, port)?;
        let bytes = encode(frame, &fixture.names, bindings)?.bytes;
        let before = self.tally()?;
        self.wire.send(&mut self.lcore, ingress, &bytes)?;
        self.until(|rig, tally| {
            let received = format!("{ingress} rx_frames");
            Ok(tally.get(&received) > before.get(&received)
                && rig.out.len() >= outcome.frames() + copies.len())
        })?;
        self.take_copies(fixture, copies, &bytes)?;
        let sent = self.sent(fixture, outcome, bindings);
        let sent = sent.map_err(|message| match self.tally() {
            Ok(after) => format!("{message}\nwhat moved: {}", moved(&before, &after)),
            Err(_) => message,
        })?;
        let mut expected = Tally::new();
        let mut count = |port: usize, word: &str, by: usize| {
            *expected.entry(format!("{port} {word}")).or_default() += by as u64;
        };
        count(ingress, "rx_frames", 1);
        count(ingress, "rx_bytes", bytes.len());
        match outcome {
            Outcome::Forward { .. } => count(ingress, "forwarded", 1),
            Outcome::Answer { .. } => count(ingress, "answered", 1),
            Outcome::Punt => count(ingress, "punted", 1),
            Outcome::Hold => count(ingress, "held", 1),
            Outcome::Drop(word) => count(ingress, &format!("drop({word})"), 1),
        }
        if let Some((egress, len)) = sent {
            count(egress, "tx_frames", 1);
            count(egress, "tx_bytes", len);
            let word = if matches!(outcome, Outcome::Forward { .. }) {
                "forwarded_in"
            } else {
                "tx_answered"
            };
            count(egress, word, 1);
        }
        for copy in copies {
            let egress = port_id(fixture, copy)?;
            count(egress, "originated", 1);
            count(egress, "tx_bytes", bytes.len());
        }
        let by_lcore = self.tally()?;
        let passed_outside = by_lcore.get("outside").copied() != before.get("outside").copied();
        if *outcome == Outcome::Punt && !passed_outside {
            let punted = self.punts.receive(|port, frame| (port, frame.to_vec()));
            match punted {
                Some((port, frame)) if usize::from(port) == ingress && frame == bytes => {}
                other => {
                    return Err(format!(
                        "the kernel got {other:?} instead of the frame as it came"
                    ));
                }
            }
        }
        difference(&before, &by_lcore, &expected)
    }

    /// The copies of a frame that must come out now.
    fn take_copies(
        &mut self,
        fixture: &Fixture,
        copies: &[String],
        bytes: &[u8],
    ) -> Result<(), String> {
        for copy in copies {
            let egress = port_id(fixture, copy)?;
            let is_copy = |(at, frame): &(usize, Vec<u8>)| *at == egress && frame == bytes;
            let Some(position) = self.out.iter().position(is_copy) else {
                return Err(format!("no copy left by {copy}; {}", self.leftovers()));
            };
            self.out.remove(position);
        }
        Ok(())
    }

    /// The frame that must come out now, if any: compared, and where it came out.
    fn sent(
        &mut self,
        fixture: &Fixture,
        outcome: &Outcome,
        bindings: &mut Bindings,
    ) -> Result<Option<(usize, usize)>, String> {
        let mut sent = None;
        if let Outcome::Forward { port, frame } | Outcome::Answer { port, frame } = outcome {
            let egress = port_id(fixture, port)?;
            let Some(position) = self.out.iter().position(|(at, _)| *at == egress) else {
                return Err(format!("nothing left by {port}; {}", self.leftovers()));
            };
            let (_, actual) = self.out.remove(position);
            matches(frame, &actual, fixture, bindings)?;
            sent = Some((egress, actual.len()));
        }
        if self.out.is_empty() {
            return Ok(sent);
        }
        let text = self.leftovers();
        self.out.clear();
        Err(format!("more came out than should: {text}"))
    }

    /// A held frame goes on.
    fn later(
        &mut self,
        fixture: &Fixture,
        outcome: &Outcome,
        bindings: &mut Bindings,
    ) -> Result<(), String> {
        self.until(|rig, _| Ok(rig.out.len() >= outcome.frames()))?;
        self.sent(fixture, outcome, bindings)?;
        let held: u64 = self.counters.ports.iter().map(|port| port.held.get()).sum();
        if held > 0 {
            return Err(format!("{held} frames are still held"));
        }
        Ok(())
    }

    /// Turns the lcore until `done`, or until patience ends; then whoever called finds what is missing.
    fn until(
        &mut self,
        done: impl Fn(&Self, &Tally) -> Result<bool, String>,
    ) -> Result<(), String> {
        let deadline = Instant::now() + self.wire.patience();
        loop {
            self.turn();
            self.drain();
            let tally = self.tally()?;
            if done(self, &tally)? || Instant::now() > deadline {
                // Once more, so that what should not come has its chance.
                self.turn();
                self.drain();
                return Ok(());
            }
        }
    }

    fn leftovers(&self) -> String {
        let frames: Vec<String> = self
            .out
            .iter()
            .map(|(port, frame)| format!("port {port}: {}", hex(frame)))
            .collect();
        format!("frames out: [{}]", frames.join("; "))
    }

    /// Every counter of every port, the lcore's and those of what works in front of it added up.
    fn tally(&mut self) -> Result<Tally, String> {
        let mut tally = Tally::new();
        let mut outside_total = 0;
        for (port, counters) in self.counters.ports.iter().enumerate() {
            tally.extend(tally_of(port, counters));
        }
        for port in 0..self.ports {
            for (word, count) in self.wire.outside(port)? {
                outside_total += count;
                *tally.entry(format!("{port} {word}")).or_default() += count;
            }
        }
        tally.insert("outside".to_owned(), outside_total);
        Ok(tally)
    }
}

impl Outcome {
    /// How many frames come out.
    fn frames(&self) -> usize {
        usize::from(matches!(self, Self::Forward { .. } | Self::Answer { .. }))
    }
}

fn port_id(fixture: &Fixture, name: &str) -> Result<usize, String> {
    let position = fixture.ports.iter().position(|port| port == name);
    position.ok_or_else(|| format!("no port `{name}`"))
}

/// Frames originated by the box are taken out of the transmit counters: they have their own.
fn tally_of(port: usize, counters: &PortCounters) -> Tally {
    let originated: u64 = counters
        .originated
        .iter()
        .map(march_pipeline::Counter::get)
        .sum();
    let gratuitous = counters.originated[Originated::Gratuitous as usize].get();
    let mut tally = Tally::new();
    let mut put = |word: &str, count: u64| {
        tally.insert(format!("{port} {word}"), count);
    };
    put("rx_frames", counters.rx_frames.get());
    put("rx_bytes", counters.rx_bytes.get());
    put("forwarded", counters.forwarded.get());
    put("answered", counters.answered.get());
    put("punted", counters.punted.get());
    put("held", counters.held.get());
    for reason in DropReason::ALL {
        put(&format!("drop({reason})"), counters.drops.of(*reason).get());
    }
    put("tx_frames", counters.tx_frames.get() - originated);
    put("tx_bytes", counters.tx_bytes.get());
    put("forwarded_in", counters.forwarded_in.get());
    put("tx_answered", counters.tx_answered.get());
    put("originated", originated - gratuitous);
    tally
}

/// Counters that moved, with by how much.
fn moved(before: &Tally, after: &Tally) -> String {
    let changes = after.iter().filter_map(|(word, count)| {
        let change = count.wrapping_sub(before.get(word).copied().unwrap_or(0));
        (change != 0).then(|| format!("{word} +{}", change.cast_signed()))
    });
    changes.collect::<Vec<_>>().join(", ")
}

/// What moved that should not have, or the other way round.
fn difference(before: &Tally, after: &Tally, expected: &Tally) -> Result<(), String> {
    let mut text = String::new();
    for (word, count) in after {
        if word == "outside" {
            continue;
        }
        let moved = count.wrapping_sub(before.get(word).copied().unwrap_or(0));
        let wanted = expected.get(word).copied().unwrap_or(0);
        if moved != wanted {
            let _ = writeln!(
                text,
                "counter {word}: expected +{wanted}, actual +{}",
                moved.cast_signed()
            );
        }
    }
    if text.is_empty() { Ok(()) } else { Err(text) }
}

/// Gratuitous ARP (RFC 5227) or an unsolicited neighbour advertisement to all nodes (RFC 4861, 7.2.6).
fn is_announcement(frame: &[u8]) -> bool {
    let gratuitous =
        frame.get(12..14) == Some(&[0x08, 0x06]) && frame.get(28..32) == frame.get(38..42);
    let unsolicited = frame.get(12..14) == Some(&[0x86, 0xdd])
        && frame.get(54) == Some(&136)
        && frame.first_chunk::<6>() == Some(&[0x33, 0x33, 0, 0, 0, 1])
        && frame.get(58).is_some_and(|flags| flags & 0x40 == 0);
    gratuitous || unsolicited
}
