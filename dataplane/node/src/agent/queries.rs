//! What the daemon asks.

use march_model::{FieldError, State};
use march_proto::v1::query::Query as Asked;
use march_proto::v1::query_reply::Reply;
use march_proto::v1::{
    Candidate, ExplainQuery, Explanation, Query, QueryReply, TraceStart, TraceStarted, TraceStop,
};

use super::{Agent, Desired};
use crate::engine::{Engine, FastEngine};

/// How many errors of a candidate are told.
const ERRORS_TOLD: usize = 10;

impl Agent {
    pub(super) fn on_query(&mut self, query: Query) {
        let reply = match query.query {
            Some(Asked::Explain(asked)) => self.explain(&asked).map(Reply::Explanation),
            Some(Asked::TraceStart(asked)) => self
                .start_trace(&asked)
                .map(|trace| Reply::TraceStarted(TraceStarted { trace })),
            Some(Asked::TraceRead(asked)) => Ok(Reply::TraceEvents(match &self.engine {
                Engine::Fast(engine) => {
                    let clock = engine.lcore_clock();
                    self.tracer.read(asked.trace, &clock, &engine.ports)
                }
                _ => crate::trace::over("the lcore has stopped"),
            })),
            Some(Asked::TraceStop(TraceStop { trace })) => {
                self.tracer.stop(trace);
                Ok(Reply::TraceEvents(crate::trace::over("it was stopped")))
            }
            Some(Asked::RuleHits(asked)) => {
                let generation = self.publisher.current();
                self.hits.sample(&self.traffic, &generation);
                Ok(Reply::RuleHits(self.hits.page(&generation, asked.from)))
            }
            None => Err("this node does not know that question".to_owned()),
        };
        let reply = reply.unwrap_or_else(Reply::Error);
        self.tell(march_proto::v1::node_message::Message::QueryReply(
            QueryReply {
                id: query.id,
                reply: Some(reply),
            },
        ));
    }

    /// The engine of lcores, or why there is none.
    fn fast(&self, what: &str) -> Result<&FastEngine, String> {
        match &self.engine {
            Engine::Fast(engine) => Ok(engine),
            Engine::Socket(_) => Err(format!(
                "this node runs at the socket rung, where the kernel handles packets; {what} needs a port in dpdk or af_xdp"
            )),
            Engine::Idle => Err("this node drives no port".to_owned()),
        }
    }

    fn explain(&self, asked: &ExplainQuery) -> Result<Explanation, String> {
        let engine = self.fast("explain")?;
        let generation = match &asked.candidate {
            None => self.publisher.current(),
            Some(candidate) => {
                std::sync::Arc::new(self.candidate(candidate).map_err(|errors| {
                    format!("these documents do not compile here: {}", in_words(&errors))
                })?)
            }
        };
        crate::explain::explain(
            asked,
            &generation,
            &engine.ports,
            &engine.family.to_string(),
        )
    }

    /// The generation that documents would make on this node's ports, kernel and health as they are now.
    fn candidate(
        &self,
        candidate: &Candidate,
    ) -> Result<march_tables::Generation, Vec<FieldError>> {
        let documents = candidate.documents.iter();
        let state = State::from_canonical(documents.map(|document| document.json.as_str()))
            .map_err(|invalid| invalid.0)?;
        let sets = self.contents.sets(&state)?;
        self.try_build(&Desired {
            revision: candidate.revision,
            state,
            sets,
        })
    }

    fn start_trace(&mut self, asked: &TraceStart) -> Result<u64, String> {
        match &self.engine {
            Engine::Fast(engine) => self.tracer.start(asked, engine.lcore(), &engine.ports),
            _ => self.fast("trace").map(|_| 0),
        }
    }
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
}
