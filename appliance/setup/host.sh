#!/usr/bin/env bash
# What the host has to offer while it runs: huge pages, their file system, the BPF file system. Lost at a reboot, so looked at every time.
set -euo pipefail
here=$(dirname "$(readlink -f "$0")")
# shellcheck source=steps.sh
source "$here/steps.sh"

readonly HUGEPAGES_WANTED=512 # of 2 MB: the DPDK pools of two ports and the flow tables, with room for two runs at a time
readonly HUGEPAGES=/sys/kernel/mm/hugepages/hugepages-2048kB/nr_hugepages

hugepages() { cat "$HUGEPAGES" 2>/dev/null || echo 0; }

check() {
    mountpoint -q /dev/hugepages || { say "/dev/hugepages is not mounted"; return 1; }
    [[ $(stat -f -c %T /sys/fs/bpf) == bpf_fs ]] || { say "/sys/fs/bpf is not mounted"; return 1; }
    (($(hugepages) >= HUGEPAGES_WANTED)) || { say "$(hugepages) huge pages of 2 MB, $HUGEPAGES_WANTED wanted"; return 1; }
}

apply() {
    if ! mountpoint -q /dev/hugepages; then
        mkdir -p /dev/hugepages
        mount -t hugetlbfs none /dev/hugepages
    fi
    [[ $(stat -f -c %T /sys/fs/bpf) == bpf_fs ]] || mount -t bpf bpf /sys/fs/bpf
    if (($(hugepages) < HUGEPAGES_WANTED)); then
        echo "$HUGEPAGES_WANTED" >"$HUGEPAGES" || true
        if (($(hugepages) < HUGEPAGES_WANTED)); then
            # Memory is too fragmented: give the kernel one chance to gather it.
            echo 1 >/proc/sys/vm/compact_memory || true
            echo "$HUGEPAGES_WANTED" >"$HUGEPAGES" || true
        fi
    fi
}

run_step host
