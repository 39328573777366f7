#!/usr/bin/env bash
# Runs the commands of Cross.toml that prepare a container, each target's in a fresh Debian.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/try-cross-toml.sh

Needs root, Debian's package mirror and some 400 MB. `cross` runs the `pre-build` commands of Cross.toml in a container
of its own. Here they run in a small Debian 12 (kept in the cache folder), which is made without Docker and Podman.
Then it looks for what the build needs of them: ALSA's library with its description, and libatomic.
TEXT
}
case "${1:-}" in
--help | -h) usage; exit 0 ;;
"") ;;
*) usage >&2; exit 2 ;;
esac
[ "$(id -u)" -eq 0 ] || fail "it changes its root folder, which needs root"
cd "$repository"
started=$SECONDS
apt_install debootstrap python3

root=$cache/try-cross/bookworm
if [ ! -e "$root.complete" ]; then
    rm -rf --one-file-system "$root"
    mkdir -p "$root"
    debootstrap --variant=minbase bookworm "$root" >"$root.log" || fail "debootstrap failed, see $root.log"
    touch "$root.complete"
fi
work=$(mktemp -d)
at=$work/container
end() {
    ! mountpoint -q "$at" || umount "$at"
    rm -rf --one-file-system "$work"
}
trap end EXIT
mkdir "$at"

# commands TARGET: its pre-build commands, one a line.
commands() {
    python3 - "$1" <<'TEXT'
import sys, tomllib
for command in tomllib.load(open("Cross.toml", "rb"))["target"][sys.argv[1]]["pre-build"]:
    print(command.replace("\n", " "))
TEXT
}
for target in aarch64-unknown-linux-gnu:arm64:aarch64-linux-gnu armv7-unknown-linux-gnueabihf:armhf:arm-linux-gnueabihf; do
    IFS=: read -r name architecture gnu <<<"$target"
    step "$name"
    mkdir "$work/upper" "$work/changes"
    mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/changes" "$at"
    commands "$name" >"$work/commands"
    [ -s "$work/commands" ] || fail "Cross.toml has no pre-build commands for $name"
    while read -r command; do
        note "$command"
        # As cross does: by a shell, with the name that Debian has for the architecture.
        chroot "$at" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C.UTF-8 \
            DEBIAN_FRONTEND=noninteractive CROSS_DEB_ARCH="$architecture" sh -c "$command" \
            >"$work/log" 2>&1 </dev/null || { tail -n 20 "$work/log" >&2; fail "this command failed for $name"; }
    done <"$work/commands"
    libraries=$at/usr/lib/$gnu
    for file in libasound.so pkgconfig/alsa.pc libatomic.so.1; do
        [ -e "$libraries/$file" ] || fail "$file is not in /usr/lib/$gnu afterwards"
    done
    said=$(chroot "$at" env PKG_CONFIG_LIBDIR="/usr/lib/$gnu/pkgconfig" pkg-config --modversion alsa)
    note "ALSA $said and libatomic for $architecture are in place"
    umount "$at"
    rm -rf --one-file-system "$work/upper" "$work/changes"
done
note "both of them worked, in $((SECONDS - started)) s"
