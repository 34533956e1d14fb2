//! YAML and JSON text to a tree that remembers where everything was written.
//!
//! JSON is read as YAML 1.2, of which it is a part. Every dimension is bounded before memory is spent on it: the text
//! by the caller, nesting, nodes after aliases are followed, and documents by the constants here.

use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use saphyr_parser::{Event, Marker, Parser, ScalarStyle, Span};

use crate::error::FieldError;
use crate::name::shorten;

/// How deep lists and mappings may nest; documents need 6.
pub const MAX_DEPTH: u16 = 32;
/// How many values a text may have, and one document of it once aliases are followed: about 100 bytes of memory each.
pub const MAX_NODES: u32 = 8_000_000;
/// How many documents one call may have.
pub const MAX_DOCUMENTS: usize = 200_000;

/// A value and its place.
#[derive(Debug)]
pub(crate) struct Tree {
    pub line: u32,
    pub column: u32,
    pub node: Node,
    size: u32,
    depth: u16,
}

#[derive(Debug)]
pub(crate) enum Node {
    Scalar { text: String, quoted: bool },
    Sequence(Vec<Rc<Tree>>),
    Mapping(Vec<Entry>),
}

#[derive(Debug)]
pub(crate) struct Entry {
    pub key: String,
    pub line: u32,
    pub column: u32,
    pub value: Rc<Tree>,
}

impl Tree {
    /// `null`, `~` or nothing at all.
    pub fn is_null(&self) -> bool {
        matches!(&self.node, Node::Scalar { text, quoted: false } if matches!(text.as_str(), "" | "~" | "null"))
    }

    /// What it is, for messages.
    pub fn describe(&self) -> String {
        match &self.node {
            Node::Scalar { .. } if self.is_null() => "nothing".to_owned(),
            Node::Scalar { text, .. } => format!("`{}`", shorten(text)),
            Node::Sequence(_) => "a list".to_owned(),
            Node::Mapping(_) => "a mapping".to_owned(),
        }
    }

    fn new(at: (u32, u32), node: Node) -> Self {
        let children: &mut dyn Iterator<Item = &Rc<Tree>> = match &node {
            Node::Scalar { .. } => &mut std::iter::empty(),
            Node::Sequence(items) => &mut items.iter(),
            Node::Mapping(entries) => &mut entries.iter().map(|entry| &entry.value),
        };
        let (mut size, mut depth) = (1_u32, 1_u16);
        for child in children {
            size = size.saturating_add(child.size);
            depth = depth.max(child.depth.saturating_add(1));
        }
        Self {
            line: at.0,
            column: at.1,
            node,
            size,
            depth,
        }
    }

    /// A tree without places, of a value that was parsed already.
    pub fn from_json(value: &serde_json::Value) -> Self {
        use serde_json::Value;
        let scalar = |text: String, quoted| Node::Scalar { text, quoted };
        let node = match value {
            Value::Null => scalar(String::new(), false),
            Value::Bool(flag) => scalar(flag.to_string(), false),
            Value::Number(number) => scalar(number.to_string(), false),
            Value::String(text) => scalar(text.clone(), true),
            Value::Array(items) => Node::Sequence(
                items
                    .iter()
                    .map(|item| Rc::new(Self::from_json(item)))
                    .collect(),
            ),
            Value::Object(map) => Node::Mapping(
                map.iter()
                    .map(|(key, value)| Entry {
                        key: key.clone(),
                        line: 0,
                        column: 0,
                        value: Rc::new(Self::from_json(value)),
                    })
                    .collect(),
            ),
        };
        Self::new((0, 0), node)
    }
}

/// What is wrong with a text.
#[derive(Debug, Default)]
pub(crate) struct Loaded {
    pub errors: Vec<FieldError>,
    /// The rest of the text could not be read.
    pub cut_short: bool,
}

/// Reads every document of a text and hands each over as it ends, so that only one is held at a time. A syntax error ends
/// the text; duplicate fields do not.
pub(crate) fn load(file: &str, text: &str, mut take: impl FnMut(&Tree)) -> Loaded {
    let mut builder = Builder {
        file,
        ..Builder::default()
    };
    for event in Parser::new_from_str(text) {
        let step = match event {
            Ok((event, span)) => builder.on_event(event, span),
            Err(error) => Err((
                place(*error.marker()),
                format!("cannot be read as YAML or JSON: {}", error.info()),
            )),
        };
        if let Err((at, message)) = step {
            builder.report(at, message);
            builder.loaded.cut_short = true;
            break;
        }
        if let Some(document) = builder.whole.take() {
            take(&document);
        }
    }
    builder.loaded
}

fn place(marker: Marker) -> (u32, u32) {
    let number = |n: usize| u32::try_from(n).unwrap_or(u32::MAX);
    (
        number(marker.line()),
        number(marker.col()).saturating_add(1),
    )
}

type Fault = ((u32, u32), String);

#[derive(Default)]
struct Builder<'a> {
    file: &'a str,
    loaded: Loaded,
    open: Vec<Open>,
    /// A document that has just ended.
    whole: Option<Rc<Tree>>,
    documents: usize,
    /// Values so far.
    count: u32,
    anchors: HashMap<usize, Rc<Tree>>,
}

/// A list or mapping whose end has not come yet.
struct Open {
    at: (u32, u32),
    anchor: usize,
    inside: Inside,
}

enum Inside {
    Sequence(Vec<Rc<Tree>>),
    Mapping {
        entries: Vec<Entry>,
        seen: HashSet<String>,
        key: Option<(String, (u32, u32))>,
    },
}

impl Builder<'_> {
    fn report(&mut self, (line, column): (u32, u32), message: String) {
        self.loaded.errors.push(FieldError {
            line,
            column,
            ..FieldError::of_file(self.file, message)
        });
    }

    fn on_event(&mut self, event: Event<'_>, span: Span) -> Result<(), Fault> {
        let at = place(span.start);
        match event {
            Event::Nothing | Event::StreamStart | Event::StreamEnd | Event::DocumentEnd => Ok(()),
            Event::DocumentStart(_) => {
                self.anchors.clear();
                Ok(())
            }
            Event::Scalar(.., Some(_))
            | Event::SequenceStart(_, Some(_))
            | Event::MappingStart(_, Some(_)) => {
                Err((at, "YAML tags (`!...`) are not supported".to_owned()))
            }
            Event::Scalar(text, style, anchor, None) => {
                let quoted = style != ScalarStyle::Plain;
                let tree = Tree::new(
                    at,
                    Node::Scalar {
                        text: text.into_owned(),
                        quoted,
                    },
                );
                self.on_value(at, anchor, Rc::new(tree))
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor).map(Rc::clone) {
                Some(tree) => self.on_value(at, 0, tree),
                None => Err((
                    at,
                    "an alias must come after its anchor, and not inside it".to_owned(),
                )),
            },
            Event::SequenceStart(anchor, None) => {
                self.on_open(at, anchor, Inside::Sequence(Vec::new()))
            }
            Event::MappingStart(anchor, None) => {
                let inside = Inside::Mapping {
                    entries: Vec::new(),
                    seen: HashSet::new(),
                    key: None,
                };
                self.on_open(at, anchor, inside)
            }
            Event::SequenceEnd | Event::MappingEnd => self.on_close(),
        }
    }

    fn on_open(&mut self, at: (u32, u32), anchor: usize, inside: Inside) -> Result<(), Fault> {
        if self.open.len() >= usize::from(MAX_DEPTH) {
            return Err((at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if let Some(Open {
            inside: Inside::Mapping { key: None, .. },
            ..
        }) = self.open.last()
        {
            return Err((
                at,
                "a field name must be a word, not a list or mapping".to_owned(),
            ));
        }
        self.open.push(Open { at, anchor, inside });
        Ok(())
    }

    fn on_close(&mut self) -> Result<(), Fault> {
        let open = self.open.pop().expect("the parser pairs starts and ends");
        let node = match open.inside {
            Inside::Sequence(items) => Node::Sequence(items),
            Inside::Mapping { entries, .. } => Node::Mapping(entries),
        };
        self.on_value(open.at, open.anchor, Rc::new(Tree::new(open.at, node)))
    }

    fn on_value(&mut self, at: (u32, u32), anchor: usize, tree: Rc<Tree>) -> Result<(), Fault> {
        self.count += 1;
        if self.count > MAX_NODES {
            return Err((at, format!("more than {MAX_NODES} values in one file")));
        }
        if tree.depth > MAX_DEPTH {
            return Err((at, format!("nested deeper than {MAX_DEPTH} levels")));
        }
        if tree.size > MAX_NODES {
            return Err((
                at,
                format!("more than {MAX_NODES} values once aliases are followed"),
            ));
        }
        if anchor != 0 {
            self.anchors.insert(anchor, Rc::clone(&tree));
        }
        let mut duplicate = None;
        match self.open.last_mut().map(|open| &mut open.inside) {
            None => {
                if self.documents >= MAX_DOCUMENTS {
                    return Err((at, format!("more than {MAX_DOCUMENTS} documents")));
                }
                self.documents += 1;
                self.whole = Some(tree);
            }
            Some(Inside::Sequence(items)) => items.push(tree),
            Some(Inside::Mapping { entries, seen, key }) => match key.take() {
                None => *key = Some((field_name(at, &tree)?, at)),
                Some((key, (line, column))) if seen.insert(key.clone()) => {
                    entries.push(Entry {
                        key,
                        line,
                        column,
                        value: tree,
                    });
                }
                Some((key, key_at)) => duplicate = Some((key_at, key)),
            },
        }
        if let Some((key_at, key)) = duplicate {
            self.report(
                key_at,
                format!("the field `{}` is given twice", shorten(&key)),
            );
        }
        Ok(())
    }
}

fn field_name(at: (u32, u32), tree: &Tree) -> Result<String, Fault> {
    match &tree.node {
        Node::Scalar { text, .. } => Ok(text.clone()),
        _ => Err((
            at,
            "a field name must be a word, not a list or mapping".to_owned(),
        )),
    }
}
