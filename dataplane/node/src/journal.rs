//! What was changed on the machine, written down before it is changed, so that any next start can give it back.
//!
//! One small JSON file, rewritten whole (write, sync, rename, sync the directory) for every entry. It names the boot and
//! the network namespace that it speaks of: after a reboot, or in another namespace, there is nothing to give back.

use std::fs::{self, File};
use std::io::{self, Write};
use std::net::IpAddr;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::kernel::change::Arp;

/// Name of the journal in the node's state directory.
pub const FILE_NAME: &str = "takeover.json";

/// One change, with what it takes to undo it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "change", rename_all = "snake_case")]
pub enum Entry {
    /// A file under `/proc/sys` was written; it held `value`.
    Sysctl {
        /// The file.
        path: String,
        /// What it held.
        value: String,
    },
    /// A blackhole route was added.
    Blackhole {
        /// Network address.
        address: IpAddr,
        /// Prefix length in bits.
        len: u8,
    },
    /// An address was taken off an interface.
    Address {
        /// Interface name.
        interface: String,
        /// The address, for people.
        text: String,
        /// The netlink message that describes it, in hexadecimal.
        message: String,
    },
    /// A route was taken off an interface.
    Route {
        /// Interface name.
        interface: String,
        /// Its index when the message was read.
        index: u32,
        /// The destination, for people.
        text: String,
        /// The netlink message that describes it, in hexadecimal.
        message: String,
    },
    /// ARP was turned off.
    ArpOff {
        /// Interface name.
        interface: String,
        /// What it was.
        was: Arp,
    },
    /// The device was told to let all multicast frames in.
    AllMulticast {
        /// Interface name.
        interface: String,
    },
    /// What arrives is dropped after packet sockets had it.
    IngressDrop {
        /// Interface name.
        interface: String,
    },
    /// A device was taken from its kernel driver.
    Driver {
        /// PCI address.
        device: String,
        /// The driver that had it.
        driver: String,
    },
    /// An interface that is up lost its device.
    LinkUp {
        /// Interface name.
        interface: String,
    },
    /// A service's address was put on an interface.
    ServiceAddress {
        /// The address.
        address: IpAddr,
        /// Interface name.
        interface: String,
    },
}

#[derive(Debug, Serialize, Deserialize)]
struct Record {
    version: u32,
    boot: String,
    namespace: u64,
    entries: Vec<Entry>,
}

/// What can go wrong with the journal.
#[derive(Debug, thiserror::Error)]
pub enum JournalError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file or directory.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The file is not a journal. It is never overwritten blindly: it may be the only record of what to give back.
    #[error(
        "{path} is damaged ({reason}); move it away once the interfaces' addresses and routes are as they should be"
    )]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        reason: String,
    },
}

/// An open journal.
#[derive(Debug)]
pub struct Journal {
    path: PathBuf,
    record: Record,
}

impl Journal {
    /// Opens the journal in `state_dir`, keeping what an earlier process left if it speaks of this boot and namespace.
    pub fn open(state_dir: &Path) -> Result<Self, JournalError> {
        let path = state_dir.join(FILE_NAME);
        let boot = boot_id();
        let namespace = namespace_id();
        let fresh = Record {
            version: 1,
            boot: boot.clone(),
            namespace,
            entries: Vec::new(),
        };
        let record = match fs::read(&path) {
            Ok(bytes) => {
                let found: Record =
                    serde_json::from_slice(&bytes).map_err(|error| JournalError::Damaged {
                        path: path.clone(),
                        reason: error.to_string(),
                    })?;
                if found.boot == boot && found.namespace == namespace {
                    found
                } else {
                    fresh
                }
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => fresh,
            Err(error) => return Err(JournalError::File { path, error }),
        };
        Ok(Self { path, record })
    }

    /// What is to be given back, oldest first.
    #[must_use]
    pub fn entries(&self) -> &[Entry] {
        &self.record.entries
    }

    /// Writes one change down. Only when this has returned may the change be made.
    pub fn add(&mut self, entry: Entry) -> Result<(), JournalError> {
        if self.record.entries.contains(&entry) {
            return Ok(());
        }
        self.record.entries.push(entry);
        // What is not on disk must not count as written down, or as done.
        self.save().inspect_err(|_| {
            self.record.entries.pop();
        })
    }

    /// Strikes out what has been given back.
    pub fn remove(&mut self, entry: &Entry) -> Result<(), JournalError> {
        self.record.entries.retain(|kept| kept != entry);
        self.save()
    }

    fn save(&self) -> Result<(), JournalError> {
        let bytes =
            serde_json::to_vec_pretty(&self.record).map_err(|error| JournalError::Damaged {
                path: self.path.clone(),
                reason: error.to_string(),
            })?;
        write_durably(&self.path, &bytes).map_err(|error| JournalError::File {
            path: self.path.clone(),
            error,
        })
    }
}

/// Replaces a file so that after a crash it holds either the old or the new content, whole.
pub fn write_durably(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let partial = path.with_extension("partial");
    let mut file = File::create(&partial)?;
    file.write_all(bytes)?;
    file.sync_all()?;
    fs::rename(&partial, path)?;
    let directory = path.parent().unwrap_or(Path::new("."));
    File::open(directory)?.sync_all()
}

fn boot_id() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id")
        .unwrap_or_default()
        .trim()
        .to_owned()
}

fn namespace_id() -> u64 {
    fs::metadata("/proc/thread-self/ns/net").map_or(0, |metadata| metadata.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry(value: &str) -> Entry {
        Entry::Sysctl {
            path: "/proc/sys/net/ipv4/conf/eth1/forwarding".into(),
            value: value.into(),
        }
    }

    #[test]
    fn entries_survive_a_new_process_and_leave_when_given_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(directory.path()).expect("opens");
        journal.add(entry("1")).expect("adds");
        journal.add(entry("0")).expect("adds");
        journal.add(entry("0")).expect("adds once");
        let mut again = Journal::open(directory.path()).expect("opens");
        assert_eq!(again.entries(), [entry("1"), entry("0")]);
        again.remove(&entry("1")).expect("removes");
        assert_eq!(
            Journal::open(directory.path()).expect("opens").entries(),
            [entry("0")]
        );
    }

    #[test]
    fn another_boot_has_nothing_to_give_back() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(directory.path()).expect("opens");
        journal.record.boot = "an earlier boot".into();
        journal.add(entry("1")).expect("adds");
        assert!(
            Journal::open(directory.path())
                .expect("opens")
                .entries()
                .is_empty()
        );
    }

    #[test]
    fn what_could_not_be_written_down_is_not_an_entry() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut journal = Journal::open(directory.path()).expect("opens");
        fs::create_dir(directory.path().join("takeover.partial")).expect("is in the way");
        assert!(journal.add(entry("1")).is_err());
        assert!(journal.entries().is_empty());
        fs::remove_dir(directory.path().join("takeover.partial")).expect("out of the way");
        journal.add(entry("1")).expect("adds");
        assert_eq!(
            Journal::open(directory.path()).expect("opens").entries(),
            [entry("1")]
        );
    }

    #[test]
    fn a_damaged_journal_is_named_and_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join(FILE_NAME);
        fs::write(&path, b"{ \"version\": 1, \"boot\"").expect("writes");
        let error = Journal::open(directory.path()).expect_err("must not open");
        assert!(
            error.to_string().contains("takeover.json is damaged"),
            "{error}"
        );
        assert!(path.exists());
    }
}
