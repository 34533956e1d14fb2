//! `dpdk`: our loops over virtual devices next to `dpdk-testpmd` macswap on the same devices, by turns.
//!
//! `net_null` and `net_ring` carry frames without contents, so there both sides swap MAC addresses: what is compared is the
//! cost of our port and frame type. `net_pcap` repeats real frames, so there our side also runs the whole pipeline.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use march_dpdk::{Eal, EalConfig, Memory, Promiscuous};
use march_lcore::Clock;
use march_pipeline::{Counters, Limits};
use march_port::dpdk::{DpdkConfig, DpdkPort};
use march_port::{BURST, Frame, Port};
use march_wire::Buffer;

use crate::clock::{percentile, to_f64};
use crate::product;
use crate::traffic;

/// Core of both sides.
const CORE: usize = 1;
/// Frames in the capture: one for each flow.
const CAPTURED: u32 = 1024;

/// What the benchmark is asked to do.
#[derive(Clone, Debug, clap::Args)]
pub struct Options {
    /// Rounds over everything.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Seconds of each measurement.
    #[arg(long, default_value_t = 2)]
    seconds: u64,
}

/// A pair of devices that frames go between.
struct Pair {
    name: &'static str,
    devices: [String; 2],
    /// What testpmd needs besides macswap.
    testpmd: &'static [&'static str],
}

/// The captures, removed when the run ends.
struct Captures(PathBuf);

impl Captures {
    fn write() -> anyhow::Result<Self> {
        let folder = std::env::temp_dir().join(format!("march-perf-{}", std::process::id()));
        fs::create_dir_all(&folder).with_context(|| folder.display().to_string())?;
        let captures = Self(folder);
        // The classic format: magic, 2.4, no zone, no accuracy, 65535 bytes at most, Ethernet.
        let mut bytes = Vec::new();
        for word in [0xa1b2_c3d4_u32, 0x0004_0002, 0, 0, 65_535, 1] {
            bytes.extend(word.to_le_bytes());
        }
        fs::write(captures.empty(), &bytes)?;
        for id in 0..CAPTURED {
            let mut line = [0; 64];
            traffic::write(&mut line, &product::request(2 * id + 1), 0);
            for word in [0, id, traffic::FRAME_LEN as u32, traffic::FRAME_LEN as u32] {
                bytes.extend(word.to_le_bytes());
            }
            bytes.extend(&line[..traffic::FRAME_LEN]);
        }
        fs::write(captures.full(), &bytes)?;
        Ok(captures)
    }

    fn full(&self) -> PathBuf {
        self.0.join("requests.pcap")
    }

    fn empty(&self) -> PathBuf {
        self.0.join("nothing.pcap")
    }
}

impl Drop for Captures {
    fn drop(&mut self) {
        // Left in the temporary folder at worst.
        let _ = fs::remove_dir_all(&self.0);
    }
}

fn pairs(captures: &Captures) -> [Pair; 3] {
    let file = |path: &Path| path.display().to_string();
    [
        Pair {
            name: "net_null",
            devices: ["net_null0,size=60".into(), "net_null1,size=60".into()],
            testpmd: &[],
        },
        Pair {
            name: "net_ring",
            devices: ["net_ring0".into(), "net_ring1".into()],
            testpmd: &["--tx-first"],
        },
        Pair {
            name: "net_pcap",
            devices: [
                format!("net_pcap0,rx_pcap={},infinite_rx=1", file(&captures.full())),
                format!("net_pcap1,rx_pcap={}", file(&captures.empty())),
            ],
            testpmd: &[],
        },
    ]
}

/// Runs it; the last line on stdout is the summary.
pub fn run(options: &Options) -> anyhow::Result<()> {
    crate::clock::settle(CORE);
    let captures = Captures::write()?;
    let eal = Eal::init(&EalConfig {
        file_prefix: format!("march-perf-{}", std::process::id()),
        // As testpmd: pages of another size would be another machine.
        memory: Memory::HugePages,
        ..EalConfig::default()
    })?;
    let mut summary = String::from("dpdk Mpps:");
    for pair in pairs(&captures) {
        let [ours, testpmd, full] = measure(&eal, &pair, options)?;
        let name = pair.name;
        let _ = write!(
            summary,
            " {name}={ours:.1} {name}_testpmd={testpmd:.1} {name}_ratio={:.2}",
            ours / testpmd
        );
        if full > 0.0 {
            let _ = write!(summary, " {name}_full_nat={full:.1}");
        }
    }
    println!("{summary}");
    Ok(())
}

/// Medians: our macswap, testpmd's, and our pipeline where frames have contents (else 0), million frames per second.
fn measure(eal: &Eal, pair: &Pair, options: &Options) -> anyhow::Result<[f64; 3]> {
    let mut numbers = Vec::new();
    for device in &pair.devices {
        numbers.push(eal.attach(device).with_context(|| device.clone())?);
    }
    let config = DpdkConfig {
        name: pair.name.to_owned(),
        promiscuous: Promiscuous::On,
        ..DpdkConfig::default()
    };
    let mut ports = DpdkPort::group(eal, &numbers, &config)?.into_ports();
    if pair.testpmd.contains(&"--tx-first") {
        prime(&mut ports)?;
    }
    let duration = Duration::from_secs(options.seconds);
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for round in 0..options.rounds {
        let rate = swap(&mut ports, duration);
        let testpmd = testpmd(pair, options.seconds)?;
        println!(
            "{:<8} round {}: our macswap {rate:.2} Mpps ({:.1} ns), testpmd macswap {testpmd:.2} Mpps ({:.1} ns)",
            pair.name,
            round + 1,
            1_000.0 / rate,
            1_000.0 / testpmd
        );
        ours.push(rate);
        theirs.push(testpmd);
    }
    let full = if pair.name == "net_pcap" {
        pipeline(ports, duration)?
    } else {
        0.0
    };
    Ok([percentile(&mut ours, 50), percentile(&mut theirs, 50), full])
}

/// A burst of frames into each device that gives back what it is sent.
fn prime(ports: &mut [DpdkPort]) -> anyhow::Result<()> {
    for port in ports {
        let mut burst = Vec::with_capacity(BURST);
        while burst.len() < BURST {
            let mut frame = port.allocate().context("a dry pool")?;
            ensure!(frame.resize(traffic::FRAME_LEN), "a frame of 60 bytes");
            burst.push(frame);
        }
        port.tx_burst(&mut burst);
        ensure!(burst.is_empty(), "a ring that takes no burst");
    }
    Ok(())
}

/// Receive, swap the MAC addresses, send by the other port; million frames per second.
fn swap(ports: &mut [DpdkPort], duration: Duration) -> f64 {
    let mut burst: Vec<Frame> = Vec::with_capacity(BURST);
    let (start, mut count) = (Instant::now(), 0_u64);
    loop {
        for _ in 0..256 {
            for ingress in 0..2 {
                count += ports[ingress].rx_burst(&mut burst) as u64;
                for frame in &mut burst {
                    if let Some(start) = frame.bytes_mut().first_chunk_mut::<16>() {
                        swap_macs(start);
                    }
                }
                ports[1 - ingress].tx_burst(&mut burst);
                for frame in burst.drain(..) {
                    ports[0].free(frame);
                }
            }
        }
        let elapsed = start.elapsed();
        if elapsed >= duration {
            return to_f64(count) / elapsed.as_secs_f64() / 1e6;
        }
    }
}

/// Both MAC addresses at once, as testpmd does it: one load, one shuffle, one store.
#[inline]
fn swap_macs(start: &mut [u8; 16]) {
    const SWAPPED: [usize; 16] = [6, 7, 8, 9, 10, 11, 0, 1, 2, 3, 4, 5, 12, 13, 14, 15];
    let old = *start;
    *start = SWAPPED.map(|from| old[from]);
}

/// A whole lcore with full NAT; million frames per second forwarded.
fn pipeline(ports: Vec<DpdkPort>, duration: Duration) -> anyhow::Result<f64> {
    let counters = Arc::new(Counters::new(Limits::default()));
    let (mut lcore, generation) = product::lcore(ports, &counters)?;
    let clock = Clock::calibrate();
    let (start, mut turns) = (Instant::now(), 0_u64);
    while start.elapsed() < duration {
        for _ in 0..256 {
            lcore.turn(&generation, clock.now(clock.cycles()));
            turns += 1;
        }
    }
    let elapsed = start.elapsed().as_secs_f64();
    let (forwarded, dropped) = (
        counters.ports[0].forwarded.get(),
        counters.ports[0].dropped(),
    );
    let rate = to_f64(forwarded) / elapsed / 1e6;
    println!(
        "net_pcap: our lcore, full NAT {rate:.2} Mpps ({:.1} ns), {turns} turns, {dropped} dropped",
        1_000.0 / rate
    );
    ensure!(dropped == 0, "{dropped} frames were dropped");
    Ok(rate)
}

/// testpmd's own rate, the median of its seconds.
fn testpmd(pair: &Pair, seconds: u64) -> anyhow::Result<f64> {
    let mut command = Command::new("timeout");
    command
        .args(["-s", "INT", &(seconds + 4).to_string(), "dpdk-testpmd"])
        .arg("-l")
        .arg(format!("0,{CORE}"))
        .args(["--in-memory", "--no-pci", "--no-telemetry"])
        .arg(format!("--file-prefix=march-perf-t{}", std::process::id()));
    for device in &pair.devices {
        command.arg(format!("--vdev={device}"));
    }
    let output = command
        .args([
            "--",
            "--forward-mode=macswap",
            "--auto-start",
            "--burst=64",
            "--stats-period=1",
            "--no-lsc-interrupt",
            "--total-num-mbufs=16384",
        ])
        .args(pair.testpmd)
        .stdin(Stdio::null())
        .output()
        .context("dpdk-testpmd")?;
    let text = String::from_utf8_lossy(&output.stdout);
    // One line for each port and second; a second's rate is the sum over its ports.
    let rates: Vec<f64> = text
        .split("Rx-pps:")
        .skip(1)
        .filter_map(|rest| rest.split_whitespace().next()?.parse().ok())
        .collect();
    let mut seconds: Vec<f64> = rates
        .chunks_exact(2)
        .map(|ports| ports.iter().sum::<f64>() / 1e6)
        .filter(|rate| *rate > 0.001)
        .collect();
    ensure!(
        !seconds.is_empty(),
        "testpmd said no rate for {}:\n{text}",
        pair.name
    );
    Ok(percentile(&mut seconds, 50))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_change_places() {
        let mut start = *b"ABCDEFabcdef\x08\x00\x45\x00";
        swap_macs(&mut start);
        assert_eq!(&start, b"abcdefABCDEF\x08\x00\x45\x00");
    }
}
