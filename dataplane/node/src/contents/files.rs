//! Chunks as files of the state directory, each named by its hash.
//!
//! A file that was cut off or changed is found out when it is read, because its bytes have another hash: it is said,
//! removed, and then missing like one that was never there. So files are written in place, and only synced before a
//! revision that needs them is called good.

use std::collections::BTreeSet;
use std::fs;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use march_content::{Chunks, ContentError};
use march_model::ContentHash;

/// Beyond this many files one sync of the file system is cheaper than one of each.
const SYNC_EACH: usize = 64;

/// The directory.
#[derive(Debug)]
pub struct ChunkFiles {
    directory: PathBuf,
    /// What is there, as far as is known.
    names: Mutex<BTreeSet<ContentHash>>,
}

impl ChunkFiles {
    /// Looks what is in the directory; it is made when the first chunk is kept.
    #[must_use]
    pub fn open(directory: PathBuf) -> Self {
        let entries = fs::read_dir(&directory).into_iter().flatten().flatten();
        let names = entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
        Self {
            names: Mutex::new(names.collect()),
            directory,
        }
    }

    fn names(&self) -> MutexGuard<'_, BTreeSet<ContentHash>> {
        // Every change of it is one call.
        self.names.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn path(&self, hash: &ContentHash) -> PathBuf {
        self.directory.join(hash.to_string())
    }

    /// Writes those that are not there and makes sure that a power cut does not take them.
    pub fn keep<'a>(
        &self,
        chunks: impl Iterator<Item = (&'a ContentHash, &'a [u8])>,
    ) -> io::Result<()> {
        let missing: Vec<_> = chunks.filter(|(hash, _)| !self.has(hash)).collect();
        if missing.is_empty() {
            return Ok(());
        }
        fs::create_dir_all(&self.directory)?;
        let is_each = missing.len() <= SYNC_EACH;
        for (hash, bytes) in &missing {
            let mut file = fs::File::create(self.path(hash))?;
            file.write_all(bytes)?;
            if is_each {
                file.sync_all()?;
            }
        }
        let directory = fs::File::open(&self.directory)?;
        if is_each {
            directory.sync_all()?;
        } else {
            rustix::fs::syncfs(&directory)?;
        }
        // The directory may be new itself.
        if let Some(parent) = self.directory.parent() {
            fs::File::open(parent)?.sync_all()?;
        }
        self.names().extend(missing.iter().map(|(hash, _)| **hash));
        Ok(())
    }

    /// Removes what is not needed. What cannot be removed stays known and is tried again the next time.
    pub fn retain(&self, needed: &BTreeSet<ContentHash>) {
        let mut names = self.names();
        names.retain(|hash| needed.contains(hash) || !is_gone(&self.path(hash)));
    }
}

fn is_gone(path: &Path) -> bool {
    match fs::remove_file(path) {
        Ok(()) => true,
        Err(error) => error.kind() == io::ErrorKind::NotFound,
    }
}

impl Chunks for ChunkFiles {
    fn read(&self, hash: &ContentHash) -> Result<Vec<u8>, ContentError> {
        let missing = ContentError::Missing { hash: *hash };
        if !self.has(hash) {
            return Err(missing);
        }
        let path = self.path(hash);
        let why = match fs::read(&path) {
            Ok(bytes) if ContentHash::of(&bytes) == *hash => return Ok(bytes),
            Ok(_) => "it was cut off or changed".to_owned(),
            Err(error) => error.to_string(),
        };
        tracing::error!(
            event = "last_good.chunk_damaged",
            path = %path.display(),
            why,
            "a chunk of an address set cannot be used; marchd is asked for it again"
        );
        self.names().remove(hash);
        // It is not known any more: what is left of it is overwritten when the chunk comes again.
        let _ = is_gone(&path);
        Err(missing)
    }

    fn has(&self, hash: &ContentHash) -> bool {
        self.names().contains(hash)
    }
}
