#!/usr/bin/env bash
# Installs the packages for arm64 in a Debian of that architecture under qemu, and tries the program there.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=container.sh
. "$(dirname "$0")/container.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/try-arm64.sh [--suite bookworm|trixie] [--packages FOLDER | --program FILE] [--cpu NAME]...

Needs root, a PC, Debian's package mirror and some 1.5 GB. Builds the packages for arm64, unless --packages names
the folder of scripts/build-deb.sh; --program packs a jarvisd for arm64 that is built already. Then it makes a
Debian for arm64 (kept in the cache folder), installs the packages there with apt, and tries for each processor
(cortex-a53, cortex-a72 and cortex-a76, as of the Raspberry Pi 3, 4 and 5): every network against its recorded
result, enrolment and check of a voice, a spoken turn from a recording, a typed question. At last the daemon runs
on the second of them with a simulated microphone. qemu knows the instructions of a processor, not its speed.
The voices are synthetic.
TEXT
}
suite=bookworm
packages=
program=
cpus=()
while [ $# -gt 0 ]; do
    case $1 in
    --suite) suite=${2:?} && shift 2 ;;
    --packages) packages=$(realpath "${2:?}"); shift 2 ;;
    --program) program=$(realpath "${2:?}"); shift 2 ;;
    --cpu) cpus+=("${2:?}") && shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
[ ${#cpus[@]} -gt 0 ] || cpus=(cortex-a53 cortex-a72 cortex-a76)
sound_of "$suite" >/dev/null
[ "$(id -u)" -eq 0 ] || fail "it changes its root folder, which needs root"
cd "$repository"
started=$SECONDS

step "Packages of this machine"
apt_install "${build_packages[@]}" debootstrap gcc-aarch64-linux-gnu libc6-dev-arm64-cross qemu-user-static flite sox
grep -qs '^enabled' /proc/sys/fs/binfmt_misc/qemu-aarch64 ||
    fail "this machine does not run programs for arm64: mount binfmt_misc, and reinstall qemu-user-static"

work=$(mktemp -d)
at=$work/arm64
daemon=
end() {
    [ -z "$daemon" ] || kill "$daemon" 2>/dev/null || true
    local place
    for place in "$at/proc/cpuinfo" "$at/proc" "$at"; do
        # A program that was interrupted may still be there.
        ! mountpoint -q "$place" || umount "$place" 2>/dev/null || umount -l "$place"
    done
    rm -rf --one-file-system "$work"
}
trap end EXIT

if [ -z "$packages" ]; then
    packages=$work/built
    scripts/build-deb.sh --arch arm64 --out "$packages" --wake-word ${program:+--program "$program"}
fi
package=$(find "$packages" -name 'jarvisd_*_arm64.deb' | sort -V | tail -n 1)
[ -n "$package" ] || fail "no jarvisd_*_arm64.deb in $packages"
version=$(dpkg-deb -f "$package" Version)

step "A Debian for arm64 ($suite)"
root=$cache/try-arm64/$suite
before=$SECONDS
debian_architecture=arm64 debian_root "$root" "$suite" ca-certificates libatomic1 libstdc++6
note "made or found in $((SECONDS - before)) s"
# The tries are written over it, and thrown away.
mkdir "$work/upper" "$work/changes" "$at"
mount -t overlay overlay -o "lowerdir=$root,upperdir=$work/upper,workdir=$work/changes" "$at"
mount -t proc proc "$at/proc"

# become CPU: qemu has the instructions of that processor from now on, and /proc/cpuinfo, which is the PC's own under
# qemu, says what the board's kernel says there. tract chooses its kernels by both.
become() {
    cpu=$1
    local code features="fp asimd evtstrm crc32 cpuid"
    case $cpu in
    cortex-a53) code=0xd03 ;;
    cortex-a72) code=0xd08 ;;
    cortex-a76)
        code=0xd0b
        features="fp asimd evtstrm aes pmull sha1 sha2 crc32 atomics fphp asimdhp cpuid asimdrdm lrcpc dcpop asimddp"
        ;;
    *) fail "the processor is cortex-a53, cortex-a72 or cortex-a76, not $cpu" ;;
    esac
    for core in 0 1 2 3; do
        printf 'processor\t: %s\nFeatures\t: %s\nCPU implementer\t: 0x41\nCPU architecture: 8\nCPU part\t: %s\n\n' \
            "$core" "$features" "$code"
    done >"$work/cpuinfo"
    mountpoint -q "$at/proc/cpuinfo" || mount --bind "$work/cpuinfo" "$at/proc/cpuinfo"
}
become "${cpus[0]}"
in_arm64() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LANG=C.UTF-8 DEBIAN_FRONTEND=noninteractive \
        QEMU_CPU="$cpu" JARVIS__STT__ENGINE=whisper JARVIS__WAKE__MODEL=hey-jarvis chroot "$at" "$@"
}
[ "$(in_arm64 uname -m)" = aarch64 ] || fail "the root in $root is not for arm64"

step "apt install"
mkdir -p "$at/opt/packages" "$at/opt/voices"
cp "$package" "$packages/jarvisd-models_${version}_all.deb" "$packages/jarvisd-wake-hey-jarvis_${version}_all.deb" \
    "$at/opt/packages/"
# No service starts in a root that is not booted.
printf '#!/bin/sh\nexit 101\n' | install -m 755 /dev/stdin "$at/usr/sbin/policy-rc.d"
before=$SECONDS
quietly() { "$@" >"$work/said" 2>&1 || { tail -n 25 "$work/said"; return 1; }; }
check "apt install ./jarvisd_*_arm64.deb ./jarvisd-models_*.deb ./jarvisd-wake-hey-jarvis_*.deb" \
    quietly in_arm64 sh -c 'apt-get -q -y install --no-install-recommends /opt/packages/*.deb </dev/null'
note "after $((SECONDS - before)) s"
# shellcheck disable=SC2016 # expanded there
check "the account and the folders are there" in_arm64 sh -c 'test "$(stat -c %U /var/lib/jarvis)" = jarvis'
check "manual pages and completions are there" in_arm64 sh -c '
    test -e /usr/share/man/man1/jarvisd-backup-create.1.gz -a -e /usr/share/bash-completion/completions/jarvisd'

step "Voices"
say() { # say NAME VOICE TEXT
    flite -voice "$2" -t "$3" -o "$work/raw.wav"
    sox -R "$work/raw.wav" -r 16000 -c 1 -b 16 "$at/opt/voices/$1.wav" gain -n -3 pad 0.5 1.2
}
say one rms "the quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire"
say two rms "please remember to water the plants in the living room every monday and thursday before the news"
say three rms "my favourite season is autumn when the leaves turn red and gold and the air smells of apples"
say remember rms "hey jarvis, remember that the spare key is under the blue pot"
say recall rms "hey jarvis, what do you remember about the spare key"
say stranger slt "hey jarvis, what do you remember about the spare key"
table=$work/table
printf '%s\t' processor networks difference kernels "same voice" "other voice" heard answer s >"$table"
echo >>"$table"
# part EXPRESSION: a value of the JSON that stands in $work/json.
part() { python3 -c "import json, sys; x = json.load(open(sys.argv[1])); print($1)" "$work/json"; }
# event KIND KEY: of the first such event in $work/events.
event() {
    python3 -c '
import json, sys
for line in open(sys.argv[1]):
    event = json.loads(line)
    if event["event"] == sys.argv[2]:
        print(event.get(sys.argv[3], ""))
        break' "$work/events" "$@"
}
try() { # try COMMAND...: with a folder of its own
    in_arm64 jarvisd --root "/opt/try/$cpu" "$@"
}
try_processor() {
    local before=$SECONDS row=("$cpu")
    check "--version" try --version
    # 1 is a wrong result, and what it says is in the answer.
    try models verify --run --json >"$work/json" || bad "models verify --run"
    row+=("$(part '"%d of %d" % (sum(r["right"] for r in x["runs"]), len(x["runs"]))')")
    row+=("$(part '"%.0e" % max(r["difference"] for r in x["runs"])')")
    row+=("$(part '" ".join(sorted({k for r in x["runs"] for k in r.get("kernels", [])}))')")
    check "every network gives its recorded result" test "${row[1]}" = "8 of 8"
    mkdir -p "$at/opt/try/$cpu"
    check "user add" quietly try user add Rob
    check "voice enroll" quietly try voice enroll --user Rob /opt/voices/{one,two,three}.wav
    try voice verify --user Rob --json /opt/voices/recall.wav >"$work/json" || true
    row+=("$(part '"%s %.3f" % (x["outcome"], x.get("confidence") or 0)')")
    check "the same person is known" test "$(part 'x["outcome"]')" = verified
    try voice verify --user Rob --json /opt/voices/stranger.wav >"$work/json" || true
    row+=("$(part '"%s %.3f" % (x["outcome"], x.get("confidence") or 0)')")
    check "another one is not" test "$(part 'x["outcome"]')" != verified
    try listen /opt/voices/remember.wav >"$work/events" || bad listen
    row+=("$(event transcript text)")
    check "it heard what was said" grep -qi "spare key is under the blue pot" <<<"$(event transcript text)"
    try ask --user Rob "what do you remember about the spare key" >"$work/said" || bad ask
    row+=("$(head -n 1 "$work/said")")
    check "a typed question is answered from the memory" grep -qi "blue pot" "$work/said"
    row+=($((SECONDS - before)))
    printf '%s\t' "${row[@]}" >>"$table"
    echo >>"$table"
}
for name in "${cpus[@]}"; do
    step "$name"
    become "$name"
    try_processor
done

step "The daemon with a simulated microphone"
become "${cpus[1]:-${cpus[0]}}"
room=$at/opt/room
mkdir -p "$room"
chmod 777 "$room"
libraries=$at/usr/lib/aarch64-linux-gnu
aarch64-linux-gnu-gcc -O2 -shared -fPIC -isystem /usr/include -o "$at/opt/simmic.so" tests/support/simmic.c \
    "$libraries"/libasound.so.2 -Wl,--allow-shlib-undefined
cat >"$at/etc/asound.conf" <<'TEXT'
pcm_type.simmic { lib "/opt/simmic.so" }
pcm.!default { type simmic dir "/opt/room" format S16_LE channels 1 rate 48000 }
TEXT
start_daemon() {
    in_arm64 jarvisd --root "/opt/try/$cpu" run --events >"$work/events" 2>>"$work/log" &
    daemon=$!
}
stop_daemon() {
    kill -TERM "$daemon" && wait "$daemon"
    local status=$?
    daemon=
    return $status
}
happened() { grep -q "\"event\":\"$1\"" "$work/events"; }
hear() {
    sox -R "$at/opt/voices/$1.wav" -r 48000 -c 1 -b 16 -e signed-integer -t raw "$room/next"
    mv "$room/next" "$room/say.raw"
}
before=$(date +%s%N)
start_daemon
check "it is ready" within 120 happened ready
note "after $((($(date +%s%N) - before) / 1000000)) ms"
hear stranger
check "a stranger is refused" within 120 happened rejected
check "SIGTERM ends it" stop_daemon
start_daemon
check "it is ready again" within 120 happened ready
hear recall
check "the person is answered" within 120 happened stored
check "from the memory of before" grep -qi "blue pot" <<<"$(event reply text)"
check "the loudspeaker plays" within 120 test -s "$room/out.raw"
check "SIGTERM ends it" stop_daemon

step "Remove"
check "apt purge" quietly in_arm64 sh -c 'apt-get -q -y purge jarvisd jarvisd-models </dev/null'
check "memory and voices stay" in_arm64 test -d /var/lib/jarvis

step "Table"
column -t -s "$(printf '\t')" <"$table"
[ "$failed" -eq 0 ] || { tail -n 40 "$work/log" 2>/dev/null; fail "$failed of the tries failed"; }
note "all of it worked, in $((SECONDS - started)) s"
