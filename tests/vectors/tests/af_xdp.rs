//! Every vector over `AF_XDP` on veth.

use march_vectors::{af_xdp, vector::Suite};

#[test]
fn every_vector_over_af_xdp() {
    let suite = Suite::shipped().unwrap_or_else(|error| panic!("{error}"));
    let mut rig = af_xdp::rig(&suite.fixtures["base"]).unwrap_or_else(|error| panic!("{error}"));
    let report = rig.run(&suite);
    let text = report.text("af_xdp");
    println!("{text}");
    assert!(report.failures.is_empty(), "{text}");
}
