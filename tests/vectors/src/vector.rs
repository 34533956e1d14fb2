//! Vector files: what goes in, what must come out.
//!
//! The format is described in `README.md` beside the data. Everything is checked when it is read: a vector that cannot be
//! encoded is an error of the file, with its line, long before a frame moves.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use crate::encode::{Names, parse_literal};
use crate::layer::FrameText;

mod read;

use read::load_vectors;

/// The file or a line of it is wrong.
#[derive(Debug, thiserror::Error)]
pub enum LoadError {
    /// The file could not be read.
    #[error("{path}: {source}")]
    Read {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// A line does not say anything that makes sense.
    #[error("{path}:{line}: {message}")]
    Line {
        /// Which file.
        path: PathBuf,
        /// Line number, from 1.
        line: usize,
        /// What is wrong with it.
        message: String,
    },
}

/// One line of a configuration: a keyword, positional words and `key=value` fields.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statement {
    /// Line number, from 1.
    pub line: usize,
    /// `port`, `service`, ...
    pub keyword: String,
    /// Words without `=`.
    pub words: Vec<String>,
    /// Words with `=`.
    pub fields: BTreeMap<String, String>,
}

/// A configuration fragment that vectors run under.
#[derive(Clone, Debug)]
pub struct Fixture {
    /// File name without extension.
    pub name: String,
    /// Where it was read from.
    pub path: PathBuf,
    /// Statements that become tables.
    pub statements: Vec<Statement>,
    /// Values that frames use by name.
    pub names: Names,
    /// Pieces of frames that vectors use as `@word`.
    pub pieces: BTreeMap<String, String>,
    /// What each variable may hold.
    pub variables: BTreeMap<String, Constraint>,
    /// Variables that must not have the same value at the same time.
    pub distinct: Vec<Vec<String>>,
    /// Ports in the order of their ids.
    pub ports: Vec<String>,
}

/// The values that a variable may take.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Constraint {
    /// A number from the first to the last, inclusive.
    Range(u64, u64),
    /// One of these, as the bytes of the field; empty entries cannot occur.
    OneOf(Vec<String>),
}

impl Constraint {
    /// Whether `bytes`, the bytes of a field, are allowed.
    pub fn allows(&self, bytes: &[u8], names: &Names) -> bool {
        match self {
            Constraint::Range(first, last) => {
                let number = bytes
                    .iter()
                    .fold(0_u64, |sum, byte| (sum << 8) | u64::from(*byte));
                bytes.len() <= 8 && (*first..=*last).contains(&number)
            }
            Constraint::OneOf(values) => values.iter().any(|value| {
                let value = names.values.get(value).unwrap_or(value);
                parse_literal(value, bytes.len()).is_some_and(|allowed| allowed == bytes)
            }),
        }
    }
}

/// What must happen to the frame that went in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// Leaves by a port, rewritten.
    Forward {
        /// Port name.
        port: String,
        /// How the frame must look.
        frame: FrameText,
    },
    /// Turned into a reply that leaves by a port.
    Answer {
        /// Port name.
        port: String,
        /// How the reply must look.
        frame: FrameText,
    },
    /// Goes to the kernel as it came.
    Punt,
    /// Waits for a next hop.
    Hold,
    /// Dropped with this word.
    Drop(String),
}

/// One step of a vector.
#[derive(Clone, Debug)]
pub enum Step {
    /// A frame comes in.
    Frame {
        /// Line of the `in`.
        line: usize,
        /// Ingress port name.
        port: String,
        /// The frame.
        frame: FrameText,
        /// What must happen, everywhere ...
        outcome: Outcome,
        /// ... except on the tiers named here.
        exceptions: BTreeMap<String, Outcome>,
        /// Ports that a copy of the frame leaves by, as it came in.
        copies: Vec<String>,
    },
    /// A frame that was held before goes on its way now.
    Later {
        /// Line of the `later`.
        line: usize,
        /// What must happen to it.
        outcome: Outcome,
    },
    /// The configuration changes to this one.
    Switch(String),
    /// So much time passes.
    Wait {
        /// Milliseconds.
        ms: u32,
    },
}

/// A named sequence of frames under one configuration.
#[derive(Clone, Debug)]
pub struct Vector {
    /// `file/name`.
    pub name: String,
    /// Where it was read from.
    pub path: PathBuf,
    /// Line of its first word.
    pub line: usize,
    /// Configuration that it starts under.
    pub config: String,
    /// Tiers that it runs on; empty means all.
    pub only: Vec<String>,
    /// What happens, in order.
    pub steps: Vec<Step>,
}

/// Everything that was loaded.
#[derive(Clone, Debug)]
pub struct Suite {
    /// Configurations by name.
    pub fixtures: BTreeMap<String, Fixture>,
    /// Vectors in the order of the files and of the lines.
    pub vectors: Vec<Vector>,
}

impl Suite {
    /// Reads `configs/*.conf` and `*.vec` under `root`, checking every line.
    pub fn load(root: &Path) -> Result<Self, LoadError> {
        let mut fixtures = BTreeMap::new();
        for path in files(&root.join("configs"), "conf")? {
            let fixture = load_fixture(&path)?;
            fixtures.insert(fixture.name.clone(), fixture);
        }
        let mut vectors = Vec::new();
        for path in files(root, "vec")? {
            vectors.extend(load_vectors(&path, &fixtures)?);
        }
        Ok(Self { fixtures, vectors })
    }

    /// The set that ships with this crate.
    pub fn shipped() -> Result<Self, LoadError> {
        Self::load(&Path::new(env!("CARGO_MANIFEST_DIR")).join("data"))
    }
}

fn files(folder: &Path, extension: &str) -> Result<Vec<PathBuf>, LoadError> {
    let read = |source| LoadError::Read {
        path: folder.to_owned(),
        source,
    };
    let mut paths = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(read)? {
        let path = entry.map_err(read)?.path();
        if path.extension().is_some_and(|found| found == extension) {
            paths.push(path);
        }
    }
    paths.sort();
    Ok(paths)
}

/// Lines with their numbers: comments and blank lines gone, a trailing `\` joins a line with the next.
fn logical_lines(path: &Path) -> Result<Vec<(usize, String)>, LoadError> {
    let text = std::fs::read_to_string(path).map_err(|source| LoadError::Read {
        path: path.to_owned(),
        source,
    })?;
    let mut lines = Vec::new();
    let mut pending: Option<(usize, String)> = None;
    for (index, raw) in text.lines().enumerate() {
        let line = raw.trim();
        if pending.is_none() && (line.is_empty() || line.starts_with('#')) {
            continue;
        }
        let (number, mut joined) = pending.take().unwrap_or((index + 1, String::new()));
        if let Some(more) = line.strip_suffix('\\') {
            joined.push_str(more.trim_end());
            joined.push(' ');
            pending = Some((number, joined));
        } else {
            joined.push_str(line);
            lines.push((number, joined));
        }
    }
    lines.extend(pending);
    Ok(lines)
}

fn stem(path: &Path) -> String {
    path.file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned()
}

fn load_fixture(path: &Path) -> Result<Fixture, LoadError> {
    let mut fixture = Fixture {
        name: stem(path),
        path: path.to_owned(),
        statements: Vec::new(),
        names: Names::default(),
        pieces: BTreeMap::new(),
        variables: BTreeMap::new(),
        distinct: Vec::new(),
        ports: Vec::new(),
    };
    for (line, text) in logical_lines(path)? {
        add_statement(&mut fixture, line, &text).map_err(|message| LoadError::Line {
            path: path.to_owned(),
            line,
            message,
        })?;
    }
    Ok(fixture)
}

fn add_statement(fixture: &mut Fixture, line: usize, text: &str) -> Result<(), String> {
    let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
    let rest = rest.trim();
    let two = || {
        rest.split_once(char::is_whitespace)
            .map(|(name, value)| (name.to_owned(), value.trim().to_owned()))
            .ok_or_else(|| format!("`{keyword}` needs a name and a value"))
    };
    match keyword {
        "include" => {
            let base = load_fixture(&fixture.path.with_file_name(format!("{rest}.conf")))
                .map_err(|error| error.to_string())?;
            fixture.statements.extend(base.statements);
            fixture.names.values.extend(base.names.values);
            fixture.pieces.extend(base.pieces);
            fixture.variables.extend(base.variables);
            fixture.distinct.extend(base.distinct);
            fixture.ports.extend(base.ports);
        }
        "remove" => {
            let (kind, name) = two()?;
            let before = fixture.statements.len();
            fixture
                .statements
                .retain(|statement| statement.keyword != kind || statement.words.join(" ") != name);
            if kind == "port" {
                // One that is given again gets the last id; configurations of one family keep the order.
                fixture.ports.retain(|port| *port != name);
            }
            if before == fixture.statements.len() {
                return Err(format!("there is no {kind} `{name}` to remove"));
            }
        }
        "distinct" => fixture
            .distinct
            .push(rest.split_whitespace().map(ToOwned::to_owned).collect()),
        "name" => {
            let (name, value) = two()?;
            fixture.names.values.insert(name, value);
        }
        "piece" => {
            let (name, value) = two()?;
            fixture.pieces.insert(name, value);
        }
        "var" => {
            let (name, value) = two()?;
            let range = value.split_once('-').and_then(|(first, last)| {
                Some(Constraint::Range(first.parse().ok()?, last.parse().ok()?))
            });
            let one_of =
                || Constraint::OneOf(value.split_whitespace().map(ToOwned::to_owned).collect());
            fixture.variables.insert(name, range.unwrap_or_else(one_of));
        }
        _ => {
            let statement = parse_statement(line, keyword, rest);
            if keyword == "port" {
                fixture.ports.extend(statement.words.first().cloned());
            }
            fixture.statements.push(statement);
        }
    }
    Ok(())
}

fn parse_statement(line: usize, keyword: &str, rest: &str) -> Statement {
    let mut statement = Statement {
        line,
        keyword: keyword.to_owned(),
        words: Vec::new(),
        fields: BTreeMap::new(),
    };
    for word in rest.split_whitespace() {
        match word.split_once('=') {
            Some((key, value)) => {
                statement.fields.insert(key.to_owned(), value.to_owned());
            }
            None => statement.words.push(word.to_owned()),
        }
    }
    statement
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(vec: &str) -> Result<Suite, LoadError> {
        let folder = tempfile::tempdir().unwrap();
        std::fs::create_dir(folder.path().join("configs")).unwrap();
        std::fs::write(
            folder.path().join("configs/one.conf"),
            "name a 02:00:00:00:00:01\nvar p 10-20\npiece E eth src=a dst=a\nport wan mac=a\n",
        )
        .unwrap();
        std::fs::write(folder.path().join("x.vec"), vec).unwrap();
        Suite::load(folder.path())
    }

    #[test]
    fn a_sequence_is_read() {
        let suite = load(
            "config one\nvector first\n# a comment\n in wan @E / ip4 \\\n  src=1.1.1.1 dst=2.2.2.2\n out drop runt\n out[af_xdp] punt\n",
        )
        .unwrap();
        assert_eq!(suite.vectors[0].name, "x/first");
        let Step::Frame {
            outcome,
            exceptions,
            line,
            ..
        } = &suite.vectors[0].steps[0]
        else {
            panic!("a frame was written");
        };
        assert_eq!(*outcome, Outcome::Drop("runt".to_owned()));
        assert_eq!(exceptions["af_xdp"], Outcome::Punt);
        assert_eq!(*line, 4);
    }

    #[test]
    fn mistakes_have_a_line() {
        for (text, expected) in [
            (
                "config one\nvector v\n in wan @X\n",
                ":3: there is no piece `@X`",
            ),
            (
                "config one\nvector v\n in lan @E\n",
                ":3: `one` has no port `lan`",
            ),
            (
                "config two\nvector v\n",
                ":2: there is no configuration `two`",
            ),
            (
                "config one\nvector v\n out punt\n",
                ":3: `out` without an `in`",
            ),
            (
                "config one\nvector v\n in wan @E\nvector w\n",
                ":4: the frame of line 3 has no `out`",
            ),
            (
                "config one\nvector v\n in wan @E / udp sport=$q\n",
                ":3: `one` does not say what $q may be",
            ),
            ("config one\nvector v\n", ":2: `x/v` does nothing"),
        ] {
            let error = load(text).unwrap_err().to_string();
            assert!(error.contains(expected), "{text:?} gave {error:?}");
        }
    }

    #[test]
    fn constraints() {
        let names = Names::default();
        assert!(Constraint::Range(10, 20).allows(&[0, 20], &names));
        assert!(!Constraint::Range(10, 20).allows(&[1, 20], &names));
        let one_of = Constraint::OneOf(vec!["10.0.0.1".to_owned(), "10.0.0.2".to_owned()]);
        assert!(one_of.allows(&[10, 0, 0, 2], &names));
        assert!(!one_of.allows(&[10, 0, 0, 3], &names));
    }
}
