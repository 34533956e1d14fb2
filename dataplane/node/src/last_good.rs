//! The last revision that ran here, on disk, so that the node starts without the control daemon.
//!
//! Two files: `last-good` and `last-good.previous`. Each is a header line (format, revision, SHA-256 of the body) and the
//! body. A new one is written whole and synced before the old one is moved aside, so that a crash or a full disk leaves
//! at least one that is whole; a damaged one is detected by its checksum, named in the log, and the other is used.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::journal::write_durably;

const FORMAT: &str = "marchproxy-last-good-1";
const CURRENT: &str = "last-good";
const PREVIOUS: &str = "last-good.previous";
const CANDIDATE: &str = "candidate";

/// A revision as it came from the daemon, with what lives outside revisions.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stored {
    /// Revision number.
    pub revision: u64,
    /// Content hash of the documents, as the daemon computed it.
    pub content_hash: String,
    /// Canonical JSON of every document.
    pub documents: Vec<String>,
    /// Backends that are not simply enabled.
    pub admin_states: Vec<StoredAdminState>,
    /// Roots of the contents that the documents name, 64 hex digits each.
    #[serde(default)]
    pub contents: Vec<String>,
}

/// The admin state of one backend.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct StoredAdminState {
    /// Pool name.
    pub pool: String,
    /// Backend address as in the documents.
    pub address: String,
    /// Backend port.
    pub port: u32,
    /// The daemon's word for it.
    pub state: String,
}

/// What can go wrong with the store.
#[derive(Debug, thiserror::Error)]
pub enum LastGoodError {
    /// The file cannot be read or written.
    #[error("{path}: {error}")]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        error: io::Error,
    },
    /// The content is not what was written.
    #[error("{path} is damaged: {reason}")]
    Damaged {
        /// The file.
        path: PathBuf,
        /// How it is known.
        reason: String,
    },
}

/// The store.
#[derive(Clone, Debug)]
pub struct LastGood {
    directory: PathBuf,
}

impl LastGood {
    /// A store in the node's state directory.
    #[must_use]
    pub fn new(state_dir: &Path) -> Self {
        Self {
            directory: state_dir.to_owned(),
        }
    }

    /// Keeps a revision that is about to be tried, for whoever asks after a crash what was being tried.
    pub fn save_candidate(&self, stored: &Stored) -> Result<(), LastGoodError> {
        let path = self.directory.join(CANDIDATE);
        write_durably(&path, &encode(stored)).map_err(|error| LastGoodError::File { path, error })
    }

    /// Makes the candidate, which now runs, the last good one.
    pub fn promote(&self, stored: &Stored) -> Result<(), LastGoodError> {
        let candidate = self.directory.join(CANDIDATE);
        let current = self.directory.join(CURRENT);
        let file = |path: &Path| {
            let path = path.to_owned();
            move |error| LastGoodError::File { path, error }
        };
        if fs::read(&candidate)
            .ok()
            .is_none_or(|bytes| bytes != encode(stored))
        {
            self.save_candidate(stored)?;
        }
        // Only a whole one may push the previous one out.
        if read(&current).is_ok() {
            fs::rename(&current, self.directory.join(PREVIOUS)).map_err(file(&current))?;
        }
        fs::rename(&candidate, &current).map_err(file(&candidate))?;
        fs::File::open(&self.directory)
            .and_then(|directory| directory.sync_all())
            .map_err(file(&self.directory))
    }

    /// Why a revision is not kept: the contents of its sets cannot be.
    #[must_use]
    pub fn without_contents(&self, error: io::Error) -> LastGoodError {
        let path = self.directory.clone();
        LastGoodError::File { path, error }
    }

    /// The whole revisions, newest first, and what was wrong with those passed over.
    #[must_use]
    pub fn load(&self) -> (Vec<Stored>, Vec<LastGoodError>) {
        let (mut whole, mut damaged) = (Vec::new(), Vec::new());
        for name in [CURRENT, PREVIOUS] {
            match read(&self.directory.join(name)) {
                Ok(stored) => whole.push(stored),
                Err(LastGoodError::File { error, .. })
                    if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => damaged.push(error),
            }
        }
        (whole, damaged)
    }
}

fn encode(stored: &Stored) -> Vec<u8> {
    let body = serde_json::to_vec(stored).expect("plain data always serialises");
    let mut bytes = format!(
        "{FORMAT} {} {}\n",
        stored.revision,
        hex(&Sha256::digest(&body))
    )
    .into_bytes();
    bytes.extend_from_slice(&body);
    bytes
}

fn read(path: &Path) -> Result<Stored, LastGoodError> {
    let bytes = fs::read(path).map_err(|error| LastGoodError::File {
        path: path.to_owned(),
        error,
    })?;
    let damaged = |reason: &str| LastGoodError::Damaged {
        path: path.to_owned(),
        reason: reason.to_owned(),
    };
    let end = bytes
        .iter()
        .position(|&byte| byte == b'\n')
        .ok_or_else(|| damaged("the header is cut off"))?;
    let header =
        std::str::from_utf8(&bytes[..end]).map_err(|_| damaged("the header is not text"))?;
    let body = &bytes[end + 1..];
    let mut words = header.split(' ');
    if words.next() != Some(FORMAT) {
        return Err(damaged("it does not start as a last-good file does"));
    }
    let _revision = words.next();
    if words.next() != Some(hex(&Sha256::digest(body)).as_str()) {
        return Err(damaged(
            "the checksum does not match; the file was cut off or changed",
        ));
    }
    serde_json::from_slice(body).map_err(|error| damaged(&error.to_string()))
}

/// Lower-case hexadecimal.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write;
    bytes
        .iter()
        .fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
            write!(text, "{byte:02x}").expect("writing to a String cannot fail");
            text
        })
}

/// The bytes of a hexadecimal text, or `None` if it is not one.
#[must_use]
pub fn unhex(text: &str) -> Option<Vec<u8>> {
    if !text.len().is_multiple_of(2) || !text.is_ascii() {
        return None;
    }
    (0..text.len())
        .step_by(2)
        .map(|at| u8::from_str_radix(&text[at..at + 2], 16).ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(revision: u64) -> Stored {
        Stored {
            revision,
            content_hash: "abc".into(),
            documents: vec![format!("{{\"revision\":{revision}}}")],
            admin_states: Vec::new(),
            contents: Vec::new(),
        }
    }

    #[test]
    fn the_newest_is_loaded_and_the_one_before_is_kept() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = LastGood::new(directory.path());
        assert!(store.load().0.is_empty());
        for revision in 1..=3 {
            store.save_candidate(&stored(revision)).expect("saves");
            store.promote(&stored(revision)).expect("promotes");
        }
        assert_eq!(store.load().0, [stored(3), stored(2)]);
        assert_eq!(
            read(&directory.path().join(PREVIOUS)).expect("whole"),
            stored(2)
        );
        assert!(!directory.path().join(CANDIDATE).exists());
    }

    #[test]
    fn every_truncation_and_every_flipped_byte_is_detected_and_the_previous_one_is_used() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = LastGood::new(directory.path());
        store.promote(&stored(1)).expect("promotes");
        store.promote(&stored(2)).expect("promotes");
        let path = directory.path().join(CURRENT);
        let whole = fs::read(&path).expect("reads");
        for len in 0..whole.len() {
            fs::write(&path, &whole[..len]).expect("writes");
            let (found, damaged) = store.load();
            assert_eq!(found, [stored(1)], "cut to {len} bytes");
            assert!(
                damaged[0].to_string().contains("last-good is damaged"),
                "{}",
                damaged[0]
            );
        }
        let body = whole
            .iter()
            .position(|&byte| byte == b'\n')
            .expect("a header")
            + 1;
        for at in body..whole.len() {
            let mut bytes = whole.clone();
            bytes[at] ^= 1;
            fs::write(&path, &bytes).expect("writes");
            assert_eq!(store.load().0, [stored(1)], "byte {at} flipped");
        }
    }

    #[test]
    fn a_damaged_current_one_does_not_push_out_the_previous_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let store = LastGood::new(directory.path());
        store.promote(&stored(1)).expect("promotes");
        store.promote(&stored(2)).expect("promotes");
        fs::write(directory.path().join(CURRENT), b"marchproxy-last-good-1 2").expect("writes");
        store.promote(&stored(3)).expect("promotes");
        assert_eq!(store.load().0, [stored(3), stored(1)]);
        assert_eq!(
            read(&directory.path().join(PREVIOUS)).expect("whole"),
            stored(1)
        );
    }

    #[test]
    fn hexadecimal_there_and_back() {
        assert_eq!(unhex(&hex(&[0, 15, 255])), Some(vec![0, 15, 255]));
        assert_eq!(unhex("0"), None);
        assert_eq!(unhex("zz"), None);
    }
}
