//! Private namespaces for everything that the lab makes.
//!
//! A lab program runs twice: the outer process starts itself again inside fresh mount, network and PID namespaces, and only
//! waits. Processes, interfaces, mounts and run directories of the lab exist nowhere else, so the kernel takes all of it back when the
//! inner process ends, however it ends: a panic, Ctrl-C or `kill -9` of either. Two runs side by side cannot see each other.

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};

use crate::{command, poll};

/// Set in the inner process: what the outer one waits for.
const INNER: &str = "MARCH_LAB_INNER";

/// May be set for the outer process: the file that gets the words about a kept lab, instead of standard output.
pub const LOOK_AROUND: &str = "MARCH_LAB_LOOK_AROUND";

/// Where the lab keeps sockets, databases, logs and configuration of what it runs. A tmpfs of the inner process.
pub const RUN: &str = "/run/lab";

/// What becomes of the lab once the work is done.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Afterwards {
    /// Everything ends with the inner process.
    CleanUp,
    /// The inner process and all that it started stay; the outer one returns.
    Keep,
}

/// Runs `work` in the sandbox and returns the exit code for `main`.
///
/// Called first thing in `main`, before any thread exists. `work` runs in the inner process and says whether all was as it should be.
pub fn run(afterwards: Afterwards, work: impl FnOnce() -> Result<bool>) -> ExitCode {
    let outcome = match std::env::var_os(INNER) {
        Some(report) => inner(Path::new(&report), afterwards, work),
        None => outer(afterwards),
    };
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("lab: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn outer(afterwards: Afterwards) -> Result<bool> {
    ensure!(rustix::process::geteuid().is_root(), "namespaces need root");
    let reports = tempfile::tempdir()?;
    let report = reports.path().join("outcome");
    let mut command = enter(afterwards)?;
    command.env(INNER, &report).stdin(Stdio::null());
    if afterwards == Afterwards::CleanUp {
        return Ok(command.status().context("cannot start unshare")?.success());
    }
    // Kept: nobody may hold on to our own output, or whoever reads it waits for the lab to end.
    let (mut reader, writer) = std::io::pipe()?;
    command.stdout(writer.try_clone()?).stderr(writer);
    let mut child = command.spawn().context("cannot start unshare")?;
    drop(command);
    std::thread::spawn(move || std::io::copy(&mut reader, &mut std::io::stdout()));
    loop {
        // The inner process writes its outcome and stays.
        if let Some(status) = child.try_wait()? {
            bail!("the lab ended with {status}");
        }
        if let Ok(outcome) = std::fs::read_to_string(&report)
            && outcome.ends_with('\n')
        {
            let words = look_around(child.id())?;
            match std::env::var_os(LOOK_AROUND) {
                Some(file) => std::fs::write(file, words)?,
                None => print!("{words}"),
            }
            return Ok(outcome == "good\n");
        }
        std::thread::sleep(poll::INTERVAL);
    }
}

/// The command that starts this program again inside new namespaces. Unless the lab is kept, each link of the chain outer process,
/// unshare, inner process dies with the one before it.
fn enter(afterwards: Afterwards) -> Result<Command> {
    let this = std::env::current_exe()?;
    let mut words: Vec<&str> = Vec::new();
    if afterwards == Afterwards::CleanUp {
        words.extend(["setpriv", "--pdeathsig", "KILL"]);
    }
    words.extend([
        "unshare",
        "--mount",
        "--net",
        "--ipc",
        "--pid",
        "--fork",
        "--mount-proc",
    ]);
    if afterwards == Afterwards::CleanUp {
        words.push("--kill-child=KILL");
    }
    let mut command = Command::new(words[0]);
    command
        .args(&words[1..])
        .arg("--")
        .arg(this)
        .args(std::env::args_os().skip(1));
    Ok(command)
}

fn inner(
    report: &Path,
    afterwards: Afterwards,
    work: impl FnOnce() -> Result<bool>,
) -> Result<bool> {
    furnish().context("cannot furnish the sandbox")?;
    let outcome = work();
    if afterwards == Afterwards::CleanUp {
        return outcome;
    }
    if let Err(error) = &outcome {
        eprintln!("lab: {error:#}");
    }
    std::fs::write(
        report,
        if matches!(outcome, Ok(true)) {
            "good\n"
        } else {
            "bad\n"
        },
    )?;
    // Let go of the terminal or pipe of the outer process, then stay as the parent of all that runs.
    let nowhere = std::fs::OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/null")?;
    rustix::stdio::dup2_stdout(&nowhere)?;
    rustix::stdio::dup2_stderr(&nowhere)?;
    loop {
        std::thread::park();
    }
}

/// Mounts of the inner process: a `/run` of its own (sockets, named network namespaces), a fresh `/sys` for the new network
/// namespace, and the BPF file system in it.
fn furnish() -> Result<()> {
    command::run("mount", ["-t", "tmpfs", "-o", "mode=755", "lab", "/run"])?;
    command::run("mount", ["-t", "sysfs", "sysfs", "/sys"])?;
    command::run("mount", ["-t", "bpf", "bpf", "/sys/fs/bpf"])?;
    std::fs::create_dir_all(RUN)?;
    command::run("ip", ["link", "set", "lo", "up"])?;
    Ok(())
}

/// How to look at a lab that stays, in words.
fn look_around(unshare: u32) -> Result<String> {
    use std::fmt::Write as _;
    let inner = poll::until(
        "the process id of the kept lab",
        Duration::from_secs(5),
        || {
            let children =
                std::fs::read_to_string(format!("/proc/{unshare}/task/{unshare}/children")).ok()?;
            children.split_whitespace().next().map(str::to_owned)
        },
    )?;
    let ctl = std::env::current_exe()?.with_file_name("marchctl");
    let inside = format!("nsenter -t {inner} -m -n -p --");
    let vip = crate::topology::VIP4;
    let mut words = "\nThe lab stays. Look around with, for example:\n\n".to_owned();
    for what in ["get ports", "get services", "stats", "drops", "history"] {
        writeln!(words, "  {inside} {} {what}", ctl.display())?;
    }
    for what in [
        format!("ip netns exec client curl http://{vip}/"),
        "ip netns exec client tcpdump -ni c0".to_owned(),
        format!("ls {RUN}          (logs, databases, documents)"),
    ] {
        writeln!(words, "  {inside} {what}")?;
    }
    writeln!(
        words,
        "\nEnd it, and all that belongs to it, with:  kill -9 {inner}"
    )?;
    Ok(words)
}

/// A fresh directory under [`RUN`].
pub fn directory(name: &str) -> Result<PathBuf> {
    let path = Path::new(RUN).join(name);
    std::fs::create_dir_all(&path).with_context(|| format!("cannot make {}", path.display()))?;
    Ok(path)
}
