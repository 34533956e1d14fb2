//! Reading the vectors of one file, line by line.

use std::collections::BTreeMap;
use std::path::Path;

use super::{Fixture, LoadError, Outcome, Step, Vector, logical_lines, stem};
use crate::encode::{Bindings, encode};
use crate::layer::FrameText;

/// What has been read of a vector file so far.
struct Reader<'a> {
    path: &'a Path,
    fixtures: &'a BTreeMap<String, Fixture>,
    default_config: Option<String>,
    vectors: Vec<Vector>,
    /// A frame that went in and waits for its `out` line.
    pending: Option<(usize, String, FrameText)>,
    /// The configuration in force at this point of the vector.
    config: String,
}

pub(super) fn load_vectors(
    path: &Path,
    fixtures: &BTreeMap<String, Fixture>,
) -> Result<Vec<Vector>, LoadError> {
    let mut reader = Reader {
        path,
        fixtures,
        default_config: None,
        vectors: Vec::new(),
        pending: None,
        config: String::new(),
    };
    let mut last_line = 1;
    for (line, text) in logical_lines(path)? {
        last_line = line;
        reader
            .line(line, &text)
            .map_err(|message| LoadError::Line {
                path: path.to_owned(),
                line,
                message,
            })?;
    }
    reader.end_of_vector().map_err(|message| LoadError::Line {
        path: path.to_owned(),
        line: last_line,
        message,
    })?;
    Ok(reader.vectors)
}

impl Reader<'_> {
    fn line(&mut self, line: usize, text: &str) -> Result<(), String> {
        let (keyword, rest) = text.split_once(char::is_whitespace).unwrap_or((text, ""));
        let rest = rest.trim();
        if !matches!(keyword, "config" | "vector") && self.vectors.is_empty() {
            return Err(format!("`{keyword}` before the first `vector`"));
        }
        match keyword {
            "config" if self.vectors.is_empty() => self.default_config = Some(rest.to_owned()),
            "config" => self.config_line(rest)?,
            "vector" => self.start(line, rest)?,
            "only" => {
                let tiers = rest.split_whitespace().map(ToOwned::to_owned);
                self.vector().only.extend(tiers);
            }
            "wait" => {
                let ms = rest
                    .parse()
                    .map_err(|_| format!("`wait {rest}` needs milliseconds"))?;
                self.step(Step::Wait { ms })?;
            }
            "later" => {
                let outcome = self.outcome(rest)?;
                self.step(Step::Later { line, outcome })?;
            }
            "in" => self.input(line, rest)?,
            "out" => self.output(None, rest)?,
            "copy" => self.copy(rest)?,
            _ => match keyword
                .strip_prefix("out[")
                .and_then(|tier| tier.strip_suffix(']'))
            {
                Some(tier) => self.output(Some(tier.to_owned()), rest)?,
                None => return Err(format!("`{keyword}` is not a word of vector files")),
            },
        }
        Ok(())
    }

    fn vector(&mut self) -> &mut Vector {
        self.vectors.last_mut().expect("checked by the caller")
    }

    fn start(&mut self, line: usize, name: &str) -> Result<(), String> {
        self.end_of_vector()?;
        let name = format!("{}/{name}", stem(self.path));
        if self.vectors.iter().any(|vector| vector.name == name) {
            return Err(format!("`{name}` is there twice"));
        }
        let config = self
            .default_config
            .clone()
            .ok_or("the file needs a `config` line before its first vector")?;
        self.fixture(&config)?;
        self.config.clone_from(&config);
        self.vectors.push(Vector {
            name,
            path: self.path.to_owned(),
            line,
            config,
            only: Vec::new(),
            steps: Vec::new(),
        });
        Ok(())
    }

    /// Before the first frame `config` says where the vector starts, later it is a change under way.
    fn config_line(&mut self, name: &str) -> Result<(), String> {
        self.fixture(name)?;
        name.clone_into(&mut self.config);
        if self.vector().steps.is_empty() && self.pending.is_none() {
            name.clone_into(&mut self.vector().config);
            return Ok(());
        }
        self.step(Step::Switch(name.to_owned()))
    }

    fn step(&mut self, step: Step) -> Result<(), String> {
        self.no_pending()?;
        self.vector().steps.push(step);
        Ok(())
    }

    fn no_pending(&self) -> Result<(), String> {
        match &self.pending {
            Some((line, ..)) => Err(format!("the frame of line {line} has no `out`")),
            None => Ok(()),
        }
    }

    fn end_of_vector(&mut self) -> Result<(), String> {
        self.no_pending()?;
        match self.vectors.last() {
            Some(vector) if vector.steps.is_empty() => {
                Err(format!("`{}` does nothing", vector.name))
            }
            _ => Ok(()),
        }
    }

    fn fixture(&self, name: &str) -> Result<&Fixture, String> {
        self.fixtures
            .get(name)
            .ok_or_else(|| format!("there is no configuration `{name}`"))
    }

    fn input(&mut self, line: usize, rest: &str) -> Result<(), String> {
        self.no_pending()?;
        let (port, frame) = self.port_and_frame(rest)?;
        self.pending = Some((line, port, frame));
        Ok(())
    }

    fn output(&mut self, tier: Option<String>, rest: &str) -> Result<(), String> {
        let outcome = self.outcome(rest)?;
        match tier {
            None => {
                let (line, port, frame) = self.pending.take().ok_or("`out` without an `in`")?;
                self.vector().steps.push(Step::Frame {
                    line,
                    port,
                    frame,
                    outcome,
                    exceptions: BTreeMap::new(),
                    copies: Vec::new(),
                });
            }
            Some(tier) => match self.vector().steps.last_mut() {
                Some(Step::Frame { exceptions, .. }) => {
                    exceptions.insert(tier, outcome);
                }
                _ => return Err("`out[tier]` comes after the `out` that it excepts from".into()),
            },
        }
        Ok(())
    }

    fn copy(&mut self, port: &str) -> Result<(), String> {
        let fixture = self.fixture(&self.config)?;
        if !fixture.ports.iter().any(|known| known == port) {
            return Err(format!("`{}` has no port `{port}`", fixture.name));
        }
        match self.vector().steps.last_mut() {
            Some(Step::Frame { copies, .. }) => copies.push(port.to_owned()),
            _ => return Err("`copy` comes after the `out` of the frame".into()),
        }
        Ok(())
    }

    fn outcome(&self, rest: &str) -> Result<Outcome, String> {
        let (verb, rest) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
        Ok(match verb {
            "forward" => {
                let (port, frame) = self.port_and_frame(rest)?;
                Outcome::Forward { port, frame }
            }
            "answer" => {
                let (port, frame) = self.port_and_frame(rest)?;
                Outcome::Answer { port, frame }
            }
            "punt" if rest.is_empty() => Outcome::Punt,
            "hold" if rest.is_empty() => Outcome::Hold,
            "drop" if !rest.is_empty() => Outcome::Drop(rest.trim().to_owned()),
            _ => {
                return Err(format!(
                    "`out {verb} {rest}`: forward PORT FRAME, answer PORT FRAME, punt, hold or drop REASON"
                ));
            }
        })
    }

    fn port_and_frame(&self, text: &str) -> Result<(String, FrameText), String> {
        let (port, frame) = text
            .trim()
            .split_once(char::is_whitespace)
            .ok_or("a port and a frame are needed")?;
        let fixture = self.fixture(&self.config)?;
        if !fixture.ports.iter().any(|known| known == port) {
            return Err(format!("`{}` has no port `{port}`", fixture.name));
        }
        let frame = FrameText::parse(&expand(frame, &fixture.pieces)?)?;
        let encoded = encode(&frame, &fixture.names, &Bindings::new())?;
        for slot in &encoded.slots {
            if !slot.name.starts_with('*') && !fixture.variables.contains_key(&slot.name) {
                return Err(format!(
                    "`{}` does not say what ${} may be",
                    fixture.name, slot.name
                ));
            }
        }
        Ok((port.to_owned(), frame))
    }
}

/// Replaces every `@word` by its piece, which may use pieces too.
fn expand(text: &str, pieces: &BTreeMap<String, String>) -> Result<String, String> {
    let mut text = text.to_owned();
    for _ in 0..8 {
        let Some(at) = text.find('@') else {
            return Ok(text);
        };
        let end = text[at + 1..]
            .find(|letter: char| !letter.is_alphanumeric() && letter != '_')
            .map_or(text.len(), |len| at + 1 + len);
        let name = &text[at + 1..end];
        let piece = pieces
            .get(name)
            .ok_or_else(|| format!("there is no piece `@{name}`"))?;
        text = format!("{}{piece}{}", &text[..at], &text[end..]);
    }
    Err(format!("pieces go round in circles in `{text}`"))
}
