//! Reading a tree into types: every problem is noted with its place, and reading goes on.

use std::cell::RefCell;
use std::collections::HashMap;
use std::str::FromStr;

use crate::error::FieldError;
use crate::scalar::whole_number;
use crate::tree::{Entry, Node, Tree};

/// Where the fields of one document were written: field path to (line, column).
pub(crate) type Positions = HashMap<String, (u32, u32)>;

/// What reading one document collects.
pub(crate) struct Reading<'a> {
    pub file: &'a str,
    pub document: RefCell<String>,
    pub errors: RefCell<Vec<FieldError>>,
    pub warnings: RefCell<Vec<FieldError>>,
    pub positions: RefCell<Positions>,
}

impl<'a> Reading<'a> {
    pub fn new(file: &'a str) -> Self {
        Self {
            file,
            document: RefCell::default(),
            errors: RefCell::default(),
            warnings: RefCell::default(),
            positions: RefCell::default(),
        }
    }
}

/// A value, where it stands, and what it is called.
pub(crate) struct Place<'a> {
    reading: &'a Reading<'a>,
    tree: &'a Tree,
    path: String,
}

impl<'a> Place<'a> {
    pub fn root(reading: &'a Reading<'a>, tree: &'a Tree) -> Self {
        Self::at(reading, tree, String::new())
    }

    fn at(reading: &'a Reading<'a>, tree: &'a Tree, path: String) -> Self {
        if tree.line > 0 {
            reading
                .positions
                .borrow_mut()
                .insert(path.clone(), (tree.line, tree.column));
        }
        Self {
            reading,
            tree,
            path,
        }
    }

    pub fn path(&self) -> &str {
        &self.path
    }

    /// The same value, read on its own.
    pub fn restart<'b>(&self, reading: &'b Reading<'b>) -> Place<'b>
    where
        'a: 'b,
    {
        Place::at(reading, self.tree, String::new())
    }

    /// Errors from here on are of this document.
    pub fn now_reading(&self, document: String) {
        *self.reading.document.borrow_mut() = document;
    }

    /// Notes an error of this value.
    pub fn error(&self, message: String) {
        self.note((self.tree.line, self.tree.column), &self.path, message);
    }

    /// Notes an error of a value read before, or of this one if that was not written.
    pub fn error_at(&self, path: &str, message: String) {
        self.note(self.place_of(path), path, message);
    }

    /// Notes that a value read before is allowed, but probably not meant.
    pub fn warning_at(&self, path: &str, message: String) {
        let warning = self.finding(self.place_of(path), path, message);
        self.reading.warnings.borrow_mut().push(warning);
    }

    fn place_of(&self, path: &str) -> (u32, u32) {
        let known = self.reading.positions.borrow().get(path).copied();
        known.unwrap_or((self.tree.line, self.tree.column))
    }

    fn note(&self, place: (u32, u32), path: &str, message: String) {
        let error = self.finding(place, path, message);
        self.reading.errors.borrow_mut().push(error);
    }

    fn finding(&self, (line, column): (u32, u32), path: &str, message: String) -> FieldError {
        FieldError {
            file: self.reading.file.to_owned(),
            line,
            column,
            document: self.reading.document.borrow().clone(),
            path: path.to_owned(),
            message,
        }
    }

    /// The text of a scalar.
    pub fn text(&self) -> Option<&'a str> {
        match &self.tree.node {
            Node::Scalar { text, .. } if !self.tree.is_null() => Some(text),
            _ => {
                self.error(format!("must be a value, not {}", self.tree.describe()));
                None
            }
        }
    }

    /// A scalar, by the type's own reading.
    pub fn parse<T: FromStr<Err = String>>(&self) -> Option<T> {
        self.parse_with(T::from_str)
    }

    /// A scalar, by the reading given.
    pub fn parse_with<T>(&self, read: impl FnOnce(&str) -> Result<T, String>) -> Option<T> {
        read(self.text()?)
            .map_err(|message| self.error(message))
            .ok()
    }

    /// A whole number from `least` to `most`.
    pub fn number<T>(&self, least: T, most: T) -> Option<T>
    where
        T: Copy + TryFrom<u64> + PartialOrd + std::fmt::Display,
    {
        self.parse_with(|text| {
            whole_number(text)
                .and_then(|number| T::try_from(number).ok())
                .filter(|number| *number >= least && *number <= most)
                .ok_or_else(|| {
                    format!(
                        "`{}` is not a whole number from {least} to {most}",
                        crate::name::shorten(text)
                    )
                })
        })
    }

    /// How many items a list has.
    pub fn count(&self) -> Option<usize> {
        match &self.tree.node {
            Node::Sequence(items) => Some(items.len()),
            _ => None,
        }
    }

    /// Every item of a list; nothing if one of them is wrong.
    pub fn list<T>(&self, mut read: impl FnMut(&Place<'a>) -> Option<T>) -> Option<Vec<T>> {
        let Node::Sequence(items) = &self.tree.node else {
            self.error(format!("must be a list, not {}", self.tree.describe()));
            return None;
        };
        let read_all: Vec<Option<T>> = items
            .iter()
            .enumerate()
            .map(|(index, item)| {
                read(&Place::at(
                    self.reading,
                    item,
                    format!("{}[{index}]", self.path),
                ))
            })
            .collect();
        read_all.into_iter().collect()
    }

    /// A list whose order says nothing, sorted; an item given twice is an error.
    pub fn set<T>(
        &self,
        what: &str,
        mut read: impl FnMut(&Place<'a>) -> Option<T>,
    ) -> Option<Vec<T>>
    where
        T: Ord + std::fmt::Display,
    {
        let mut items = self.list(|item| Some((read(item)?, item.path.clone())))?;
        items.sort();
        let mut unique = true;
        for pair in items.windows(2) {
            if pair[0].0 == pair[1].0 {
                self.error_at(
                    &pair[1].1,
                    format!("the {what} {} is given twice", pair[1].0),
                );
                unique = false;
            }
        }
        unique.then(|| items.into_iter().map(|(item, _)| item).collect())
    }

    /// The items of a list or, of anything else, itself.
    pub fn items(&self) -> Vec<Place<'a>> {
        match &self.tree.node {
            Node::Sequence(items) => items
                .iter()
                .map(|item| Place::root(self.reading, item))
                .collect(),
            _ => vec![Place::at(self.reading, self.tree, self.path.clone())],
        }
    }

    /// A mapping, to be read field by field.
    pub fn mapping(&self) -> Option<Fields<'_, 'a>> {
        if let Node::Mapping(entries) = &self.tree.node {
            return Some(Fields {
                place: self,
                entries,
                known: Vec::new(),
            });
        }
        self.error(format!(
            "must be a mapping of fields, not {}",
            self.tree.describe()
        ));
        None
    }

    /// A mapping of free keys to text.
    pub fn pairs(&self) -> Option<Vec<(&'a str, Place<'a>)>> {
        let Node::Mapping(entries) = &self.tree.node else {
            self.error(format!("must be a mapping, not {}", self.tree.describe()));
            return None;
        };
        let place = |entry: &'a Entry| {
            (
                entry.key.as_str(),
                Place::at(self.reading, &entry.value, self.path_of(&entry.key)),
            )
        };
        Some(entries.iter().map(place).collect())
    }

    fn path_of(&self, field: &str) -> String {
        if self.path.is_empty() {
            field.to_owned()
        } else {
            format!("{}.{field}", self.path)
        }
    }
}

/// The fields of a mapping. Asking for a field makes it known; [`Fields::finish`] refuses what is left.
pub(crate) struct Fields<'p, 'a> {
    place: &'p Place<'a>,
    entries: &'a [Entry],
    known: Vec<&'static str>,
}

impl<'a> Fields<'_, 'a> {
    fn find(&mut self, field: &'static str) -> Option<Place<'a>> {
        self.known.push(field);
        let entry = self.entries.iter().find(|entry| entry.key == field)?;
        Some(Place::at(
            self.place.reading,
            &entry.value,
            self.place.path_of(field),
        ))
    }

    /// A field that must be there.
    pub fn required<T>(
        &mut self,
        field: &'static str,
        read: impl FnOnce(&Place<'a>) -> Option<T>,
    ) -> Option<T> {
        let place = self.find(field);
        if place.is_none() {
            self.error(field, format!("the field `{field}` is missing"));
        }
        read(&place?)
    }

    /// A field with a default. Nothing only if it is there and wrong.
    pub fn optional<T>(
        &mut self,
        field: &'static str,
        default: T,
        read: impl FnOnce(&Place<'a>) -> Option<T>,
    ) -> Option<T> {
        match self.find(field) {
            Some(place) => read(&place),
            None => Some(default),
        }
    }

    /// Notes an error of a field, at the mapping if the field is not there.
    pub fn error(&self, field: &str, message: String) {
        self.place.error_at(&self.place.path_of(field), message);
    }

    /// Notes that a field is allowed, but probably not meant.
    pub fn warning(&self, field: &str, message: String) {
        self.place.warning_at(&self.place.path_of(field), message);
    }

    /// Refuses fields that nobody asked for.
    pub fn finish(self) {
        for entry in self.entries {
            if !self.known.contains(&entry.key.as_str()) {
                let message = format!(
                    "there is no field `{}` here{}; the fields are {}",
                    crate::name::shorten(&entry.key),
                    crate::suggest::did_you_mean(&entry.key, self.known.iter().copied()),
                    self.known.join(", ")
                );
                let path = self.place.path_of(&entry.key);
                self.place.note((entry.line, entry.column), &path, message);
            }
        }
    }
}
