//! Every vector over dpdk on veth.

use march_vectors::{dpdk, vector::Suite};

#[test]
fn every_vector_over_dpdk() {
    let suite = Suite::shipped().unwrap_or_else(|error| panic!("{error}"));
    let mut rig = dpdk::rig(&suite.fixtures["base"]).unwrap_or_else(|error| panic!("{error}"));
    let report = rig.run(&suite);
    let text = report.text("dpdk");
    println!("{text}");
    assert!(report.failures.is_empty(), "{text}");
}
