# A small Debian with a real systemd, for the scripts that try Jarvis as it is installed; sourced after lib.sh, not run.
# shellcheck shell=bash

# What a container needs on this machine.
# shellcheck disable=SC2034 # for the scripts that source this file
container_packages=(debootstrap systemd-container procps)

# sound_of SUITE: the package of ALSA's library there.
sound_of() {
    case $1 in
    bookworm) echo libasound2 ;;
    trixie) echo libasound2t64 ;;
    *) fail "the suite is bookworm or trixie" ;;
    esac
}

# no_container: why none can be booted on this machine, or nothing.
no_container() {
    # shellcheck disable=SC2016 # expanded by the inner shell
    if [ "$(id -u)" -ne 0 ]; then
        echo "it needs root"
    elif ! command -v apt-get >/dev/null; then
        echo "it needs the packages of Debian"
    elif ! unshare -m --propagation private bash -c '
        at=$(mktemp -d) && mount -t cgroup2 cgroup2 "$at" && umount "$at" && rmdir "$at"' 2>/dev/null; then
        echo "control groups cannot be mounted here"
    fi
}

# take_program: builds jarvisd unless $program names one; $libvosk is what lies beside it, or a name that is not there.
take_program() {
    if [ -z "$program" ]; then
        # shellcheck disable=SC2119 # no component is wanted
        install_rust
        cargo build
        program=$CARGO_TARGET_DIR/debug/jarvisd
    fi
    # shellcheck disable=SC2034 # for the scripts that source this file
    libvosk=$(readlink -f "$(dirname "$program")/libvosk.so" || true)
}

# debian_root FOLDER SUITE [PACKAGE...]: makes a Debian in FOLDER, once for each list of packages, of $debian_architecture
# if that is set. The packages need no service to be started while they are installed.
debian_root() {
    local root=$1 suite=$2
    shift 2
    local wanted
    wanted="$suite $*"
    [ "$(cat "$root.complete" 2>/dev/null)" != "$wanted" ] || return 0
    rm -rf "$root" "$root.complete"
    mkdir -p "$root"
    debootstrap --variant=minbase ${debian_architecture:+--arch="$debian_architecture"} \
        --include="systemd,systemd-sysv,dbus,libpam-systemd,util-linux,iproute2,procps,espeak-ng,$(sound_of "$suite")" \
        "$suite" "$root" >"$root.log" || fail "debootstrap failed, see $root.log"
    if [ $# -gt 0 ]; then
        printf '#!/bin/sh\nexit 101\n' | install -m 755 /dev/stdin "$root/usr/sbin/policy-rc.d"
        local step
        for step in "update" "install -y --no-install-recommends $*"; do
            # shellcheck disable=SC2086 # a list of words
            chroot "$root" env DEBIAN_FRONTEND=noninteractive LC_ALL=C.UTF-8 apt-get -q $step >>"$root.log" 2>&1 ||
                fail "apt-get $step failed, see $root.log"
        done
        rm "$root/usr/sbin/policy-rc.d"
        chroot "$root" apt-get clean
    fi
    printf '%s\n' "$wanted" >"$root.complete"
}

# The leader of the container in its namespaces, the process of nspawn, and its control group.
leader=
container_pid=
container_group=

# in_it COMMAND...: runs it in the container as root.
in_it() {
    nsenter -t "$leader" -m -p -u -i -n -C -r -w -- \
        env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 "$@"
}

# boot_container ROOT CONSOLE: boots it without a network, under an overlay that is thrown away; the console goes to a file.
boot_container() {
    local root=$1 console=$2 name base
    name=$(basename "$0" .sh)-$$
    base=/sys/fs/cgroup
    [ ! -d $base/unified ] || base=$base/unified
    container_group=$base/$name
    mkdir -p "$container_group/payload"
    # On a machine without systemd nspawn wants a few folders, and a hierarchy of control groups of one kind: both in a mount
    # namespace of their own.
    # shellcheck disable=SC2016 # expanded by the inner shell
    unshare -m --propagation private bash -c '
        echo $$ >"$1/payload/cgroup.procs"
        mount -t tmpfs tmpfs /run
        mkdir -p /run/systemd /run/lock
        umount -R /sys/fs/cgroup 2>/dev/null || umount -l /sys/fs/cgroup
        mount -t cgroup2 cgroup2 /sys/fs/cgroup
        export SYSTEMD_NSPAWN_UNIFIED_HIERARCHY=1 SYSTEMD_NSPAWN_LOCK=0
        exec systemd-nspawn -D "$2" --machine="$3" --register=no --keep-unit --console=pipe --private-network \
            --volatile=overlay --capability=all --system-call-filter=bpf -b </dev/null' \
        boot "$container_group" "$root" "$name" >"$console" 2>&1 &
    container_pid=$!
    for _ in $(seq 300); do
        leader=$(pgrep -P "$container_pid" | head -n 1 || true)
        if [ -n "$leader" ] && in_it systemctl is-system-running 2>/dev/null | grep -qE 'running|degraded'; then break; fi
        kill -0 "$container_pid" 2>/dev/null || { cat "$console" >&2; fail "the container did not boot"; }
        sleep 0.1
    done
    note "$(in_it systemctl --version | head -n 1)"
}

stop_container() {
    [ -z "$leader" ] || in_it systemctl poweroff >/dev/null 2>&1 || true
    if [ -n "$container_pid" ]; then
        for _ in $(seq 100); do
            kill -0 "$container_pid" 2>/dev/null || break
            sleep 0.1
        done
        kill -9 "$container_pid" 2>/dev/null || true
    fi
    [ -z "$container_group" ] || find "$container_group" -depth -type d -exec rmdir {} + 2>/dev/null || true
    leader='' container_pid='' container_group=''
}

# begin_try SUITE: the beginning of a script that tries something in a container; $work is a folder until its end.
begin_try() {
    sound_of "$1" >/dev/null
    [ "$(id -u)" -eq 0 ] || fail "a container needs root"
    work=$(mktemp -d)
    trap end_try EXIT
}

end_try() {
    stop_container
    rm -rf "$work"
}

# What is tried in it, and how many tries failed.
failed=0
ok() { printf '    ok    %s\n' "$*"; }
bad() {
    printf '    FAIL  %s\n' "$*"
    failed=$((failed + 1))
}
# check WHAT COMMAND...: ok if the command succeeds.
check() {
    local what=$1
    shift
    if "$@"; then ok "$what"; else bad "$what"; fi
}
show() { in_it systemctl show jarvisd -p "$1" --value; }
journal() { in_it journalctl -u jarvisd -o cat --no-pager; }
is() { [ "$(show "$1")" = "$2" ]; }
within() { # within SECONDS COMMAND...
    local end=$((SECONDS + $1))
    shift
    until "$@"; do
        [ $SECONDS -lt $end ] || return 1
        sleep 0.2
    done
}
not() { ! "$@"; }
status_has() { show StatusText | grep -qi "$1"; }
differs() { [ "$(show "$1")" != "$2" ]; }
said() { journal | grep -qF -- "$1"; }
