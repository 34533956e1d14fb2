//! `veth`: frames per second through two veth pairs, our lcore next to the kernel and to testpmd.

mod generator;
mod lab;
mod subject;

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::clock::{percentile, to_f64};
use generator::Generator;
use lab::{Lab, Place};
use subject::{Kernel, Lcore, Subject, Testpmd};

/// What the benchmark is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds over all subjects.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2.0)]
    seconds: f64,
    /// Frame lengths, bytes without FCS.
    #[arg(long, value_delimiter = ',', default_values_t = [60, 1400])]
    lengths: Vec<usize>,
    /// UDP flows, a power of two.
    #[arg(long, default_value_t = 1024)]
    flows: u32,
}

/// What one measurement says.
#[derive(Clone, Copy)]
struct Rate {
    /// Million frames per second that reached the sink.
    mpps: f64,
    /// The part of a core that it took.
    busy: f64,
    /// Million frames per second that the generator sent, from its start to its end.
    offered: f64,
}

impl Rate {
    fn per_core(self) -> f64 {
        self.mpps / self.busy
    }
}

/// Starts a subject.
type Start = fn(&Lab) -> anyhow::Result<Box<dyn Subject + '_>>;

const SUBJECTS: [Start; 3] = [
    |lab| Ok(Box::new(Kernel::start(lab)?)),
    |lab| Ok(Box::new(Testpmd::start(lab)?)),
    |lab| Ok(Box::new(Lcore::start(lab)?)),
];

/// Runs it; the last line on stdout is the summary.
pub fn run(options: &Options) -> anyhow::Result<()> {
    anyhow::ensure!(options.flows.is_power_of_two(), "--flows: a power of two");
    crate::clock::prioritise(subject::NICE);
    let mut summary = None;
    for len in &options.lengths {
        let medians = measure(options, *len)?;
        summary.get_or_insert(medians);
    }
    let [kernel, testpmd, ours] = summary.context("--lengths: at least one")?;
    println!(
        "veth Mpps: af_xdp={:.3} testpmd={:.3} kernel={:.3} af_xdp_per_core={:.3} kernel_per_core={:.3} af_xdp/testpmd={:.2} af_xdp/kernel_per_core={:.2} whole_core/kernel_per_core={:.2}",
        ours.mpps,
        testpmd.mpps,
        kernel.mpps,
        ours.per_core(),
        kernel.per_core(),
        ours.mpps / testpmd.mpps,
        ours.per_core() / kernel.per_core(),
        ours.mpps / kernel.per_core(),
    );
    Ok(())
}

/// Medians of kernel, testpmd, ours.
fn measure(options: &Options, len: usize) -> anyhow::Result<[Rate; 3]> {
    let mut rates: [Vec<Rate>; 3] = Default::default();
    for round in 0..options.rounds {
        for (start, rates) in SUBJECTS.iter().zip(&mut rates) {
            // A lab each: nothing of one subject is in the way of the next.
            let lab = Lab::new()?;
            let subject = start(&lab)?;
            let rate = offered(&lab, subject.as_ref(), options, len)?;
            println!(
                "{len:>5} B round {}: {:<38} {:.3} Mpps {:.2} Gbit/s of {:.2} Mpps offered, {:.2} of a core, {:.3} Mpps per busy core",
                round + 1,
                subject.name(),
                rate.mpps,
                gbit(rate.mpps, len),
                rate.offered,
                rate.busy,
                rate.per_core()
            );
            rates.push(rate);
        }
    }
    Ok(rates.map(|rates| {
        let median = |value: fn(&Rate) -> f64| {
            percentile(&mut rates.iter().map(value).collect::<Vec<_>>(), 50)
        };
        Rate {
            mpps: median(|rate| rate.mpps),
            // The rate divided by the median of the rate per core, so that one round's hiccup is in neither.
            busy: median(|rate| rate.mpps) / median(|rate| rate.per_core()),
            offered: median(|rate| rate.offered),
        }
    }))
}

/// On the wire a frame takes its FCS, preamble and gap too.
fn gbit(mpps: f64, len: usize) -> f64 {
    mpps * to_f64(len as u64 + 24) * 8.0 / 1_000.0
}

/// Runs the generator on core 0 as fast as it goes and counts what the sink gets.
fn offered(
    lab: &Lab,
    subject: &dyn Subject,
    options: &Options,
    len: usize,
) -> anyhow::Result<Rate> {
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let generator = scope.spawn(|| -> anyhow::Result<f64> {
            lab.enter(Place::Generator)?;
            crate::clock::pin(0);
            let generator = Generator::new(options.flows, len).context("generator")?;
            let (start, mut sent) = (Instant::now(), 0);
            while !stop.load(Ordering::Relaxed) {
                match generator.send() {
                    // A child that ended is a signal that ends a run early.
                    Err(error) if error.kind() != std::io::ErrorKind::Interrupted => {
                        return Err(error).context("live frames");
                    }
                    Err(_) => {}
                    Ok(frames) => sent += u64::from(frames),
                }
            }
            Ok(to_f64(sent) / start.elapsed().as_secs_f64() / 1e6)
        });
        let rate = warm_up(lab).and_then(|()| window(lab, subject, options.seconds));
        stop.store(true, Ordering::Relaxed);
        let offered = generator
            .join()
            .map_err(|_| anyhow::anyhow!("the generator panicked"))??;
        rate.map(|(mpps, busy)| Rate {
            mpps,
            busy,
            offered,
        })
    })
}

/// Until frames arrive (testpmd takes seconds to start), and half a second more.
fn warm_up(lab: &Lab) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(15);
    let (first, _) = lab.sunk()?;
    while lab.sunk()?.0 < first + 10_000 {
        anyhow::ensure!(Instant::now() < deadline, "nothing reaches the sink");
        std::thread::sleep(Duration::from_millis(50));
    }
    std::thread::sleep(Duration::from_millis(500));
    Ok(())
}

/// Million frames per second that reach the sink, and the part of a core that the subject works for them.
fn window(lab: &Lab, subject: &dyn Subject, seconds: f64) -> anyhow::Result<(f64, f64)> {
    let (start, busy_before) = (Instant::now(), subject.busy());
    let (before, _) = lab.sunk()?;
    std::thread::sleep(Duration::from_secs_f64(seconds));
    let (after, _) = lab.sunk()?;
    let (elapsed, busy_after) = (start.elapsed().as_secs_f64(), subject.busy());
    let busy = match (busy_before, busy_after) {
        (Some(before), Some(after)) => (after - before) / elapsed,
        _ => 1.0,
    };
    Ok((to_f64(after - before) / elapsed / 1e6, busy))
}
