//! `pipeline`: the product's pipeline in memory next to the floor, in one process, by turns.

use crate::clock::{Random, percentile, to_f64, tsc, tsc_per_ns};
use crate::floor::{Floor, Frames, tuple_of};
use crate::product::Product;
use crate::traffic::{self, BUFFERS, Buffers, is_sound};

/// Passes over all buffers of one block.
const PASSES: usize = 200;
/// Passes at the start of a block that bring the caches to this side's state and are not counted.
const WARM_UP: usize = 12;
/// First packets in one window.
const NEW: usize = 256;
/// Blocks of each side.
const ROUNDS: usize = 7;

/// What the benchmark is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Flow counts to measure.
    #[arg(long, value_delimiter = ',', default_values_t = [10_000, 1_000_000, 10_000_000])]
    flows: Vec<u32>,
    /// Core to run on.
    #[arg(long, default_value_t = 1)]
    core: usize,
    /// Only this many passes over the first flow count, nothing timed: for callgrind.
    #[arg(long)]
    passes: Option<usize>,
    /// Which side to run.
    #[arg(long, value_enum, default_value_t = Side::Both)]
    side: Side,
}

/// A side of the comparison.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
enum Side {
    /// The product and the floor, by turns.
    Both,
    /// The product alone.
    Product,
    /// The floor alone.
    Floor,
}

/// Nanoseconds per packet of both sides.
struct Pair {
    product: f64,
    floor: f64,
    ratio: f64,
}

/// Runs it; the last line on stdout is the summary.
pub fn run(options: &Options) -> anyhow::Result<()> {
    crate::clock::settle(options.core);
    if let Some(passes) = options.passes {
        return only_passes(options.flows[0], passes, options.side);
    }
    let rate = tsc_per_ns();
    if options.side == Side::Floor {
        return only_floor(&options.flows, rate);
    }
    println!(
        "# TSC {rate:.3} GHz, {BUFFERS} buffers, bursts of 64, 64 B, half of them replies, TCP and UDP in equal parts"
    );
    let mut pairs = Vec::new();
    for flows in &options.flows {
        pairs.push(compare(*flows, rate)?);
    }
    let [new_per_s, done_per_s] = new_sessions(rate)?;
    let at = |index: usize, value: fn(&Pair) -> f64| pairs.get(index).map_or(f64::NAN, value);
    println!(
        "pipeline ns/packet: 10k={:.1} 1M={:.1} 10M={:.1} floor10k={:.2} floor1M={:.2} done_per_s={done_per_s:.2} new_per_s={new_per_s:.2}",
        at(0, |pair| pair.product),
        at(1, |pair| pair.product),
        at(2, |pair| pair.product),
        at(0, |pair| pair.ratio),
        at(1, |pair| pair.ratio),
    );
    Ok(())
}

fn compare(flows: u32, rate: f64) -> anyhow::Result<Pair> {
    let mut floor = FloorSide::new(flows)?;
    let mut buffers = Buffers::new()?;
    let mut product = Product::with_flows(flows, &mut buffers)?;
    let mut random = Random::new(0x5eed);
    let (mut ours, mut floors) = (Vec::new(), Vec::new());
    for round in 0..ROUNDS {
        floors.push(block(rate, || floor.window()));
        ours.push(block(rate, || {
            product.refill(&mut buffers, &mut random);
            let start = tsc();
            product.pass();
            tsc() - start
        }));
        if round == 0 {
            floor.verify()?;
            verify(&buffers, product.lost, "pipeline")?;
        }
    }
    anyhow::ensure!(
        floor.lost() == 0 && product.lost == 0,
        "frames were lost: floor {}, pipeline {}",
        floor.lost(),
        product.lost
    );
    let ratios: Vec<f64> = ours
        .iter()
        .zip(&floors)
        .map(|(ours, floor)| ours / floor)
        .collect();
    let pair = Pair {
        product: percentile(&mut ours, 50),
        floor: percentile(&mut floors, 50),
        ratio: percentile(&mut ratios.clone(), 50),
    };
    println!(
        "{flows:>9} flows: pipeline {:.2} ns [{:.2}-{:.2}], floor {:.2} ns [{:.2}-{:.2}], ratio {:.2}, {} B of flow memory per flow",
        pair.product,
        ours[0],
        ours[ROUNDS - 1],
        pair.floor,
        floors[0],
        floors[ROUNDS - 1],
        pair.ratio,
        product.bytes_per_flow(),
    );
    Ok(pair)
}

/// The floor with its buffers and its traffic.
struct FloorSide {
    floor: Floor,
    frames: Frames,
    random: Random,
    flows: u32,
}

impl FloorSide {
    fn new(flows: u32) -> anyhow::Result<Self> {
        Ok(Self {
            floor: Floor::new(flows)?,
            frames: Frames::new()?,
            random: Random::new(0x5eed),
            flows,
        })
    }

    /// Ticks of one pass over frames written anew before it.
    fn window(&mut self) -> u64 {
        let buffers = self.frames.buffers();
        for index in 0..BUFFERS {
            let number = self.random.below(u64::from(self.flows)) as u32;
            let line = buffers.frame_mut(Buffers::line_of(index));
            traffic::write(line, &tuple_of(number), 0x10);
        }
        let start = tsc();
        self.floor.pass(&mut self.frames);
        tsc() - start
    }

    fn lost(&self) -> u64 {
        self.floor.lost
    }

    fn verify(&mut self) -> anyhow::Result<()> {
        verify(self.frames.buffers(), self.floor.lost, "floor")
    }
}

/// Median over the windows of a block, nanoseconds per packet. A window that another guest of the machine stole does not
/// move it.
fn block(rate: f64, mut window: impl FnMut() -> u64) -> f64 {
    let mut times = Vec::with_capacity(PASSES);
    for pass in 0..PASSES {
        let ticks = window();
        if pass >= WARM_UP {
            times.push(to_f64(ticks) / rate / to_f64(BUFFERS as u64));
        }
    }
    percentile(&mut times, 50)
}

/// All frames of the last pass came out right.
fn verify(buffers: &Buffers, lost: u64, side: &str) -> anyhow::Result<()> {
    let wrong = (0..BUFFERS)
        .filter(|index| !is_sound(&buffers.frame(Buffers::line_of(*index))[..traffic::FRAME_LEN]))
        .count();
    anyhow::ensure!(
        wrong == 0 && lost == 0,
        "{side}: {wrong} frames are wrong, {lost} were not forwarded"
    );
    Ok(())
}

/// New sessions per second in millions, with about a million live: each window makes 256 while as many old ones time out. The
/// first figure counts their first packets, the second also the client's next one: for TCP that completes the handshake, and the
/// flow moves from the small table to the large one.
fn new_sessions(rate: f64) -> anyhow::Result<[f64; 2]> {
    const CAPACITY: u32 = 1_500_000;
    const TIMEOUT_MS: u32 = 12_000;
    const FILL: u64 = 2_500_000;
    let mut buffers = Buffers::new()?;
    let mut product = Product::empty(CAPACITY, TIMEOUT_MS, &mut buffers)?;
    let (mut next, mut now_ms) = (0_u32, 1);
    let mut times = [Vec::new(), Vec::new()];
    let mut pass = |product: &mut Product, [firsts, both]: &mut [Vec<f64>; 2]| {
        Product::refill_new(&mut buffers, next);
        next += BUFFERS as u32;
        let mut opened = [0; BUFFERS / NEW];
        for (first, cycles) in (0..BUFFERS).step_by(NEW).zip(&mut opened) {
            let start = tsc();
            now_ms = product.create(first, NEW, now_ms);
            *cycles = tsc() - start;
        }
        product.answer_new(&mut buffers, next - BUFFERS as u32, now_ms);
        for (first, cycles) in (0..BUFFERS).step_by(NEW).zip(opened) {
            let start = tsc();
            product.complete(first, NEW, now_ms);
            let more = tsc() - start;
            let each = |cycles| to_f64(cycles) / rate / to_f64(NEW as u64);
            firsts.push(each(cycles));
            both.push(each(cycles + more));
        }
    };
    while product.flows_made() < FILL {
        pass(&mut product, &mut times);
    }
    times.iter_mut().for_each(Vec::clear);
    for _ in 0..200 {
        pass(&mut product, &mut times);
    }
    anyhow::ensure!(
        product.lost == 0,
        "{} first packets were not forwarded",
        product.lost
    );
    let [mut firsts, mut both] = times;
    let (first, whole) = (percentile(&mut firsts, 50), percentile(&mut both, 50));
    println!(
        "new sessions: first packet {first:.1} ns, p90 {:.1}; with the client's next one {whole:.1} ns, p90 {:.1}; {} live, {} evicted before their time",
        percentile(&mut firsts, 90),
        percentile(&mut both, 90),
        product.live(),
        product.evicted()
    );
    Ok([1_000.0 / first, 1_000.0 / whole])
}

/// The floor without a product next to it, as the calibration of another machine's floor needs it.
fn only_floor(flows: &[u32], rate: f64) -> anyhow::Result<()> {
    for flows in flows {
        let mut side = FloorSide::new(*flows)?;
        let mut blocks: Vec<f64> = (0..ROUNDS).map(|_| block(rate, || side.window())).collect();
        side.verify()?;
        let median = percentile(&mut blocks, 50);
        println!(
            "{flows:>9} flows: floor {median:.2} ns [{:.2}-{:.2}]",
            blocks[0],
            blocks[ROUNDS - 1]
        );
    }
    Ok(())
}

/// The same work without a clock around it.
fn only_passes(flows: u32, passes: usize, side: Side) -> anyhow::Result<()> {
    if side == Side::Floor {
        let mut side = FloorSide::new(flows)?;
        for _ in 0..passes {
            side.window();
        }
        return side.verify();
    }
    let mut buffers = Buffers::new()?;
    let mut product = Product::with_flows(flows, &mut buffers)?;
    let mut random = Random::new(0x5eed);
    for _ in 0..passes {
        product.refill(&mut buffers, &mut random);
        product.pass();
    }
    println!(
        "{passes} passes of {BUFFERS} packets, {} lost",
        product.lost
    );
    Ok(())
}
