#!/usr/bin/env bash
# Debian packages, and the Rust toolchain that the workspace is built with (rustup's, which must be there already).
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=steps.sh
source "$here/steps.sh"

readonly RUST_MINIMUM=1.95

wanted() { sed 's/#.*//' "$here/packages.list" | xargs -n1; }

missing() {
    # Prints each wanted package that dpkg does not have fully installed.
    comm -23 <(wanted | sort -u) \
        <(dpkg-query -W -f='${db:Status-Status} ${Package}\n' 2>/dev/null | awk '$1 == "installed" { print $2 }' | sort -u)
}

rust_is_new_enough() {
    local have
    have=$(cargo --version 2>/dev/null | awk '{ print $2 }')
    [[ -n $have && $(printf '%s\n%s\n' "$RUST_MINIMUM" "$have" | sort -V | head -n1) == "$RUST_MINIMUM" ]] &&
        cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1
}

check() {
    local packages
    packages=$(missing)
    [[ -z $packages ]] || { say "missing packages:" $packages; return 1; }
    rust_is_new_enough || { say "Rust $RUST_MINIMUM or newer with rustfmt and clippy is not on the PATH"; return 1; }
}

# Daemons that come with a package (nginx) must not start on the host: the lab runs its own, in namespaces.
without_daemons() {
    local policy=/usr/sbin/policy-rc.d made='' status=0
    if [[ ! -e $policy ]]; then
        printf '#!/bin/sh\nexit 101\n' >"$policy"
        chmod 755 "$policy"
        made=$policy
    fi
    "$@" || status=$?
    [[ -z $made ]] || rm -f "$made"
    return "$status"
}

apply() {
    local packages had_nginx=no
    mapfile -t packages < <(missing)
    if ((${#packages[@]})); then
        [[ -e /usr/sbin/nginx ]] && had_nginx=yes
        export DEBIAN_FRONTEND=noninteractive
        say "installing them, about a minute"
        quietly apt-get update -q
        quietly without_daemons apt-get install -q -y --no-install-recommends "${packages[@]}"
        if [[ $had_nginx == no && -d /run/systemd/system ]]; then
            systemctl disable --now nginx.service
        fi
    fi
    rust_is_new_enough || die "install Rust $RUST_MINIMUM or newer with rustup (components rustfmt and clippy), then run this again"
}

run_step packages
