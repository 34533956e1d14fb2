//! Prefixes as people write them: one a line, `#` starts a comment, blank lines do not count.

use march_model::Prefix;

use crate::MAX_PREFIXES;

/// How many wrong lines are told of; the others are counted.
pub const MAX_LINE_ERRORS: usize = 100;

/// The longest line, in bytes; a comment may be that long.
const MAX_LINE_BYTES: usize = 4_096;

/// A line that is wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LineError {
    /// Counts from 1.
    pub line: u32,
    /// What is wrong, with the offending text in it.
    pub message: String,
}

/// Why a list is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ListError {
    /// Lines are wrong.
    #[error("{count} wrong lines")]
    Lines {
        /// The first [`MAX_LINE_ERRORS`] of them.
        errors: Vec<LineError>,
        /// How many there are.
        count: usize,
    },
    /// Too long.
    #[error(
        "the list has more than {MAX_PREFIXES} different prefixes, which is the most that one set holds"
    )]
    Bound,
}

/// Reads a list piece by piece.
#[derive(Debug, Default)]
pub struct List {
    prefixes: Vec<Prefix>,
    /// A line whose end has not come yet.
    open: Vec<u8>,
    is_open_too_long: bool,
    line: u32,
    errors: Vec<LineError>,
    wrong: usize,
    is_beyond_bound: bool,
}

impl List {
    /// Reads a piece; it may end inside a line.
    pub fn push(&mut self, piece: &[u8]) {
        let mut rest = piece;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            if self.open.is_empty() {
                self.read_line(&rest[..end]);
            } else {
                self.extend_open(&rest[..end]);
                self.end_open();
            }
            rest = &rest[end + 1..];
        }
        self.extend_open(rest);
    }

    /// Whether reading on is of no use: it will be refused, and no more will be said.
    #[must_use]
    pub fn is_beyond_bound(&self) -> bool {
        self.is_beyond_bound
    }

    /// The prefixes, sorted, each once; or everything that is wrong.
    pub fn finish(mut self) -> Result<Vec<Prefix>, ListError> {
        // Who stops reading at the bound stops inside a line.
        if !self.open.is_empty() && !self.is_beyond_bound {
            self.end_open();
        }
        self.compact();
        if self.wrong > 0 {
            return Err(ListError::Lines {
                errors: self.errors,
                count: self.wrong,
            });
        }
        if self.is_beyond_bound {
            return Err(ListError::Bound);
        }
        Ok(self.prefixes)
    }

    fn extend_open(&mut self, part: &[u8]) {
        let room = MAX_LINE_BYTES.saturating_sub(self.open.len());
        self.is_open_too_long |= part.len() > room;
        self.open.extend_from_slice(&part[..part.len().min(room)]);
    }

    fn end_open(&mut self) {
        let line = std::mem::take(&mut self.open);
        if std::mem::take(&mut self.is_open_too_long) {
            self.line += 1;
            self.refuse(format!("the line is longer than {MAX_LINE_BYTES} bytes"));
        } else {
            self.read_line(&line);
        }
    }

    fn read_line(&mut self, line: &[u8]) {
        self.line = self.line.saturating_add(1);
        if line.len() > MAX_LINE_BYTES {
            return self.refuse(format!("the line is longer than {MAX_LINE_BYTES} bytes"));
        }
        let written = line.split(|byte| *byte == b'#').next().unwrap_or_default();
        match std::str::from_utf8(written).map(str::trim) {
            Ok("") => {}
            Ok(text) => match text.parse() {
                Ok(prefix) => self.keep(prefix),
                Err(message) => self.refuse(message),
            },
            Err(_) => self.refuse(format!(
                "`{}` is not text",
                written
                    .escape_ascii()
                    .to_string()
                    .get(..80)
                    .unwrap_or("...")
            )),
        }
    }

    fn refuse(&mut self, message: String) {
        self.wrong += 1;
        if self.errors.len() < MAX_LINE_ERRORS {
            let line = self.line;
            self.errors.push(LineError { line, message });
        }
    }

    /// Prefixes may repeat; memory is spent on twice the bound at most.
    fn keep(&mut self, prefix: Prefix) {
        if self.is_beyond_bound {
            return;
        }
        self.prefixes.push(prefix);
        if self.prefixes.len() > 2 * MAX_PREFIXES {
            self.compact();
        }
    }

    fn compact(&mut self) {
        self.prefixes.sort_unstable();
        self.prefixes.dedup();
        if self.prefixes.len() > MAX_PREFIXES {
            self.is_beyond_bound = true;
            self.prefixes = Vec::new();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> Result<Vec<String>, ListError> {
        let mut list = List::default();
        list.push(text.as_bytes());
        Ok(list.finish()?.iter().map(Prefix::to_string).collect())
    }

    #[test]
    fn comments_blank_lines_repeats_and_order_do_not_matter() {
        let text =
            "# scanners\n\n2001:db8::/32 # documentation\r\n10.0.0.0/8\n  192.0.2.1\n10.0.0.0/8";
        assert_eq!(
            read(text).unwrap(),
            ["10.0.0.0/8", "192.0.2.1", "2001:db8::/32"]
        );
        assert_eq!(read("# nothing\n").unwrap(), [""; 0]);
    }

    #[test]
    fn pieces_may_be_cut_anywhere() {
        let text = "10.0.0.0/8\n# a comment\n2001:db8::/32\n\n192.0.2.0/24";
        for size in 1..text.len() {
            let mut list = List::default();
            text.as_bytes()
                .chunks(size)
                .for_each(|piece| list.push(piece));
            assert_eq!(list.finish().unwrap().len(), 3, "pieces of {size}");
        }
    }

    #[test]
    fn every_wrong_line_is_named() {
        let error = read("10.0.0.0/8\n10.0.0.1/8\nweb\n\n::ffff:10.0.0.1\n1.2.3.4 5.6.7.8\n");
        let Err(ListError::Lines { errors, count: 4 }) = error else {
            panic!("{error:?}");
        };
        let lines: Vec<u32> = errors.iter().map(|error| error.line).collect();
        assert_eq!(lines, [2, 3, 5, 6]);
        assert!(errors[0].message.contains("write 10.0.0.0/8"), "{errors:?}");
        let many = read(&"x\n".repeat(1_000));
        let Err(ListError::Lines { errors, count }) = many else {
            panic!("{many:?}");
        };
        assert_eq!((errors.len(), count), (MAX_LINE_ERRORS, 1_000));
    }

    #[test]
    fn a_line_without_an_end_takes_bounded_memory() {
        let mut list = List::default();
        for _ in 0..1_000 {
            list.push(&[b'1'; 1_000]);
            assert!(list.open.len() <= MAX_LINE_BYTES);
        }
        list.push(b"\n10.0.0.0/8\n\xff\xfe\n");
        let Err(ListError::Lines { errors, .. }) = list.finish() else {
            panic!("refused");
        };
        assert_eq!((errors[0].line, errors[1].line), (1, 3));
    }

    #[test]
    fn more_different_prefixes_than_a_set_holds_are_refused() {
        let most = u32::try_from(MAX_PREFIXES).unwrap();
        let read = |count: u32| {
            let mut list = List::default();
            for number in (0..count).chain(0..most) {
                list.keep(Prefix::new(std::net::Ipv4Addr::from(number).into(), 32).unwrap());
            }
            list.finish().map(|prefixes| prefixes.len())
        };
        assert_eq!(read(most), Ok(MAX_PREFIXES), "all of them twice");
        assert_eq!(read(most + 1), Err(ListError::Bound));
        assert_eq!(read(5_000_000), Err(ListError::Bound));
    }
}
