//! Builds the XDP program from source with the toolchain that has a BPF target, for `src/lib.rs` to embed.
//!
//! Environment: `MARCHPROXY_BPF_LINKER` (default `.build/tools/bin/bpf-linker` of the repository),
//! `MARCHPROXY_BPF_CARGO` and `MARCHPROXY_BPF_RUSTC` (default Debian's, in `/usr/bin`).

use std::env;
use std::path::{Path, PathBuf};
use std::process::Command;

const TARGET: &str = "bpfel-unknown-none";

fn main() {
    let here = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").expect("set by cargo"));
    let repository = here.join("../..");
    let program = here.join("../xdp");
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("set by cargo"));

    // Everything that the object is made of.
    for path in [
        "Cargo.toml",
        "bpf/abi/Cargo.toml",
        "bpf/abi/src",
        "bpf/xdp/Cargo.toml",
        "bpf/xdp/Cargo.lock",
        "bpf/xdp/src",
        "bpf/xdp/maps",
        "dataplane/wire/Cargo.toml",
        "dataplane/wire/src",
    ] {
        println!(
            "cargo::rerun-if-changed={}",
            repository.join(path).display()
        );
    }

    let cargo = tool("MARCHPROXY_BPF_CARGO", Path::new("/usr/bin/cargo"));
    let rustc = tool("MARCHPROXY_BPF_RUSTC", Path::new("/usr/bin/rustc"));
    let linker = tool(
        "MARCHPROXY_BPF_LINKER",
        &repository.join(".build/tools/bin/bpf-linker"),
    );
    let (Some(cargo), Some(rustc), Some(linker)) = (cargo, rustc, linker) else {
        // Each missing tool has been named by `cargo::error`.
        return;
    };

    let flags = format!(
        "-Clinker={}\x1f-Clink-arg=--btf\x1f-Clink-arg=--disable-memory-builtins",
        linker.display()
    );
    // Beside the profiles of the outer build, so that all of them share it.
    let target_dir = out.ancestors().nth(4).unwrap_or(&out).join("bpf");
    let mut build = Command::new(&cargo);
    // The outer build's settings are for another compiler and another target.
    for (name, _) in env::vars_os() {
        let name = name.to_string_lossy();
        let is_foreign = ["CARGO", "RUSTC", "RUSTUP", "RUSTFLAGS", "RUSTDOC"]
            .iter()
            .any(|p| name.starts_with(p));
        if is_foreign && name != "CARGO_HOME" {
            build.env_remove(name.as_ref());
        }
    }
    build
        .current_dir(&program)
        .env("RUSTC", &rustc)
        // `core` for the BPF target and its built-ins count as unstable.
        .env("RUSTC_BOOTSTRAP", "1")
        .env("CARGO_ENCODED_RUSTFLAGS", flags)
        .args([
            "build",
            "--release",
            "--locked",
            "--target",
            TARGET,
            "--target-dir",
        ])
        .arg(&target_dir);
    match build.output() {
        Ok(output) if output.status.success() => {}
        Ok(output) => {
            println!(
                "cargo::error=the XDP program in bpf/xdp does not build ({}); its output follows",
                output.status
            );
            for line in String::from_utf8_lossy(&output.stderr).lines() {
                println!("cargo::error={line}");
            }
            println!("cargo::error=if the toolchain is at fault, run `make setup`");
            return;
        }
        Err(error) => {
            println!(
                "cargo::error=cannot run {}: {error}; run `make setup`",
                cargo.display()
            );
            return;
        }
    }
    let object = target_dir.join(TARGET).join("release/steer");
    if let Err(error) = std::fs::copy(&object, out.join("steer.o")) {
        println!("cargo::error=cannot copy {}: {error}", object.display());
    }
}

/// The path of a tool, which the environment may override; an error that says what to do if it is not there.
fn tool(variable: &str, default: &Path) -> Option<PathBuf> {
    println!("cargo::rerun-if-env-changed={variable}");
    let path = env::var_os(variable).map_or_else(|| default.to_path_buf(), PathBuf::from);
    if path.is_file() {
        // A tool that another version replaces builds another object.
        println!("cargo::rerun-if-changed={}", path.display());
        return Some(path);
    }
    println!(
        "cargo::error={} is missing: building the XDP program needs it. Run `make setup`, or set {variable}.",
        path.display()
    );
    None
}
