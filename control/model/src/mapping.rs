//! `Mapping`: these sources may reach these services.

use std::fmt;
use std::str::FromStr;

use serde::Serialize;

use crate::name::{Name, serialize_as_text, shorten};
use crate::place::Place;
use crate::rule::MAX_PRIORITY;
use crate::scalar::{PortRange, Transport, words};
use crate::time::Timestamp;

/// The default of `priority`.
pub const DEFAULT_MAPPING_PRIORITY: u32 = 1_000;
/// The label by which documents are in a collection.
pub const COLLECTION_LABEL: &str = "collection";
/// The longest comment, bytes.
const MAX_COMMENT_BYTES: usize = 1_024;

/// The spec of a `Mapping`. Once approved it stands for rules that allow what it says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Mapping {
    /// Who: address sets, the backends of services, collections of both, or everybody; sorted, at least one.
    pub sources: Vec<Endpoint>,
    /// What: services, collections of them, or all; sorted, at least one.
    pub destinations: Vec<Endpoint>,
    /// Only services of these protocols; none: of both.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub protocols: Vec<Transport>,
    /// Only these of a service's ports; none: all of them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<PortRange>,
    /// Whether somebody agreed.
    pub approval: Approval,
    /// Of the rules that it stands for; up to [`MAX_PRIORITY`].
    pub priority: u32,
    /// When it ends by itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<Timestamp>,
    /// Free text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
}

/// Somebody or something that a mapping names.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Endpoint {
    /// Everybody, or every service.
    All,
    /// What has this value of the label [`COLLECTION_LABEL`].
    Collection(Box<str>),
    /// One document.
    Named(Name),
}

impl FromStr for Endpoint {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        match text.split_once(':') {
            None => text.parse().map(Self::Named),
            Some(("collection", "")) => {
                Err("`collection:` lacks the name of the collection".to_owned())
            }
            Some(("collection", name))
                if name.len() > 255 || name.chars().any(char::is_control) =>
            {
                Err(format!("`{}` is not a value of a label", shorten(name)))
            }
            Some(("collection", name)) => Ok(Self::Collection(name.into())),
            Some(_) => Err(format!(
                "`{}` is neither a name nor `collection:NAME` nor `all`",
                shorten(text)
            )),
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => formatter.write_str("all"),
            Self::Collection(name) => write!(formatter, "collection:{name}"),
            Self::Named(name) => formatter.write_str(name.as_str()),
        }
    }
}

serialize_as_text!(Endpoint);

/// Whether somebody agreed to a mapping, and who.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Approval {
    /// How it stands.
    pub state: ApprovalState,
    /// Who decided.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub by: Option<String>,
    /// When.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub at: Option<Timestamp>,
}

/// How a request stands. Only what is approved has an effect.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ApprovalState {
    /// Nobody decided yet.
    Pending,
    /// Agreed.
    Approved,
    /// Refused.
    Rejected,
    /// Agreed once, and over.
    Expired,
}

words!(ApprovalState, "a state of approval", Pending "pending", Approved "approved", Rejected "rejected", Expired "expired");

impl Mapping {
    /// Whether it stands for rules at this moment.
    pub fn is_effective(&self, now: Timestamp) -> bool {
        self.approval.state == ApprovalState::Approved
            && self.expires_at.is_none_or(|end| end > now)
    }

    pub(crate) fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let sources = fields.required("sources", endpoints);
        let destinations = fields.required("destinations", endpoints);
        let protocols = fields.optional("protocols", Vec::new(), |list| {
            list.set("protocol", Place::parse)
        });
        let ports = fields.optional("ports", Vec::new(), |list| {
            list.set("port range", Place::parse)
        });
        let undecided = Approval {
            state: ApprovalState::Pending,
            by: None,
            at: None,
        };
        let approval = fields.optional("approval", undecided, Approval::decode);
        let priority = fields.optional("priority", DEFAULT_MAPPING_PRIORITY, |priority| {
            priority.number(0, MAX_PRIORITY)
        });
        let expires_at = fields.optional("expiresAt", None, |end| end.parse().map(Some));
        let comment = fields.optional("comment", None, |comment| free_text(comment).map(Some));
        fields.finish();
        Some(Self {
            sources: sources?,
            destinations: destinations?,
            protocols: protocols?,
            ports: ports?,
            approval: approval?,
            priority: priority?,
            expires_at: expires_at?,
            comment: comment?,
        })
    }
}

fn endpoints(place: &Place<'_>) -> Option<Vec<Endpoint>> {
    let list = place.set("name", Place::parse::<Endpoint>)?;
    if list.is_empty() {
        place.error("the list is empty; name somebody, or write `[all]`".to_owned());
        return None;
    }
    if list.len() > 1 && list.contains(&Endpoint::All) {
        place.error("`all` leaves nothing for the other names to add".to_owned());
    }
    Some(list)
}

impl Approval {
    fn decode(place: &Place<'_>) -> Option<Self> {
        let mut fields = place.mapping()?;
        let state = fields.required("state", Place::parse);
        let by = fields.optional("by", None, |by| free_text(by).map(Some));
        let at = fields.optional("at", None, |at| at.parse().map(Some));
        fields.finish();
        Some(Self {
            state: state?,
            by: by?,
            at: at?,
        })
    }
}

/// Text for people: bounded, and without what would disturb a terminal.
fn free_text(place: &Place<'_>) -> Option<String> {
    place.parse_with(|text| {
        let is_plain = |c: char| c == '\n' || !c.is_control();
        if text.len() > MAX_COMMENT_BYTES || !text.chars().all(is_plain) {
            return Err(format!(
                "text has up to {MAX_COMMENT_BYTES} bytes and no control characters"
            ));
        }
        Ok(text.to_owned())
    })
}
