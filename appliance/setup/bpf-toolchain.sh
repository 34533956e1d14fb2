#!/usr/bin/env bash
# bpf-linker: what Debian's Rust links the XDP program with. Built once per machine, linked into .build/tools/bin.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=steps.sh
source "$here/steps.sh"

readonly LINKER_VERSION=0.13.0
readonly LLVM=/usr/lib/llvm-22
readonly LINKER_ROOT=$CACHE/bpf-linker-$LINKER_VERSION

check() {
    [[ $("$TOOLS/bpf-linker" --version 2>/dev/null) == "bpf-linker $LINKER_VERSION"* ]] ||
        { say "bpf-linker $LINKER_VERSION is not in $TOOLS"; return 1; }
    [[ -d /usr/lib/rustlib/bpfel-unknown-none ]] || { say "Debian's Rust lacks the bpfel-unknown-none target"; return 1; }
}

apply() {
    if [[ $("$LINKER_ROOT/bin/bpf-linker" --version 2>/dev/null) != "bpf-linker $LINKER_VERSION"* ]]; then
        say "building bpf-linker $LINKER_VERSION (about a minute)"
        local build
        build=$(mktemp -d)
        LLVM_PREFIX=$LLVM PATH=$LLVM/bin:$PATH CARGO_TARGET_DIR=$build \
            cargo install --quiet bpf-linker --version "$LINKER_VERSION" --locked --no-default-features --features llvm-22 \
            --root "$LINKER_ROOT" --force
        rm -rf "$build"
    fi
    ln -sfn "$LINKER_ROOT/bin/bpf-linker" "$TOOLS/bpf-linker"
}

run_step bpf-toolchain
