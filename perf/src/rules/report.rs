//! What is printed: a line for each set, and the summary.

use super::attempt::BuildFailure;

/// What was measured of the product on one set.
#[derive(Default)]
pub struct Figures {
    /// Nanoseconds per lookup, one at a time.
    pub single_ns: f64,
    /// Nanoseconds per lookup in bursts.
    pub burst_ns: f64,
    /// Heap bytes of the compiled form.
    pub bytes: u64,
    /// Seconds of the build from nothing.
    pub build_seconds: f64,
    /// Share of packets that the rule decides which they were made for.
    pub decided_by_own: f64,
    /// How many single changes there were.
    pub changes: usize,
    /// How many more were refused.
    pub refused: usize,
    /// Milliseconds of a build with one rule changed: median, worst.
    pub change_ms: [f64; 2],
    /// The same with nothing but rules in the configuration.
    pub alone_ms: [f64; 2],
    /// Milliseconds of putting the rule into the list before that, median.
    pub list_ms: f64,
    /// Tables read and boxes compared for one packet at most, as the classifier itself says.
    pub worst_path: (usize, usize),
    /// Time of a stream of the slowest packets over the trace's, one lookup at a time.
    pub worst_single: f64,
    /// The same in bursts.
    pub worst_burst: f64,
    /// Time of the slowest packet over the median packet's.
    pub worst_packet: f64,
}

/// What was measured of `rte_acl` on one set.
pub struct Yardstick {
    /// Nanoseconds per lookup at its best.
    pub widest_ns: f64,
    /// The same with AVX2.
    pub avx2_ns: f64,
    /// One at a time.
    pub single_ns: f64,
    /// Algorithm and batch of its best.
    pub best: (&'static str, usize),
    /// Its time over ours, medians over the rounds: its best and AVX2 over our bursts, single over single.
    pub speed: [f64; 3],
    /// Bytes of its compiled form.
    pub bytes: u64,
    /// Seconds of its build.
    pub build_seconds: f64,
}

/// One set.
pub struct Line {
    /// Which.
    pub name: String,
    /// How many rules.
    pub rules: usize,
    /// Ours.
    pub figures: Figures,
    /// Theirs, or why there is none; `None` where it was not asked.
    pub yardstick: Option<Result<Yardstick, BuildFailure>>,
}

impl Line {
    /// Prints it.
    pub fn print(&self) {
        let Figures {
            single_ns,
            burst_ns,
            ..
        } = self.figures;
        println!(
            "{:<10} ours: single {single_ns:.1} ns, burst {burst_ns:.1} ns, {:.0} B/rule, built in {:.3} s; {:.0} % by their own rule",
            self.name,
            self.per_rule(self.figures.bytes),
            self.figures.build_seconds,
            100.0 * self.figures.decided_by_own
        );
        let indent = "";
        match &self.yardstick {
            Some(Ok(acl)) => {
                println!(
                    "{indent:<10} rte_acl: single {:.1} ns, best {:.1} ns ({} x {}), avx2 {:.1} ns, {:.0} B/rule, built in {:.3} s",
                    acl.single_ns,
                    acl.widest_ns,
                    acl.best.0,
                    acl.best.1,
                    acl.avx2_ns,
                    self.per_rule(acl.bytes),
                    acl.build_seconds
                );
                println!(
                    "{indent:<10} speed: {:.2} x its best, {:.2} x its avx2, single {:.2} x",
                    acl.speed[0], acl.speed[1], acl.speed[2]
                );
            }
            Some(Err(failure)) => println!(
                "{indent:<10} rte_acl: not built, {} after {:.1} s",
                failure.why, failure.seconds
            ),
            None => {}
        }
        let [median, worst] = self.figures.change_ms;
        let [alone, alone_worst] = self.figures.alone_ms;
        println!(
            "{indent:<10} one rule changed: {median:.3} ms, worst of {} {worst:.3} ms, {} refused (rules alone {alone:.3}, {alone_worst:.3}; new list {:.3}); slowest packets: stream {:.2} x, in bursts {:.2} x, one {:.2} x the median, at most {} tables and {} boxes",
            self.figures.changes,
            self.figures.refused,
            self.figures.list_ms,
            self.figures.worst_single,
            self.figures.worst_burst,
            self.figures.worst_packet,
            self.figures.worst_path.0,
            self.figures.worst_path.1
        );
    }

    #[expect(clippy::cast_precision_loss, reason = "sizes far below 2^53")]
    fn per_rule(&self, bytes: u64) -> f64 {
        bytes as f64 / self.rules as f64
    }
}

/// The last line: the worst over all kinds of sets. Speed is over those that `rte_acl` builds, and nothing where one of ours
/// was refused; `refused` has the sizes of those.
pub fn summary(lines: &[Line], refused: &[usize]) -> String {
    let of = |rules: usize| lines.iter().filter(move |line| line.rules == rules);
    let speed = |rules| {
        if refused.contains(&rules) {
            return 0.0;
        }
        of(rules)
            .filter_map(|line| Some(line.yardstick.as_ref()?.as_ref().ok()?.speed[0]))
            .fold(f64::NAN, f64::min)
    };
    let change = |rules| {
        of(rules)
            .map(|line| line.figures.change_ms[0])
            .fold(f64::NAN, f64::max)
    };
    let bytes = lines
        .iter()
        .filter(|line| line.rules >= 10_000)
        .map(|line| line.per_rule(line.figures.bytes))
        .fold(f64::NAN, f64::max);
    format!(
        "rules: speed10k={:.2}x rte_acl speed100k={:.2}x change10k_ms={:.3} change100k_ms={:.3} bytes_per_rule={bytes:.0}",
        speed(10_000),
        speed(100_000),
        change(10_000),
        change(100_000)
    )
}
