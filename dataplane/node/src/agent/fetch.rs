//! From a push to a revision that is whole: the chunks of contents that this node does not have are asked for first.

use std::time::Instant;

use march_model::{ContentHash, FieldError, State};
use march_proto::MAX_CHUNK_HASHES;
use march_proto::v1::node_message::Message as ToDaemon;
use march_proto::v1::{ChunkRequest, Chunks};

use super::inbound::micros;
use super::{Agent, Desired};

/// A push, by number and time.
#[derive(Clone, Copy, Debug)]
pub(super) struct Timed {
    pub revision: u64,
    pub received: Instant,
    /// From the push to its documents being checked.
    pub verified_us: u64,
}

/// A push that waits for chunks.
#[derive(Debug)]
pub(super) struct OpenPush {
    push: Timed,
    state: State,
    asked: Vec<ContentHash>,
}

impl Agent {
    /// Takes a push; one that still waits for chunks is forgotten for it.
    pub(super) async fn on_push(
        &mut self,
        revision: u64,
        state: Result<State, Vec<FieldError>>,
        received: Instant,
    ) {
        let push = Timed {
            revision,
            received,
            verified_us: micros(received),
        };
        self.open_push = None;
        match state {
            Ok(state) => self.complete(push, state).await,
            Err(errors) => self.run_push(push, Err(errors)).await,
        }
    }

    /// Chunks came: those that were asked for, or the news that there are none.
    pub(super) async fn on_chunks(&mut self, chunks: Chunks) {
        let Some(open) = self.open_push.take() else {
            // They were for a push of an earlier session.
            return;
        };
        let mut is_news = false;
        for bytes in chunks.chunks {
            is_news |= self.contents.take(&open.asked, bytes);
        }
        let unknown = chunks.unknown.iter();
        let unknown: Vec<ContentHash> = unknown
            .filter_map(|hash| Some(ContentHash::from_bytes(hash[..].try_into().ok()?)))
            .collect();
        if is_news && unknown.is_empty() {
            return self.complete(open.push, open.state).await;
        }
        let mut errors = self.contents.not_to_be_had(&open.state, &unknown);
        if errors.is_empty() {
            let message = "marchd sent no chunk that was asked for".to_owned();
            errors.push(FieldError::of_document("", "", message));
        }
        self.run_push(open.push, Err(errors)).await;
    }

    /// Asks for what is still missing, or runs the push if nothing is.
    async fn complete(&mut self, push: Timed, state: State) {
        // Making the sets reads every chunk; one that turns out to be damaged is missing then.
        let result = match self.contents.lacking(&state) {
            Ok(lacking) if lacking.is_empty() => match self.contents.sets(&state) {
                Ok(sets) => Ok(sets),
                Err(errors) => match self.contents.lacking(&state) {
                    Ok(lacking) if !lacking.is_empty() => return self.ask(push, state, lacking),
                    _ => Err(errors),
                },
            },
            Ok(lacking) => return self.ask(push, state, lacking),
            Err(errors) => Err(errors),
        };
        let desired = result.map(|sets| Desired {
            revision: push.revision,
            state,
            sets,
        });
        self.run_push(push, desired).await;
    }

    fn ask(&mut self, push: Timed, state: State, mut asked: Vec<ContentHash>) {
        asked.truncate(MAX_CHUNK_HASHES);
        tracing::debug!(
            event = "contents.asked",
            revision = push.revision,
            chunks = asked.len()
        );
        let hashes = asked.iter().map(|hash| hash.as_bytes().to_vec());
        self.tell(ToDaemon::ChunkRequest(ChunkRequest {
            hashes: hashes.collect(),
        }));
        self.open_push = Some(OpenPush { push, state, asked });
    }

    /// Once a revision is the last good one: what no good one needs goes.
    pub(super) fn forget_old_contents(&mut self) {
        if let Some(desired) = &self.desired {
            self.contents.adopt(&desired.sets);
            self.contents.on_good(&desired.state);
        }
    }
}
