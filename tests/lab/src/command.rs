//! Short commands: run to the end, output kept, failure explained.

use std::ffi::OsStr;
use std::process::{Command, Stdio};

use anyhow::{Context, Result, bail};

/// What a finished command left.
#[derive(Clone, Debug)]
pub struct Finished {
    /// Exit status; 128 + signal when it was killed.
    pub status: i32,
    /// Standard output.
    pub stdout: String,
    /// Standard error.
    pub stderr: String,
}

/// Runs `program` to its end and returns its standard output. An exit status other than 0 is an error with what it wrote.
pub fn run<S: AsRef<OsStr>>(
    program: &str,
    arguments: impl IntoIterator<Item = S>,
) -> Result<String> {
    let mut command = Command::new(program);
    command.args(arguments);
    let finished = finish(&mut command)?;
    if finished.status != 0 {
        bail!(
            "{command:?} ended with status {}: {}{}",
            finished.status,
            finished.stderr,
            finished.stdout
        );
    }
    Ok(finished.stdout)
}

/// Runs a command to its end, whatever its exit status.
pub fn finish(command: &mut Command) -> Result<Finished> {
    use std::os::unix::process::ExitStatusExt as _;
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("cannot run {command:?}"))?;
    Ok(Finished {
        status: output
            .status
            .code()
            .unwrap_or_else(|| 128 + output.status.signal().unwrap_or(0)),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// Runs each non-empty line of `lines` with `ip -batch` in the network namespace `namespace`, or in the present one.
pub fn ip_batch(namespace: Option<&str>, lines: &str) -> Result<()> {
    use std::io::Write as _;
    let mut file = tempfile::NamedTempFile::new_in(crate::sandbox::RUN)?;
    file.write_all(lines.as_bytes())?;
    let mut command = Command::new("ip");
    if let Some(namespace) = namespace {
        command.args(["-netns", namespace]);
    }
    command.arg("-batch").arg(file.path());
    let finished = finish(&mut command)?;
    if finished.status != 0 {
        bail!(
            "ip -batch in {}: {}\n{lines}",
            namespace.unwrap_or("the sandbox"),
            finished.stderr
        );
    }
    Ok(())
}
