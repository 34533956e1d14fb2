//! A document: metadata and a spec of one of the kinds, in canonical form.

use std::collections::BTreeMap;
use std::fmt;

use serde::Serialize;
use serde_json::Value;
use sha2::{Digest, Sha256};

use crate::address_set::AddressSet;
use crate::error::{FieldError, Invalid};
use crate::mapping::{ApprovalState, Mapping};
use crate::name::{Key, Kind, Name, serialize_as_text};
use crate::place::{Place, Reading};
use crate::pool::Pool;
use crate::port::Port;
use crate::rate_limit::RateLimit;
use crate::rule::Rule;
use crate::service::Service;
use crate::time::Timestamp;
use crate::tree::Tree;

/// The one version of the documents.
pub const API_VERSION: &str = "marchproxy/v1";
/// The one cluster for now.
pub const DEFAULT_CLUSTER: &str = "default";
/// How many labels a document may have.
pub const MAX_LABELS: usize = 64;

/// Who a document is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Metadata {
    /// Unique within the kind.
    pub name: Name,
    /// The cluster it belongs to; `default`.
    pub cluster: Name,
    /// Free words for people and tools; `collection` puts a document into a collection that mappings name.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
}

/// What a document wants.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(untagged)]
#[expect(
    clippy::large_enum_variant,
    reason = "where there are many documents, most are rules"
)]
pub enum Spec {
    /// A network interface that the data plane drives.
    Port(Port),
    /// A VIP with its policy.
    Service(Service),
    /// The servers behind a service.
    Pool(Pool),
    /// A match and an action.
    Rule(Rule),
    /// A named set of prefixes.
    AddressSet(AddressSet),
    /// A rate with a burst.
    RateLimit(RateLimit),
    /// These sources may reach these services.
    Mapping(Mapping),
}

impl Spec {
    /// The kind of document that has this spec.
    pub const fn kind(&self) -> Kind {
        match self {
            Spec::Port(_) => Kind::Port,
            Spec::Service(_) => Kind::Service,
            Spec::Pool(_) => Kind::Pool,
            Spec::Rule(_) => Kind::Rule,
            Spec::AddressSet(_) => Kind::AddressSet,
            Spec::RateLimit(_) => Kind::RateLimit,
            Spec::Mapping(_) => Kind::Mapping,
        }
    }

    /// When it ends by itself, if it is not over anyway.
    pub(crate) fn ends_at(&self) -> Option<Timestamp> {
        match self {
            Spec::Rule(rule) => rule.expires_at,
            Spec::Mapping(mapping) => match mapping.approval.state {
                ApprovalState::Pending | ApprovalState::Approved => mapping.expires_at,
                ApprovalState::Rejected | ApprovalState::Expired => None,
            },
            _ => None,
        }
    }
}

/// One valid document. Immutable: its canonical text and hash are made once.
#[derive(Clone)]
pub struct Document {
    key: Key,
    metadata: Metadata,
    spec: Spec,
    canonical: Box<str>,
    hash: ContentHash,
}

impl Document {
    fn new(metadata: Metadata, spec: Spec) -> Self {
        #[derive(Serialize)]
        #[serde(rename_all = "camelCase")]
        struct Written<'a> {
            api_version: &'static str,
            kind: &'static str,
            metadata: &'a Metadata,
            spec: &'a Spec,
        }
        let kind = spec.kind();
        let written = Written {
            api_version: API_VERSION,
            kind: kind.as_str(),
            metadata: &metadata,
            spec: &spec,
        };
        let value =
            serde_json::to_value(written).expect("documents have text keys and finite numbers");
        let canonical = canonical_json(&value).into_boxed_str();
        let hash = ContentHash::of(canonical.as_bytes());
        Self {
            key: Key {
                kind,
                name: metadata.name.clone(),
            },
            metadata,
            spec,
            canonical,
            hash,
        }
    }

    /// Reads a document in canonical form, as [`Document::canonical`] gave it; anything else is refused.
    pub fn from_canonical(json: &str) -> Result<Self, Invalid> {
        let refuse = |message: String| Invalid(vec![FieldError::of_file("", message)]);
        let value: Value = serde_json::from_str(json)
            .map_err(|error| refuse(format!("not canonical JSON: {error}")))?;
        let reading = Reading::new("");
        let document = Self::decode(&Place::root(&reading, &Tree::from_json(&value)));
        let errors = reading.errors.into_inner();
        match document {
            Ok(document) if errors.is_empty() && &*document.canonical == json => Ok(document),
            _ if errors.is_empty() => Err(refuse(
                "the document is not in canonical form, or of another version".to_owned(),
            )),
            _ => Err(Invalid(errors)),
        }
    }

    /// Kind and name.
    pub fn key(&self) -> &Key {
        &self.key
    }

    /// Name, cluster, labels.
    pub fn metadata(&self) -> &Metadata {
        &self.metadata
    }

    /// What it wants.
    pub fn spec(&self) -> &Spec {
        &self.spec
    }

    /// JSON with sorted keys, defaults filled in, no white space.
    pub fn canonical(&self) -> &str {
        &self.canonical
    }

    /// SHA-256 of the canonical text.
    pub fn hash(&self) -> ContentHash {
        self.hash
    }

    /// Reads one document. On failure, its key as far as it could be read.
    pub(crate) fn decode(place: &Place<'_>) -> Result<Self, Option<Key>> {
        let Some(mut fields) = place.mapping() else {
            return Err(None);
        };
        let version = fields.required("apiVersion", |version| {
            version.parse_with(|text| match text {
                API_VERSION => Ok(()),
                other => Err(format!(
                    "`{}` is not {API_VERSION}",
                    crate::name::shorten(other)
                )),
            })
        });
        let kind = fields.required("kind", Place::parse::<Kind>);
        let metadata = fields.required("metadata", |metadata| Metadata::decode(metadata, kind));
        let spec = fields.required("spec", |spec| {
            Some(match kind? {
                Kind::Port => Spec::Port(Port::decode(spec)?),
                Kind::Service => Spec::Service(Service::decode(spec)?),
                Kind::Pool => Spec::Pool(Pool::decode(spec)?),
                Kind::Rule => Spec::Rule(Rule::decode(spec)?),
                Kind::AddressSet => Spec::AddressSet(AddressSet::decode(spec)?),
                Kind::RateLimit => Spec::RateLimit(RateLimit::decode(spec)?),
                Kind::Mapping => Spec::Mapping(Mapping::decode(spec)?),
            })
        });
        fields.finish();
        match (version, metadata, spec) {
            (Some(()), Some(metadata), Some(spec)) => Ok(Self::new(metadata, spec)),
            (_, metadata, _) => Err(kind.zip(metadata).map(|(kind, metadata)| Key {
                kind,
                name: metadata.name,
            })),
        }
    }
}

impl PartialEq for Document {
    fn eq(&self, other: &Self) -> bool {
        self.canonical == other.canonical
    }
}

impl Eq for Document {}

impl fmt::Debug for Document {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.canonical)
    }
}

impl Metadata {
    fn decode(place: &Place<'_>, kind: Option<Kind>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let name = fields.required("name", Place::parse::<Name>);
        if let (Some(kind), Some(name)) = (kind, &name) {
            place.now_reading(format!("{kind}/{name}"));
        }
        let default_cluster: Name = DEFAULT_CLUSTER.parse().expect("a valid name");
        let cluster = fields.optional("cluster", default_cluster, |cluster| {
            cluster.parse_with(|text| match text {
                DEFAULT_CLUSTER => text.parse(),
                other => Err(format!(
                    "there is no cluster `{}`; the one cluster is `{DEFAULT_CLUSTER}`",
                    crate::name::shorten(other)
                )),
            })
        });
        let labels = fields.optional("labels", BTreeMap::new(), labels);
        fields.finish();
        Some(Metadata {
            name: name?,
            cluster: cluster?,
            labels: labels?,
        })
    }
}

fn labels(place: &Place<'_>) -> Option<BTreeMap<String, String>> {
    let pairs = place.pairs()?;
    if pairs.len() > MAX_LABELS {
        place.error(format!("{} labels; at most {MAX_LABELS} fit", pairs.len()));
        return None;
    }
    let read = |(key, value): &(&str, Place<'_>)| {
        let key_fits = (1..=63).contains(&key.len())
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_./".contains(&byte));
        if !key_fits {
            value.error(
                "a label's key has 1 to 63 characters of a-z, A-Z, 0-9, `-`, `_`, `.` and `/`"
                    .to_owned(),
            );
            return None;
        }
        let text = value.text()?;
        if text.len() > 255 || text.chars().any(char::is_control) {
            value.error("a label's value has up to 255 bytes and no control characters".to_owned());
            return None;
        }
        Some(((*key).to_owned(), text.to_owned()))
    };
    let read_all: Vec<_> = pairs.iter().map(read).collect();
    read_all.into_iter().collect()
}

/// A SHA-256, written as 64 hex digits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ContentHash([u8; 32]);

impl ContentHash {
    /// The hash of some bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self(Sha256::digest(bytes).into())
    }

    pub(crate) fn from_digest(digest: Sha256) -> Self {
        Self(digest.finalize().into())
    }

    /// A hash that was kept as bytes.
    #[must_use]
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0
            .iter()
            .try_for_each(|byte| write!(formatter, "{byte:02x}"))
    }
}

impl fmt::Debug for ContentHash {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, formatter)
    }
}

impl std::str::FromStr for ContentHash {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{}` is not 64 hex digits", crate::name::shorten(text));
        if text.len() != 64 || !text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            return Err(wrong());
        }
        let mut bytes = [0; 32];
        for (index, byte) in bytes.iter_mut().enumerate() {
            *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).map_err(|_| wrong())?;
        }
        Ok(Self(bytes))
    }
}

serialize_as_text!(ContentHash);

/// JSON with sorted keys and no white space, whatever order the map type keeps.
pub(crate) fn canonical_json(value: &Value) -> String {
    let mut text = String::new();
    write_canonical(value, &mut text);
    text
}

fn write_canonical(value: &Value, text: &mut String) {
    match value {
        Value::Object(map) => {
            let sorted: BTreeMap<&String, &Value> = map.iter().collect();
            text.push('{');
            for (index, (key, value)) in sorted.into_iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                text.push_str(&Value::from(key.as_str()).to_string());
                text.push(':');
                write_canonical(value, text);
            }
            text.push('}');
        }
        Value::Array(items) => {
            text.push('[');
            for (index, item) in items.iter().enumerate() {
                if index > 0 {
                    text.push(',');
                }
                write_canonical(item, text);
            }
            text.push(']');
        }
        scalar => text.push_str(&scalar.to_string()),
    }
}
