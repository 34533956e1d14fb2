//! Binds `rte_acl` of the installed DPDK for the yardstick of the rules benchmark. It is linked with what `march-dpdk` links.

use std::env;
use std::path::PathBuf;
use std::process::Command;

const HEADER: &str = "src/rules/acl.h";

const FUNCTIONS: &[&str] = &[
    "rte_acl_add_rules",
    "rte_acl_build",
    "rte_acl_classify",
    "rte_acl_create",
    "rte_acl_free",
    "rte_acl_set_ctx_classify",
    "rte_malloc_get_socket_stats",
];

fn main() {
    for variable in ["PKG_CONFIG_PATH", "LIBCLANG_PATH"] {
        println!("cargo::rerun-if-env-changed={variable}");
    }
    println!("cargo::rerun-if-changed={HEADER}");
    let mut builder = bindgen::Builder::default()
        .header(HEADER)
        .clang_args(compiler_flags())
        .use_core()
        .rust_edition(bindgen::RustEdition::Edition2024)
        .prepend_enum_name(false)
        .layout_tests(true)
        .generate_comments(false)
        .allowlist_recursively(true)
        .allowlist_type("march_acl_rule")
        .allowlist_var("RTE_ACL_FIELD_TYPE_.*")
        .allowlist_var("RTE_ACL_MAX_FIELDS")
        // Ends in an array of no length; rules are given as `march_acl_rule`.
        .opaque_type("rte_acl_rule");
    for function in FUNCTIONS {
        builder = builder.allowlist_function(function);
    }
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    builder
        .generate()
        .expect("bindings for the installed DPDK headers")
        .write_to_file(out.join("acl.rs"))
        .expect("OUT_DIR is writable");
}

/// Every token of `pkg-config --cflags libdpdk`: the forced include and `-march` change structure layouts.
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
