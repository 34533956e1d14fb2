# Sourced by every step. A step defines `check` (quick, looks at the machine itself) and `apply` (makes it so), then calls `run_step`.
# A step is skipped when its stamp carries the hash of the scripts as they are now and `check` agrees.

REPOSITORY=$(readlink -f "$(dirname "$(readlink -f "${BASH_SOURCE[0]}")")/../..")
readonly REPOSITORY
readonly STAMPS=$REPOSITORY/.build/setup
readonly TOOLS=$REPOSITORY/.build/tools/bin
readonly CACHE=/var/cache/marchproxy

say() { printf 'setup: %s\n' "$*"; }
die() { say "$*" >&2; exit 1; }

# Runs a command; what it prints is only shown if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 || status=$?
    ((status == 0)) || cat "$log" >&2
    rm -f "$log"
    return "$status"
}

scripts_hash() { cat "$REPOSITORY"/appliance/setup/* | sha256sum | cut -d' ' -f1; }

run_step() {
    local name=$1 hash
    hash=$(scripts_hash)
    mkdir -p "$STAMPS" "$TOOLS" "$CACHE"
    if [[ $(cat "$STAMPS/$name" 2>/dev/null) == "$hash" ]] && check; then
        return 0
    fi
    ((EUID == 0)) || die "$name: needs root"
    check >/dev/null || { check || true; say "$name: setting up"; }
    apply
    check || die "$name: still not as it should be"
    echo "$hash" >"$STAMPS/$name"
    say "$name: done"
}
