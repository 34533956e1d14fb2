//! Explanations, given beside the agent: judging by documents that do not run compiles them first, which takes seconds for
//! large sets, and health, telemetry and pushes must not wait for that.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use march_model::{FieldError, State};
use march_proto::v1::query_reply::Reply;
use march_proto::v1::{Candidate, ExplainQuery, Explanation};
use march_tables::Generation;
use tokio::sync::Semaphore;

use super::Desired;
use super::apply::Basis;
use crate::compile::FastPort;
use crate::contents::Contents;

/// How many errors of a candidate are told.
const ERRORS_TOLD: usize = 10;
/// How many packets are judged at a time by what runs.
const PLAIN_AT_ONCE: usize = 2;
/// How long a candidate stays compiled: many packets are judged by it one after another. Its rules may end meanwhile.
const KEPT_FOR: Duration = Duration::from_secs(10);

/// Everything that an explanation needs of the agent.
#[derive(Debug)]
pub(super) struct Bench {
    pub basis: Basis,
    pub contents: Contents,
    pub ports: Vec<FastPort>,
    pub tier: String,
}

/// Who explains.
#[derive(Clone, Debug)]
pub(super) struct Judge {
    plain: Arc<Semaphore>,
    /// One at a time: each holds a whole configuration.
    candidates: Arc<Semaphore>,
    kept: Arc<Mutex<Option<Kept>>>,
}

/// A candidate that was compiled.
#[derive(Debug)]
struct Kept {
    candidate: Candidate,
    /// What ran when it was compiled: it says what ports, kernel and health were.
    beside: u64,
    at: Instant,
    generation: Arc<Generation>,
}

impl Default for Judge {
    fn default() -> Self {
        Self {
            plain: Arc::new(Semaphore::new(PLAIN_AT_ONCE)),
            candidates: Arc::new(Semaphore::new(1)),
            kept: Arc::default(),
        }
    }
}

impl Judge {
    /// Explains on another thread.
    pub async fn answer(self, asked: ExplainQuery, bench: Bench) -> Reply {
        let permit = if asked.candidate.is_some() {
            Arc::clone(&self.candidates).try_acquire_owned().ok()
        } else {
            Arc::clone(&self.plain).acquire_owned().await.ok()
        };
        let Some(permit) = permit else {
            let busy = "this node judges by another set of documents at the moment; ask again";
            return Reply::Error(busy.to_owned());
        };
        let judging = tokio::task::spawn_blocking(move || {
            let explained = self.explain(asked, bench);
            drop(permit);
            explained
        });
        match judging.await {
            Ok(explained) => explained.map_or_else(Reply::Error, Reply::Explanation),
            Err(_) => Reply::Error("the question failed inside the node; see its log".to_owned()),
        }
    }

    /// Lets go of a candidate that nobody asks about any more.
    pub fn care(&self) {
        let mut kept = self.kept();
        if kept
            .as_ref()
            .is_some_and(|kept| kept.at.elapsed() > KEPT_FOR)
        {
            *kept = None;
        }
    }

    fn kept(&self) -> MutexGuard<'_, Option<Kept>> {
        // Every change of it is one assignment.
        self.kept.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn explain(&self, mut asked: ExplainQuery, bench: Bench) -> Result<Explanation, String> {
        let generation = match asked.candidate.take() {
            None => Arc::clone(&bench.basis.current),
            Some(candidate) => {
                let beside = bench.basis.current.id;
                self.compiled(candidate, beside, |candidate| {
                    build(candidate, bench.basis, &bench.contents, &bench.ports)
                })
                .map_err(|errors| {
                    format!("these documents do not compile here: {}", in_words(&errors))
                })?
            }
        };
        crate::explain::explain(&asked, &generation, &bench.ports, &bench.tier)
    }

    /// The generation of a candidate: the one that is kept, or a new one.
    fn compiled(
        &self,
        candidate: Candidate,
        beside: u64,
        build: impl FnOnce(&Candidate) -> Result<Generation, Vec<FieldError>>,
    ) -> Result<Arc<Generation>, Vec<FieldError>> {
        if let Some(kept) = &*self.kept()
            && kept.beside == beside
            && kept.at.elapsed() <= KEPT_FOR
            && kept.candidate == candidate
        {
            return Ok(Arc::clone(&kept.generation));
        }
        let at = Instant::now();
        let generation = Arc::new(build(&candidate)?);
        *self.kept() = Some(Kept {
            candidate,
            beside,
            at,
            generation: Arc::clone(&generation),
        });
        Ok(generation)
    }
}

/// The generation that documents would make on this node's ports, kernel and health as they are now.
fn build(
    candidate: &Candidate,
    basis: Basis,
    contents: &Contents,
    ports: &[FastPort],
) -> Result<Generation, Vec<FieldError>> {
    let documents = candidate.documents.iter();
    let state = State::from_canonical(documents.map(|document| document.json.as_str()))
        .map_err(|invalid| invalid.0)?;
    let sets = contents.sets(&state)?;
    let desired = Desired {
        revision: candidate.revision,
        state,
        sets,
    };
    basis.build(&desired, ports)
}

/// The first errors, in one line: it travels in a header, whose size is bounded.
fn in_words(errors: &[FieldError]) -> String {
    let texts = errors.iter().take(ERRORS_TOLD).map(ToString::to_string);
    let mut texts: Vec<String> = texts.collect();
    if errors.len() > ERRORS_TOLD {
        texts.push(format!("and {} more errors", errors.len() - ERRORS_TOLD));
    }
    texts.join("; ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_many_errors_the_first_are_told() {
        let error = |at: usize| FieldError::of_document(format!("Rule/r{at}"), "", "no".into());
        let errors: Vec<FieldError> = (0..60_000).map(error).collect();
        let words = in_words(&errors);
        assert!(words.starts_with("Rule/r0"), "{words}");
        assert!(words.ends_with("; and 59990 more errors"), "{words}");
        assert!(!in_words(&errors[..ERRORS_TOLD]).contains("more"));
    }

    #[test]
    fn the_packets_of_one_question_compile_a_candidate_once() {
        let judge = Judge::default();
        let mut builds = 0;
        let mut ask = |revision, beside| {
            let candidate = Candidate {
                revision,
                documents: Vec::new(),
            };
            let build = |_: &Candidate| {
                builds += 1;
                Ok(Generation::empty())
            };
            judge.compiled(candidate, beside, build).expect("builds");
            builds
        };
        assert_eq!(ask(7, 1), 1);
        assert_eq!(ask(7, 1), 1);
        assert_eq!(ask(8, 1), 2, "another candidate");
        assert_eq!(ask(8, 2), 3, "something else runs now");
        judge.care();
        assert!(judge.kept().is_some(), "more packets may come");
        if let Some(kept) = &mut *judge.kept() {
            kept.at = kept
                .at
                .checked_sub(KEPT_FOR * 2)
                .expect("the machine runs for longer");
        }
        judge.care();
        assert!(judge.kept().is_none());
    }
}
