//! Names: of documents, nodes, interfaces, kinds.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Serialize, Serializer};

/// Serialises a type through its `Display`.
macro_rules! serialize_as_text {
    ($($type:ty),*) => {$(
        impl serde::Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }
    )*};
}
pub(crate) use serialize_as_text;

/// A name of a document or a node: a DNS label (RFC 1123), so that it fits every place where names go.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Name(Arc<str>);

impl Name {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
        let bytes = text.as_bytes();
        let valid = (1..=63).contains(&bytes.len())
            && bytes.iter().all(|&byte| is_inner(byte) || byte == b'-')
            && is_inner(bytes[0])
            && is_inner(bytes[bytes.len() - 1]);
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "`{}` is not a name: 1 to 63 characters of a-z, 0-9 and `-`, with a letter or digit at both ends",
                shorten(text)
            ))
        }
    }
}

impl fmt::Display for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

impl fmt::Debug for Name {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&self.0, formatter)
    }
}

/// The name of a network interface, as Linux allows it: 1 to 15 bytes.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InterfaceName(Box<str>);

impl InterfaceName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for InterfaceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let is_allowed = |c: char| c.is_ascii_graphic() && c != '/' && c != ':';
        if (1..=15).contains(&text.len())
            && text.chars().all(is_allowed)
            && !matches!(text, "." | "..")
        {
            Ok(Self(text.into()))
        } else {
            Err(format!(
                "`{}` is not an interface name: 1 to 15 printable characters without `/` and `:`",
                shorten(text)
            ))
        }
    }
}

impl fmt::Display for InterfaceName {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(&self.0)
    }
}

serialize_as_text!(InterfaceName);

impl Serialize for Name {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0)
    }
}

/// The kinds of document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A network interface of a node that the data plane drives.
    Port,
    /// A VIP with its policy.
    Service,
    /// The servers behind a service.
    Pool,
    /// A match and an action.
    Rule,
    /// A named set of prefixes.
    AddressSet,
    /// A rate with a burst.
    RateLimit,
    /// These sources may reach these services.
    Mapping,
}

impl Kind {
    /// Every kind, in the order of listings.
    pub const ALL: [Kind; 7] = [
        Kind::Port,
        Kind::Service,
        Kind::Pool,
        Kind::Rule,
        Kind::AddressSet,
        Kind::RateLimit,
        Kind::Mapping,
    ];

    /// The word in documents.
    pub const fn as_str(self) -> &'static str {
        match self {
            Kind::Port => "Port",
            Kind::Service => "Service",
            Kind::Pool => "Pool",
            Kind::Rule => "Rule",
            Kind::AddressSet => "AddressSet",
            Kind::RateLimit => "RateLimit",
            Kind::Mapping => "Mapping",
        }
    }
}

impl FromStr for Kind {
    type Err = String;

    /// The exact word; [`Kind::from_word`] is the lenient one for command lines.
    fn from_str(text: &str) -> Result<Self, String> {
        let found = Kind::ALL.into_iter().find(|kind| kind.as_str() == text);
        found.ok_or_else(|| {
            let words = Kind::ALL.map(Kind::as_str);
            format!(
                "`{}` is not a kind{}; the kinds are {}",
                shorten(text),
                crate::suggest::did_you_mean(text, words),
                words.join(", ")
            )
        })
    }
}

impl Kind {
    /// What a person types: any case, singular or plural, words joined or not, `set` and `limit` for short.
    pub fn from_word(word: &str) -> Option<Kind> {
        let word: String = word
            .chars()
            .filter(|c| !matches!(c, '-' | '_'))
            .map(|c| c.to_ascii_lowercase())
            .collect();
        let singular = word.strip_suffix('s').unwrap_or(&word);
        match singular {
            "set" => Some(Kind::AddressSet),
            "limit" => Some(Kind::RateLimit),
            _ => Kind::ALL
                .into_iter()
                .find(|kind| kind.as_str().to_ascii_lowercase() == singular),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.pad(self.as_str())
    }
}

/// Identifies a document: kind and name. Orders listings, deltas and the content hash.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The name, unique within the kind.
    pub name: Name,
}

impl Key {
    /// A key from its two words.
    pub fn parse(kind: &str, name: &str) -> Result<Self, String> {
        Ok(Self {
            kind: kind.parse()?,
            name: name.parse()?,
        })
    }
}

impl fmt::Display for Key {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{}/{}", self.kind, self.name)
    }
}

/// At most 80 characters of what an operator wrote, for error messages.
pub(crate) fn shorten(text: &str) -> String {
    if text.chars().count() <= 80 {
        return text.escape_debug().to_string();
    }
    let head: String = text.chars().take(80).collect();
    format!("{}...", head.escape_debug())
}
