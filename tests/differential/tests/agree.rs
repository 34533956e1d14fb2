//! A million packets and more: the data plane decides as the reference does.

use std::sync::Mutex;
use std::time::{SystemTime, UNIX_EPOCH};

use march_differential::config::World;
use march_differential::dice::Dice;
use march_differential::episode::{self, Course};
use march_differential::frames::{self, Incoming};
use march_policy::State;

/// Packets of one run, over all threads.
const PACKETS: u64 = 1_000_000;

/// Runs episodes of seeds drawn from `seed` until `packets` were decided, on two threads.
fn agree(seed: u64, packets: u64) -> Course {
    let (dice, total) = (Mutex::new(Dice::new(seed)), Mutex::new(Course::default()));
    let work = || {
        while total.lock().unwrap().packets < packets {
            let seed = dice.lock().unwrap().bits();
            match episode::run(seed, None) {
                Ok(course) => total.lock().unwrap().add(course),
                Err(difference) => panic!("{difference}"),
            }
        }
    };
    std::thread::scope(|scope| {
        scope.spawn(work);
        scope.spawn(work);
    });
    total.into_inner().unwrap()
}

#[test]
fn the_same_packets_as_ever() {
    let course = agree(0x6d61_7263_6870_726f, PACKETS);
    println!("{} packets: {:#?}", course.packets, course.verdicts);
}

/// `DIFFERENTIAL_SEED` runs one seed again.
#[test]
fn packets_that_nobody_has_seen() {
    let given = std::env::var("DIFFERENTIAL_SEED").ok();
    if let Some(text) = given {
        let digits = text.trim_start_matches("0x");
        let seed = u64::from_str_radix(digits, 16).expect("a seed in hexadecimal");
        if let Err(difference) = episode::run(seed, None) {
            panic!("{difference}");
        }
        return;
    }
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("a clock after 1970");
    let seed = Dice::new(since.as_secs() << 30 | u64::from(since.subsec_nanos())).bits();
    println!("seed {seed:#x}");
    agree(seed, PACKETS / 4);
}

#[test]
fn what_is_explained_is_what_happens() {
    let mut dice = Dice::new(0x0065_7870_6c61_696e);
    for _ in 0..40 {
        let world = World::new(&mut dice);
        let generation =
            march_tables::build(&world.config, None).expect("a generated configuration compiles");
        for _ in 0..25 {
            let Incoming { ingress, frame } = frames::frame(&mut dice, &State::new());
            let told = march_pipeline::explain(&generation, ingress, &frame).expect("memory");
            let disagrees = told
                .stations
                .iter()
                .find(|station| station.stage == "internal");
            assert_eq!(disagrees, None, "{:#?}", told.stations);
        }
    }
}
