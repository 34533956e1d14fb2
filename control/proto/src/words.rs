//! The enums of the interface as words, for output and logs.

use serde::Serializer;

use crate::v1;

/// Declares how an enum is written.
macro_rules! words {
    ($type:ident, $serialize:ident, $($variant:ident $word:literal),+) => {
        impl v1::$type {
            /// The word for people; empty when nothing is said.
            pub const fn word(self) -> &'static str {
                match self { $(Self::$variant => $word,)+ Self::Unspecified => "" }
            }
        }

        pub(crate) fn $serialize<S: Serializer>(number: &i32, serializer: S) -> Result<S::Ok, S::Error> {
            let value = v1::$type::try_from(*number).unwrap_or(v1::$type::Unspecified);
            serializer.serialize_str(value.word())
        }
    };
}

words!(AdminState, admin_state, Enabled "enabled", Drain "drain", Offline "offline");
words!(NodeState, node_state, Running "running", Pending "pending", Refused "refused", Stale "stale", Lost "lost");
words!(Outcome, outcome, Committed "committed", Unchanged "unchanged", Checked "checked");
words!(Convergence, convergence, Reached "reached", Missed "missed");
words!(ChangeKind, change_kind, Added "added", Changed "changed", Removed "removed");
