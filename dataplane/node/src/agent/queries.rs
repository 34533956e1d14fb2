//! What the daemon asks.

use march_model::Plane;
use march_proto::v1::node_message::Message;
use march_proto::v1::query::Query as Asked;
use march_proto::v1::query_reply::Reply;
use march_proto::v1::{ExplainQuery, Query, QueryReply, TraceStart, TraceStarted, TraceStop};
use tokio::sync::mpsc;

use super::Agent;
use super::judge::Bench;
use crate::engine::{Engine, FastEngine};
use crate::session;

impl Agent {
    pub(super) fn on_query(&mut self, query: Query) {
        let reply = match query.query {
            Some(Asked::Explain(asked)) => match self.explain(query.id, asked) {
                Ok(()) => return,
                Err(why) => Err(why),
            },
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
            Some(Asked::RuleHits(asked)) => are_matches_counted(&self.engine).map(|()| {
                let generation = self.publisher.current();
                self.hits.sample(&self.traffic, &generation);
                Reply::RuleHits(self.hits.page(&generation, asked.from))
            }),
            None => Err("this node does not know that question".to_owned()),
        };
        let reply = reply.unwrap_or_else(Reply::Error);
        self.tell(Message::QueryReply(QueryReply {
            id: query.id,
            reply: Some(reply),
        }));
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

    /// Has a packet judged, and the answer sent to whoever asks for it now.
    fn explain(&self, id: u64, asked: ExplainQuery) -> Result<(), String> {
        let engine = self.fast("explain")?;
        let bench = Bench {
            basis: self.basis(Plane::FastPath),
            contents: self.contents.clone(),
            ports: engine.ports.clone(),
            tier: engine.family.to_string(),
        };
        let answer = self.judge.clone().answer(asked, bench);
        let outgoing = self.outgoing.as_ref().map(mpsc::Sender::downgrade);
        tokio::spawn(async move {
            let reply = Some(answer.await);
            if let Some(outgoing) = outgoing.and_then(|outgoing| outgoing.upgrade()) {
                session::offer(&outgoing, Message::QueryReply(QueryReply { id, reply }));
            }
        });
        Ok(())
    }

    fn start_trace(&mut self, asked: &TraceStart) -> Result<u64, String> {
        match &self.engine {
            Engine::Fast(engine) => self.tracer.start(asked, engine.lcore(), &engine.ports),
            _ => self.fast("trace").map(|_| 0),
        }
    }
}

/// A rule that is not counted is not one that matched nothing.
fn are_matches_counted(engine: &Engine) -> Result<(), String> {
    match engine {
        Engine::Socket(_) => Err(
            "this node runs at the socket rung, where it is not counted what rules match"
                .to_owned(),
        ),
        Engine::Fast(_) | Engine::Idle => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use march_tables::Generation;

    use super::*;
    use crate::engine::SocketEngine;

    #[tokio::test]
    async fn a_node_at_the_socket_rung_calls_no_rule_unused() {
        let generation = Arc::new(Generation::empty());
        let sockets = Engine::Socket(SocketEngine::new(Vec::new(), generation));
        let why = are_matches_counted(&sockets).expect_err("nothing is counted");
        assert!(why.contains("socket rung"), "{why}");
        are_matches_counted(&Engine::Idle).expect("no port, no match");
    }
}
