//! What a scenario found out: figures and checks, each with words that a person can read.

use std::fmt;

use serde::{Deserialize, Serialize};

/// One line of a scenario's result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub what: String,
    /// What was seen.
    pub seen: String,
    /// Whether it was as it should be.
    pub verdict: Verdict,
}

/// Whether a finding was as it should be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// As it should be.
    Good,
    /// Not as it should be.
    Bad,
    /// A figure that nothing is demanded of.
    Figure,
}

impl fmt::Display for Finding {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mark = match self.verdict {
            Verdict::Good => "ok  ",
            Verdict::Bad => "BAD ",
            Verdict::Figure => "    ",
        };
        write!(formatter, "{mark} {}: {}", self.what, self.seen)
    }
}

/// What a scenario found out so far. Findings are printed as they come.
#[derive(Debug, Default, Serialize, Deserialize)]
pub struct Findings(Vec<Finding>);

impl Findings {
    /// Something that must hold, and what was seen.
    pub fn check(&mut self, what: impl Into<String>, holds: bool, seen: impl fmt::Display) {
        let verdict = if holds { Verdict::Good } else { Verdict::Bad };
        self.add(Finding {
            what: what.into(),
            seen: seen.to_string(),
            verdict,
        });
    }

    /// Two values that must be equal.
    pub fn equal<T: PartialEq + fmt::Debug>(
        &mut self,
        what: impl Into<String>,
        seen: &T,
        wanted: &T,
    ) {
        if seen == wanted {
            self.check(what, true, format_args!("{seen:?}"));
        } else {
            self.check(what, false, format_args!("{seen:?}, should be {wanted:?}"));
        }
    }

    /// A figure worth seeing.
    pub fn figure(&mut self, what: impl Into<String>, seen: impl fmt::Display) {
        self.add(Finding {
            what: what.into(),
            seen: seen.to_string(),
            verdict: Verdict::Figure,
        });
    }

    /// A scenario that could not be finished.
    pub fn failure(&mut self, what: impl Into<String>, error: &anyhow::Error) {
        self.check(what, false, format_args!("{error:#}"));
    }

    fn add(&mut self, finding: Finding) {
        println!("    {finding}");
        self.0.push(finding);
    }

    /// All findings, in the order in which they came.
    pub fn list(&self) -> &[Finding] {
        &self.0
    }

    /// Whether nothing was bad.
    pub fn all_good(&self) -> bool {
        self.0.iter().all(|finding| finding.verdict != Verdict::Bad)
    }
}
