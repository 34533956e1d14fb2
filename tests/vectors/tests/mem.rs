//! Every vector over memory ports.

use march_vectors::{mem, vector::Suite};

#[test]
fn every_vector_over_memory_ports() {
    let suite = Suite::shipped().unwrap_or_else(|error| panic!("{error}"));
    let report = mem::rig(2).expect("memory for two ports").run(&suite);
    let text = report.text("mem");
    println!("{text}");
    assert!(report.failures.is_empty(), "{text}");
}
