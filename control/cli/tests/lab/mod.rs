//! The real daemon, and runs of the real `marchctl` against it.
#![allow(dead_code, reason = "no test file uses all of it")]

#[path = "../../../daemon/tests/support/mod.rs"]
pub mod support;

use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use march_model::State;
use march_proto::connect;
use support::{Node, eventually};
use tokio::sync::watch;

/// What a run of `marchctl` gave.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

/// A daemon with a directory of its own.
pub struct Lab {
    pub directory: tempfile::TempDir,
    stop: watch::Sender<bool>,
    daemon: Option<std::thread::JoinHandle<Result<(), marchd::ServeError>>>,
}

impl Lab {
    pub async fn start() -> Self {
        Self::start_with_space(march_store::DEFAULT_MAX_BYTES).await
    }

    pub async fn start_with_space(max_database_bytes: u64) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let (stop, stopped) = watch::channel(false);
        let options = marchd::Options {
            socket: directory.path().join("marchd.sock"),
            database: directory.path().join("marchd.db"),
            max_database_bytes,
            metrics: None,
        };
        let daemon = std::thread::spawn(move || {
            tokio::runtime::Runtime::new()
                .unwrap()
                .block_on(marchd::serve(options, stopped))
        });
        let lab = Self {
            directory,
            stop,
            daemon: Some(daemon),
        };
        let socket = lab.socket();
        eventually("the daemon listens", || async {
            connect::channel(&socket).await.ok()
        })
        .await;
        lab
    }

    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("marchd.sock")
    }

    pub fn file(&self, name: &str, text: &str) -> String {
        let path = self.directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        path.display().to_string()
    }

    pub async fn run(&self, args: &[&str]) -> Run {
        marchctl(&self.socket(), args, "").await
    }

    pub async fn expect(&self, code: i32, args: &[&str]) -> Run {
        let run = self.run(args).await;
        assert_eq!(run.code, code, "{args:?}: {run:#?}");
        run
    }

    pub async fn node(&self, name: &str) -> Node {
        Node::connect(&self.socket(), name, (0, &State::default())).await
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let _ = self.stop.send(true);
        let served = self.daemon.take().unwrap().join();
        if !std::thread::panicking() {
            served.unwrap().unwrap();
        }
    }
}

pub async fn marchctl(socket: &Path, args: &[&str], stdin: &str) -> Run {
    let mut command = Command::new(env!("CARGO_BIN_EXE_marchctl"));
    command.env("MARCHPROXY_SOCKET", socket).args(args);
    let stdin = stdin.to_owned();
    tokio::task::spawn_blocking(move || {
        let mut child = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        // One that does not read its input may end before it is written.
        let _ = child.stdin.take().unwrap().write_all(stdin.as_bytes());
        let output = child.wait_with_output().unwrap();
        Run {
            code: output.status.code().unwrap(),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    })
    .await
    .unwrap()
}
