//! Every scenario on every tier that it makes sense on, against the release build of the product.
//!
//! Each test runs `lab run` of the release build, because what is tested is what ships, and shows its output when it fails.

use std::path::PathBuf;
use std::process::Command;

use march_lab::scenario::{self, ALL};
use march_lab::tier::Tier;

/// The programs of the release build, next to the folder of the build that this test belongs to.
fn lab() -> PathBuf {
    let this = std::env::current_exe().expect("the path of this test");
    let target = this.ancestors().nth(3).expect("target/profile/deps/test");
    let lab = target.join("release").join("lab");
    assert!(
        lab.exists(),
        "{} is not built: `cargo build --release -p marchd -p marchdp -p marchctl -p march-lab`",
        lab.display()
    );
    lab
}

fn run(name: &str, tier: Tier) {
    let scenario = scenario::find(name).expect("a scenario of the list");
    assert!(scenario.tiers.contains(&tier), "{name} is not for {tier}");
    if let Some(lack) = tier.lacks() {
        println!("SKIPPED: {name} on {tier}: {lack}");
        return;
    }
    let output = Command::new(lab())
        .args(["run", "--tier", tier.word(), name])
        .output()
        .expect("lab starts");
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text);
    println!("{text}");
    assert!(
        output.status.success(),
        "{name} on {tier} found what should not be:\n{text}"
    );
}

macro_rules! scenarios {
    ($($tier:ident $module:ident: $($name:ident)*;)*) => {
        $(mod $module {
            use march_lab::tier::Tier;
            $(#[test] fn $name() { super::run(stringify!($name), Tier::$tier); })*
        })*

        #[test]
        fn every_scenario_is_run_on_every_tier_that_it_is_for() {
            let written = [$((Tier::$tier, &[$(stringify!($name)),*][..])),*];
            for scenario in ALL {
                for tier in scenario.tiers {
                    let is_run = written.iter().any(|(of, names)| of == tier && names.contains(&scenario.name));
                    assert!(is_run, "{} on {tier} is not run", scenario.name);
                }
            }
        }
    };
}

scenarios! {
    Kernel kernel: http udp stream iperf ping;
    AfXdp af_xdp: http udp stream iperf ping backend_killed backend_drained backend_offline denied explain transit rule_added rule_actions mappings guarded syn_flood
        explained_then_sent large_set conservation offloads daemon_killed node_alone config_changes bad_input missing_nic no_hugepages given_back default_route;
    Dpdk dpdk: http udp stream iperf ping backend_killed backend_drained backend_offline denied explain transit rule_added rule_actions mappings guarded syn_flood
        explained_then_sent conservation offloads daemon_killed node_alone given_back;
    Socket socket: http udp stream iperf ping backend_killed backend_drained daemon_killed node_alone same_again full_disk
        truncated_last_good no_bpf given_back;
}
