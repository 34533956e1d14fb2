//! Files, directories and standard input as text, bounded before they are read.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use crate::error::FieldError;

/// The largest file, in bytes: as many rules as a set may have, each with several prefixes.
pub const MAX_FILE_BYTES: u64 = 64 << 20;
/// The most that one call may bring, in bytes over all files.
pub const MAX_TOTAL_BYTES: u64 = 64 << 20;

/// The name of standard input in messages.
pub const STDIN: &str = "<stdin>";

/// The text of a file, with the name that errors give it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// As the operator named it.
    pub name: String,
    /// What is in it.
    pub text: String,
}

/// Reads what the paths name: a file; a directory's `*.yaml`, `*.yml` and `*.json` in order of name, not deeper;
/// `-` for `stdin`. Every path that cannot be read is an error of its own.
pub fn read_sources(
    paths: &[PathBuf],
    stdin: &mut dyn Read,
) -> Result<Vec<Source>, Vec<FieldError>> {
    let mut sources = Vec::new();
    let mut errors = Vec::new();
    let mut total = 0_u64;
    let mut take = |name: String, text: Result<String, String>| match text {
        Ok(text) => {
            total += text.len() as u64;
            if total > MAX_TOTAL_BYTES {
                let message = format!(
                    "the files together are larger than {} MiB",
                    MAX_TOTAL_BYTES >> 20
                );
                errors.push(FieldError::of_file(&name, message));
            } else {
                sources.push(Source { name, text });
            }
        }
        Err(message) => errors.push(FieldError::of_file(&name, message)),
    };
    for path in paths {
        if path.as_os_str() == "-" {
            take(STDIN.to_owned(), read_text(&mut *stdin));
            continue;
        }
        match files_of(path) {
            Ok(files) => {
                for file in files {
                    take(file.display().to_string(), read_file(&file));
                }
            }
            Err(message) => take(path.display().to_string(), Err(message)),
        }
    }
    if errors.is_empty() {
        Ok(sources)
    } else {
        Err(errors)
    }
}

fn files_of(path: &Path) -> Result<Vec<PathBuf>, String> {
    if !std::fs::metadata(path)
        .map_err(|error| error.to_string())?
        .is_dir()
    {
        return Ok(vec![path.to_owned()]);
    }
    let is_document = |file: &PathBuf| {
        let extension = file.extension().and_then(|extension| extension.to_str());
        matches!(extension, Some("yaml" | "yml" | "json")) && file.is_file()
    };
    let entries: io::Result<Vec<PathBuf>> = std::fs::read_dir(path)
        .and_then(|entries| entries.map(|entry| Ok(entry?.path())).collect());
    let mut files: Vec<PathBuf> = entries
        .map_err(|error| error.to_string())?
        .into_iter()
        .filter(is_document)
        .collect();
    if files.is_empty() {
        return Err("no *.yaml, *.yml or *.json in this directory".to_owned());
    }
    files.sort();
    Ok(files)
}

fn read_file(path: &Path) -> Result<String, String> {
    let file = File::open(path).map_err(|error| error.to_string())?;
    let length = file.metadata().map_err(|error| error.to_string())?.len();
    if length > MAX_FILE_BYTES {
        return Err(too_large(&format!("{} MiB", length >> 20)));
    }
    read_text(file)
}

fn read_text(reader: impl Read) -> Result<String, String> {
    let mut bytes = Vec::new();
    reader
        .take(MAX_FILE_BYTES + 1)
        .read_to_end(&mut bytes)
        .map_err(|error| error.to_string())?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(too_large("more than that"));
    }
    String::from_utf8(bytes).map_err(|error| {
        let valid = &error.as_bytes()[..error.utf8_error().valid_up_to()];
        let line = valid.split(|byte| *byte == b'\n').count();
        format!("not UTF-8 text (line {line})")
    })
}

fn too_large(size: &str) -> String {
    format!(
        "the file is too large: a file may have {} MiB, this one has {size}",
        MAX_FILE_BYTES >> 20
    )
}
