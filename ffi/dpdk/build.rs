//! Binds the installed DPDK: bindgen over `shim/shim.h`, the shim by the C compiler, both with every flag of
//! `pkg-config --cflags libdpdk` (the forced include of `rte_config.h` and `-march` change structure layouts).

use std::env;
use std::path::PathBuf;
use std::process::Command;

/// What the safe layer calls; types come along as far as these mention them.
const FUNCTIONS: &[&str] = &[
    "march_.*",
    "rte_dev_probe",
    "rte_dev_remove",
    "rte_eal_init",
    "rte_eth_dev_adjust_nb_rx_tx_desc",
    "rte_eth_dev_close",
    "rte_eth_dev_configure",
    "rte_eth_dev_default_mac_addr_set",
    "rte_eth_dev_get_mtu",
    "rte_eth_dev_get_name_by_port",
    "rte_eth_dev_get_port_by_name",
    "rte_eth_dev_info_get",
    "rte_eth_dev_set_mtu",
    "rte_eth_dev_socket_id",
    "rte_eth_dev_start",
    "rte_eth_dev_stop",
    "rte_eth_find_next_owned_by",
    "rte_eth_link_get_nowait",
    "rte_eth_macaddr_get",
    "rte_eth_promiscuous_disable",
    "rte_eth_promiscuous_enable",
    "rte_eth_promiscuous_get",
    "rte_eth_rx_queue_setup",
    "rte_eth_stats_get",
    "rte_eth_tx_queue_setup",
    "rte_mempool_avail_count",
    "rte_mempool_free",
    "rte_pktmbuf_free_bulk",
    "rte_pktmbuf_pool_create",
    "rte_strerror",
    "rte_thread_register",
    "rte_thread_unregister",
    "rte_version",
];

/// Constants that the safe layer uses.
const CONSTANTS: &[&str] = &[
    "MARCH_.*",
    "RTE_ETHER_ADDR_LEN",
    "RTE_ETH_DEV_NO_OWNER",
    "RTE_ETH_LINK_.*",
    "RTE_ETH_MQ_RX_RSS",
    "RTE_ETH_NAME_MAX_LEN",
    "RTE_MAX_ETHPORTS",
    "RTE_PKTMBUF_HEADROOM",
];

fn main() {
    for variable in ["PKG_CONFIG_PATH", "LIBCLANG_PATH", "CC"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed=shim");
    // Emits the link lines: shared libraries; the drivers are loaded by the EAL from its plugin directory.
    pkg_config::Config::new()
        .atleast_version("22.11")
        .probe("libdpdk")
        .expect("libdpdk 22.11 or newer (package libdpdk-dev)");
    let flags = compiler_flags();

    let mut shim = cc::Build::new();
    shim.file("shim/shim.c")
        .opt_level(3)
        .flag("-Wno-deprecated-declarations");
    for flag in &flags {
        shim.flag(flag);
    }
    shim.compile("march_dpdk_shim");

    let mut builder = bindgen::Builder::default()
        .header("shim/shim.h")
        .clang_args(&flags)
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .prepend_enum_name(false)
        .layout_tests(true)
        .generate_comments(false)
        .allowlist_recursively(true);
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    for constant in CONSTANTS {
        builder = builder.allowlist_var(constant);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let bindings = builder
        .generate()
        .expect("bindings for the installed DPDK headers");
    bindings
        .write_to_file(out.join("sys.rs"))
        .expect("OUT_DIR is writable");
}

/// Every token of `pkg-config --cflags`; the pkg-config crate keeps the include paths and macros only.
fn compiler_flags() -> Vec<String> {
    let tool = env::var_os("PKG_CONFIG").unwrap_or_else(|| "pkg-config".into());
    let output = Command::new(tool)
        .args(["--cflags", "libdpdk"])
        .output()
        .expect("pkg-config runs");
    assert!(
        output.status.success(),
        "pkg-config --cflags libdpdk: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout)
        .expect("flags are text")
        .split_whitespace()
        .map(str::to_owned)
        .collect()
}
