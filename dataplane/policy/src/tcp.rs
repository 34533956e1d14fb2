//! The life of a TCP connection as its two ends' flags tell it, and how long silence is forgiven.

use march_tables::Timeouts;

use crate::facts::{ACK, FIN, RST, SYN};
use crate::flows::{Direction, Life};

/// What a segment does to its connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Turn {
    /// It goes on as this.
    Becomes(Life),
    /// It was over, and its opener opens another.
    OpensAnew,
}

/// What becomes of a connection in `life` by a segment with `flags` of `direction`.
pub(crate) fn turn(life: Life, direction: Direction, flags: u8) -> Turn {
    use Direction::{Forward, Reverse};
    let is_new = flags & SYN != 0 && flags & ACK == 0;
    let is_answer = flags & SYN != 0 && flags & ACK != 0;
    let closes = flags & SYN == 0 && flags & FIN != 0;
    let is_plain = flags & (SYN | FIN) == 0;
    if flags & RST != 0 {
        return Turn::Becomes(Life::Closed);
    }
    let is_ending = matches!(
        life,
        Life::Closing { .. } | Life::LastAck { .. } | Life::Closed
    );
    if is_ending && is_new && direction == Forward {
        return Turn::OpensAnew;
    }
    Turn::Becomes(match life {
        Life::SynSent if is_answer && direction == Reverse => Life::SynReceived,
        Life::SynReceived if is_plain && direction == Forward => Life::Established,
        Life::SynSent | Life::SynReceived | Life::Established if closes => {
            Life::Closing { first: direction }
        }
        // The other end closes too.
        Life::Closing { first } if closes && direction != first => Life::LastAck { first },
        // The end that closed first acknowledges that.
        Life::LastAck { first } if is_plain && direction == first => Life::Closed,
        unchanged => unchanged,
    })
}

/// How long a flow of this life may be silent, milliseconds.
pub(crate) fn timeout_ms(life: Life, timeouts: &Timeouts) -> u32 {
    match life {
        Life::SynSent | Life::SynReceived => timeouts.syn_ms,
        Life::Established => timeouts.established_ms,
        Life::Closing { .. } | Life::LastAck { .. } => timeouts.closing_ms,
        Life::Closed => 0,
        Life::Datagram => timeouts.udp_ms,
        Life::Echo => timeouts.icmp_ms,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn walk(segments: &[(Direction, u8)]) -> Life {
        segments
            .iter()
            .fold(Life::SynSent, |life, (direction, flags)| {
                match turn(life, *direction, *flags) {
                    Turn::Becomes(next) => next,
                    Turn::OpensAnew => panic!("{life:?} opened anew"),
                }
            })
    }

    #[test]
    fn a_connection_opens_and_closes_from_either_end() {
        use Direction::{Forward as F, Reverse as R};
        let open = [(F, SYN), (R, SYN | ACK), (F, ACK)];
        assert_eq!(walk(&open[..2]), Life::SynReceived);
        assert_eq!(walk(&open), Life::Established);
        for (one, other) in [(F, R), (R, F)] {
            let closing = [&open[..], &[(one, FIN | ACK)]].concat();
            assert_eq!(walk(&closing), Life::Closing { first: one });
            let last = [
                &closing[..],
                &[(other, ACK), (other, FIN | ACK), (other, ACK)],
            ]
            .concat();
            assert_eq!(walk(&last), Life::LastAck { first: one });
            assert_eq!(walk(&[&last[..], &[(one, ACK)]].concat()), Life::Closed);
        }
        assert_eq!(walk(&[(R, RST)]), Life::Closed);
    }

    #[test]
    fn only_the_opener_opens_anew_and_only_what_is_ending() {
        let ending = [
            Life::Closed,
            Life::Closing {
                first: Direction::Reverse,
            },
        ];
        for life in ending {
            assert_eq!(turn(life, Direction::Forward, SYN), Turn::OpensAnew);
            assert_eq!(turn(life, Direction::Reverse, SYN), Turn::Becomes(life));
        }
        assert_eq!(
            turn(Life::Established, Direction::Forward, SYN),
            Turn::Becomes(Life::Established)
        );
    }
}
