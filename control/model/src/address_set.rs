//! `AddressSet`: a named set of prefixes.

use serde::Serialize;

use crate::document::ContentHash;
use crate::place::Place;
use crate::scalar::Prefix;

/// How many prefixes a document may hold itself; larger sets are loaded beside the documents.
pub const MAX_INLINE_PREFIXES: usize = 4_096;
/// How many prefixes one set may have.
pub const MAX_SET_PREFIXES: u32 = 2_000_000;
/// How many prefixes all sets together may have.
pub const MAX_PREFIXES: u64 = 8_000_000;

/// The spec of an `AddressSet`. Prefixes may nest: of those that hold an address, the longest counts.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub enum AddressSet {
    /// Held in the document: up to [`MAX_INLINE_PREFIXES`], sorted, none twice.
    Prefixes(Vec<Prefix>),
    /// Held beside the documents and named by what it is.
    Content(Content),
}

/// What a set holds that is not in its document.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Content {
    /// Its hash; equal hashes are equal sets.
    pub hash: ContentHash,
    /// How many prefixes it has, up to [`MAX_SET_PREFIXES`].
    pub prefixes: u32,
}

/// Of how many prefixes of a document that add nothing it is said which they are.
const NEEDLESS_TOLD: usize = 20;

impl AddressSet {
    /// How many prefixes it has.
    pub fn len(&self) -> usize {
        match self {
            Self::Prefixes(prefixes) => prefixes.len(),
            Self::Content(content) => content.prefixes as usize,
        }
    }

    /// Whether it has none, so that nothing is in it.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let prefixes = fields.optional("prefixes", None, |list| inline(list).map(Some));
        let content = fields.optional("content", None, |content| {
            Content::decode(content).map(Some)
        });
        let set = match (prefixes, content) {
            (Some(Some(prefixes)), Some(None)) => Some(Self::Prefixes(prefixes)),
            (Some(None), Some(Some(content))) => Some(Self::Content(content)),
            (Some(None), Some(None)) => {
                fields.error("prefixes", "the field `prefixes` is missing".to_owned());
                None
            }
            (Some(Some(_)), Some(Some(_))) => {
                let message =
                    "a set has `prefixes` here or `content` beside the documents, not both";
                fields.error("content", message.to_owned());
                None
            }
            _ => None,
        };
        fields.finish();
        set
    }
}

/// Prefixes as written, in order and each once. What is in another is said, not refused.
fn inline(place: &Place<'_>) -> Option<Vec<Prefix>> {
    if let Some(count) = place.count()
        && count > MAX_INLINE_PREFIXES
    {
        let message = if count > MAX_SET_PREFIXES as usize {
            format!("{count} prefixes; a set may have {MAX_SET_PREFIXES}")
        } else {
            format!(
                "{count} prefixes; a document may hold {MAX_INLINE_PREFIXES}, larger sets are loaded beside it with \
                 `marchctl set load`"
            )
        };
        place.error(message);
        return None;
    }
    let mut written = place.list(|item| Some((item.parse::<Prefix>()?, item.path().to_owned())))?;
    // By address and then length, every prefix comes after those that it is in.
    written.sort();
    let mut around: Vec<Prefix> = Vec::new();
    let mut kept: Vec<Prefix> = Vec::with_capacity(written.len());
    let mut needless = 0_usize;
    let mut warn = |path: &str, message: String| {
        needless += 1;
        if needless <= NEEDLESS_TOLD {
            place.warning_at(path, message);
        }
    };
    for (prefix, path) in written {
        if kept.last() == Some(&prefix) {
            warn(&path, format!("{prefix} is given twice; once is enough"));
            continue;
        }
        while around.last().is_some_and(|outer| !outer.covers(prefix)) {
            around.pop();
        }
        if let Some(outer) = around.last() {
            warn(&path, format!("{prefix} is in {outer} already"));
        }
        around.push(prefix);
        kept.push(prefix);
    }
    if let more @ 1.. = needless.saturating_sub(NEEDLESS_TOLD) {
        let message = format!("{more} more prefixes are given twice or are in others");
        place.warning_at(place.path(), message);
    }
    Some(kept)
}

impl Content {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let hash = fields.required("hash", Place::parse);
        let prefixes = fields.required("prefixes", |count| {
            let number = count.number(0, u64::from(u32::MAX))?;
            if number > u64::from(MAX_SET_PREFIXES) {
                count.error(format!(
                    "{number} prefixes; a set may have {MAX_SET_PREFIXES}"
                ));
                return None;
            }
            u32::try_from(number).ok()
        });
        fields.finish();
        Some(Self {
            hash: hash?,
            prefixes: prefixes?,
        })
    }
}
