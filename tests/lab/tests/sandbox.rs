//! Nothing of a lab outlives it, however it ends.

use std::collections::BTreeSet;
use std::io::{BufRead as _, BufReader, Lines};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use march_lab::poll;

/// Parent of a process.
fn parent(id: u32) -> Option<u32> {
    let stat = std::fs::read_to_string(format!("/proc/{id}/stat")).ok()?;
    stat.rsplit_once(") ")?.1.split(' ').nth(1)?.parse().ok()
}

fn processes() -> BTreeSet<u32> {
    let entries = std::fs::read_dir("/proc")
        .expect("/proc")
        .filter_map(Result::ok);
    entries
        .filter_map(|entry| entry.file_name().to_string_lossy().parse().ok())
        .collect()
}

/// All that descend from a process.
fn descendants(of: u32) -> BTreeSet<u32> {
    let is_descendant = |id: u32| {
        std::iter::successors(parent(id), |id| parent(*id)).any(|ancestor| ancestor == of)
    };
    processes()
        .into_iter()
        .filter(|id| is_descendant(*id))
        .collect()
}

/// A lab in the middle of its work: servers run, the first finding is printed.
struct BusyLab {
    child: Child,
    processes: BTreeSet<u32>,
    /// Kept open: the lab must end for the signal, not because nobody reads what it prints.
    _output: Lines<BufReader<ChildStdout>>,
}

fn busy_lab() -> BusyLab {
    let mut child = Command::new(env!("CARGO_BIN_EXE_lab"))
        .args(["run", "--tier", "kernel", "udp"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("lab starts");
    let mut output = BufReader::new(child.stdout.take().expect("output")).lines();
    assert!(
        output.any(|line| line.is_ok_and(|line| line.contains("ok "))),
        "the lab found nothing"
    );
    let processes = descendants(child.id());
    assert!(
        processes.len() > 10,
        "the lab's processes were not found: {processes:?}"
    );
    BusyLab {
        child,
        processes,
        _output: output,
    }
}

fn ends_with(signal: &str) {
    let mut lab = busy_lab();
    let status = Command::new("kill")
        .args([signal, &lab.child.id().to_string()])
        .status()
        .expect("kill runs");
    assert!(status.success());
    lab.child.wait().expect("the lab ends");
    poll::until(
        "every process of the lab is gone",
        Duration::from_secs(10),
        || lab.processes.is_disjoint(&processes()).then_some(()),
    )
    .expect("nothing is left behind");
    let links = Command::new("ip")
        .args(["-o", "link"])
        .output()
        .expect("ip runs");
    assert!(
        !String::from_utf8_lossy(&links.stdout).contains("to-proxy"),
        "an interface is left behind"
    );
    let names = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .expect("ip runs");
    assert!(
        !String::from_utf8_lossy(&names.stdout).contains("client"),
        "a namespace is left behind"
    );
}

#[test]
fn nothing_is_left_after_an_interrupt() {
    ends_with("-INT");
}

#[test]
fn nothing_is_left_after_termination() {
    ends_with("-TERM");
}

#[test]
fn nothing_is_left_after_kill_9() {
    ends_with("-KILL");
}
