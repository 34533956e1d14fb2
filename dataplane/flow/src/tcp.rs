//! TCP as a balancer between two ends sees it: enough of RFC 9293 to know which timeout a flow deserves.
//!
//! Sequence numbers are not followed: a forged RST can shorten a flow's life, not redirect it.

use march_wire::tcp::{ACK, FIN, RST, SYN};

use crate::flow::{Direction, FlowState};

/// A segment with none of these on an established flow changes nothing.
pub const TRANSITION_FLAGS: u8 = FIN | SYN | RST;

/// What a segment means to a connection, from its flags alone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// SYN without ACK: somebody opens.
    Syn,
    /// SYN with ACK: the other end agrees.
    SynAck,
    /// Neither SYN, FIN nor RST.
    Data,
    /// FIN: this end has no more to send.
    Fin,
    /// RST: over.
    Rst,
}

impl Event {
    /// Every event, for tests that walk the matrix.
    pub const ALL: [Self; 5] = [Self::Syn, Self::SynAck, Self::Data, Self::Fin, Self::Rst];

    /// Classifies a flags octet. RST wins over all, SYN over FIN (SYN with FIN never gets here: the parser drops it).
    #[must_use]
    pub const fn of(flags: u8) -> Self {
        if flags & RST != 0 {
            Self::Rst
        } else if flags & SYN != 0 {
            if flags & ACK != 0 {
                Self::SynAck
            } else {
                Self::Syn
            }
        } else if flags & FIN != 0 {
            Self::Fin
        } else {
            Self::Data
        }
    }
}

/// What the flow does about it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// Stay or go to this state and forward the segment.
    To(FlowState),
    /// The old connection is over and the client opens a new one on the same ports: forget the flow, treat the
    /// segment as the first of a new one.
    Restart,
}

/// The transition for `event` seen in `direction` while in `state`.
#[must_use]
pub const fn step(state: FlowState, direction: Direction, event: Event) -> Step {
    use FlowState as S;
    let forward = matches!(direction, Direction::Forward);
    let next = match (state, event) {
        (_, Event::Rst) => S::Closed,
        (
            S::ClosingForward
            | S::ClosingReverse
            | S::LastAckForward
            | S::LastAckReverse
            | S::Closed,
            Event::Syn,
        ) if forward => {
            return Step::Restart;
        }
        (S::SynSent, Event::SynAck) if !forward => S::SynReceived,
        (S::SynReceived, Event::Data) if forward => S::Established,
        (S::SynSent | S::SynReceived | S::Established, Event::Fin) => {
            if forward {
                S::ClosingForward
            } else {
                S::ClosingReverse
            }
        }
        (S::ClosingForward, Event::Fin) if !forward => S::LastAckForward,
        (S::ClosingReverse, Event::Fin) if forward => S::LastAckReverse,
        // The end that closed first acknowledges the other's FIN.
        (S::LastAckForward, Event::Data) if forward => S::Closed,
        (S::LastAckReverse, Event::Data) if !forward => S::Closed,
        (state, _) => state,
    };
    Step::To(next)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fmt::Write as _;

    fn walk(steps: &[(Direction, u8)]) -> FlowState {
        let mut state = FlowState::SynSent;
        for &(direction, flags) in steps {
            match step(state, direction, Event::of(flags)) {
                Step::To(next) => state = next,
                Step::Restart => panic!("restart in {state:?}"),
            }
        }
        state
    }

    const F: Direction = Direction::Forward;
    const R: Direction = Direction::Reverse;

    #[test]
    fn a_whole_life() {
        let opened = [(F, SYN), (R, SYN | ACK), (F, ACK)];
        assert_eq!(walk(&opened[..2]), FlowState::SynReceived);
        assert_eq!(walk(&opened), FlowState::Established);
        let client_closes = [
            &opened[..],
            &[(F, FIN | ACK), (R, ACK), (R, FIN | ACK), (R, ACK)],
        ]
        .concat();
        assert_eq!(walk(&client_closes), FlowState::LastAckForward);
        assert_eq!(
            walk(&[&client_closes[..], &[(F, ACK)]].concat()),
            FlowState::Closed
        );
        let server_closes = [
            &opened[..],
            &[(R, FIN | ACK), (F, ACK), (F, FIN | ACK), (R, ACK)],
        ]
        .concat();
        assert_eq!(walk(&server_closes), FlowState::Closed);
    }

    #[test]
    fn reset_ends_every_state() {
        for state in FlowState::TCP {
            for direction in [F, R] {
                assert_eq!(
                    step(state, direction, Event::of(RST | ACK)),
                    Step::To(FlowState::Closed)
                );
            }
        }
    }

    #[test]
    fn a_new_syn_restarts_only_what_is_closing() {
        for state in FlowState::TCP {
            let closing = matches!(
                state,
                FlowState::ClosingForward
                    | FlowState::ClosingReverse
                    | FlowState::LastAckForward
                    | FlowState::LastAckReverse
                    | FlowState::Closed
            );
            assert_eq!(
                step(state, F, Event::Syn) == Step::Restart,
                closing,
                "{state:?}"
            );
            assert_ne!(step(state, R, Event::Syn), Step::Restart, "{state:?}");
        }
    }

    /// The whole matrix, written out: a change of any cell shows in the diff of this test.
    #[test]
    fn the_matrix() {
        let mut matrix = String::new();
        for state in FlowState::TCP {
            for direction in [F, R] {
                let cells: Vec<String> = Event::ALL
                    .iter()
                    .map(|&event| match step(state, direction, event) {
                        Step::To(next) if next == state => "-".to_owned(),
                        Step::To(next) => format!("{next:?}"),
                        Step::Restart => "Restart".to_owned(),
                    })
                    .collect();
                writeln!(matrix, "{state:?} {direction:?}: {}", cells.join(" ")).unwrap();
            }
        }
        let expected = "\
SynSent Forward: - - - ClosingForward Closed
SynSent Reverse: - SynReceived - ClosingReverse Closed
SynReceived Forward: - - Established ClosingForward Closed
SynReceived Reverse: - - - ClosingReverse Closed
Established Forward: - - - ClosingForward Closed
Established Reverse: - - - ClosingReverse Closed
ClosingForward Forward: Restart - - - Closed
ClosingForward Reverse: - - - LastAckForward Closed
ClosingReverse Forward: Restart - - LastAckReverse Closed
ClosingReverse Reverse: - - - - Closed
LastAckForward Forward: Restart - Closed - Closed
LastAckForward Reverse: - - - - Closed
LastAckReverse Forward: Restart - - - Closed
LastAckReverse Reverse: - - Closed - Closed
Closed Forward: Restart - - - -
Closed Reverse: - - - - -
";
        assert_eq!(matrix, expected, "\n{matrix}");
    }
}
