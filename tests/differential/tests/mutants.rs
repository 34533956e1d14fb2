//! Data planes that are wrong on purpose are found out: a comparison that sees nothing would pass all else.

use march_differential::dice::Dice;
use march_differential::episode;
use march_differential::mutant::Mutation;

/// Packets within which each must be found.
const PACKETS: u64 = 200_000;

/// Packets until the difference shows; `None` beyond [`PACKETS`].
fn found_after(mutation: Mutation) -> Option<u64> {
    let mut dice = Dice::new(0x6d75_7461_6e74);
    let mut packets = 0;
    while packets < PACKETS {
        match episode::run(dice.bits(), Some(mutation)) {
            Ok(course) => packets += course.packets,
            Err(_) => return Some(packets),
        }
    }
    None
}

#[test]
fn every_mutation_is_caught() {
    let half = Mutation::ALL.len() / 2;
    let (some, others) = Mutation::ALL.split_at(half);
    let work = |mutations: &[Mutation]| -> Vec<Mutation> {
        let missed = |mutation: &Mutation| {
            let found = found_after(*mutation);
            println!("{mutation:?}: after {found:?} packets");
            found.is_none()
        };
        mutations.iter().copied().filter(missed).collect()
    };
    let missed = std::thread::scope(|scope| {
        let other = scope.spawn(|| work(others));
        let mut missed = work(some);
        missed.extend(other.join().expect("the other half ran"));
        missed
    });
    assert!(
        missed.is_empty(),
        "not found within {PACKETS} packets: {missed:?}"
    );
}
