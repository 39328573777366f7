#!/usr/bin/env bash
# Runs every command of README.md and docs/ in a booted Debian, as it is printed there.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=container.sh
. "$(dirname "$0")/container.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/try-docs.sh [--suite bookworm|trixie] [--program FILE] [--until PAGE] [--show]

Needs root, Debian's package mirror and some 1.5 GB. Makes a Debian with the packages that the pages name (kept in the cache
folder), boots it with systemd-nspawn without a network, and runs the pages one after the other, each in one shell of an ordinary
user who may use sudo. The microphone is the test plug-in of tests/support. Commands that cannot run there have a mark in the page
with a reason, and are listed at the end: see scripts/docs-commands.py. --program tries a jarvisd that is built already; --until
ends behind a page; --show prints what every command says.
TEXT
}
suite=bookworm
program=
last=
show=no
while [ $# -gt 0 ]; do
    case $1 in
    --suite) suite=${2:?} && shift 2 ;;
    --program) program=$(realpath "${2:?}") && shift 2 ;;
    --until) last=${2:?} && shift 2 ;;
    --show) show=yes && shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
begin_try "$suite"
cd "$repository"
started=$SECONDS

step "Packages and program"
apt_install "${build_packages[@]}" "${container_packages[@]}" "${model_packages[@]}" flite sox git
take_program

step "Commands"
scripts/docs-commands.py check --program "$program"

step "A Debian ($suite)"
root=$cache/try-docs/$suite
debian_root "$root" "$suite" sudo git ca-certificates python3 python3-pip alsa-utils openssl age rclone \
    postgresql pgbackrest mosquitto mosquitto-clients

# The folder of the container is mounted under an overlay that is thrown away; what goes there is made anew each time.
step "A person, their clone, a microphone and voices"
models=$cache/try-service/models
mkdir -p "$models"
# Those that are fetched already need not be fetched once more; each is checked.
cp -n "$JARVIS_MODELS_DIR"/hey_jarvis* "$JARVIS_MODELS_DIR"/whisper_* "$models/" 2>/dev/null || true
JARVIS_MODELS_DIR=$models scripts/fetch-models.sh --wake-word --whisper 2>"$work/models" ||
    { cat "$work/models" >&2; fail "the models could not be fetched"; }
home=$root/home/owner
rm -rf "$home" "$root/opt"
mkdir -p "$home/jarvis" "$home/.cache/jarvis/target/release" "$root/opt/sound/hand" "$root/opt/sound/room" "$root/opt/voices"
git ls-files -co --exclude-standard -z | xargs -0 cp -P --parents -t "$home/jarvis"
# Fetched models are there already, since the container has no network.
cp "$models"/* "$home/jarvis/models/"
# Where quickstart.sh leaves what it has built.
install -m 755 "$program" "$home/.cache/jarvis/target/release/jarvisd"
[ ! -f "$libvosk" ] || install -m 644 "$libvosk" "$home/.cache/jarvis/target/release/libvosk.so"
scripts/docs-commands.py plan "$home/plan"
[ "$show" = no ] || touch "$home/plan/show"

card=$root/opt/sound
gcc -O2 -shared -fPIC -o "$card/simmic.so" tests/support/simmic.c -lasound
chmod 777 "$card/hand" "$card/room"
# arecord without a name and the daemon hear different microphones: a sentence is heard by one of them.
cat >"$root/etc/asound.conf" <<'TEXT'
pcm_type.simmic { lib "/opt/sound/simmic.so" }
pcm.!default { type simmic dir "/opt/sound/hand" format S16_LE channels 1 rate 48000 }
pcm.jarvis_microphone { type simmic dir "/opt/sound/room" format S16_LE channels 1 rate 48000 }
pcm.jarvis_loudspeaker { type simmic dir "/opt/sound/room" format S16_LE channels 1 rate 48000 }
TEXT
drop_in=$root/etc/systemd/system/jarvisd.service.d
mkdir -p "$drop_in"
printf '[Service]\nReadWritePaths=/opt/sound/room\n' >"$drop_in/sound.conf"
say() { # say FILE VOICE TEXT: as a recording, and as the microphone hears it
    flite -voice "$2" -t "$3" -o "$work/raw.wav"
    sox -R "$work/raw.wav" -r 48000 -c 1 -b 16 "$root/opt/voices/$1.wav" gain -n -3 pad 0.2 0.8
    sox -R "$root/opt/voices/$1.wav" "$root/opt/voices/$1.raw"
}
say anna1 rms "the quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire"
say anna2 rms "please remember to water the plants in the living room every monday and thursday before the news"
say anna3 rms "my favourite season is autumn when the leaves turn red and gold and the air smells of apples and rain"
say anna4 rms "there is a narrow path behind the house that leads through the field down to the river"
say across rms "the children are playing in the garden and the dog is watching them from under the old apple tree"
say kitchen rms "before the guests arrive somebody should open the windows and put fresh flowers on the table"
say loud rms "the train to the coast leaves at half past seven and takes a little more than two hours"
say hurry rms "when the rain had stopped we took our bicycles and rode along the canal to the next village"
say ben1 slt "there is a narrow path behind the house that leads through the field down to the river"

# What needs the network is tried as far as the packages are known to apt.
cat >"$root/usr/local/bin/apt-get" <<'TEXT'
#!/bin/sh
exec /usr/bin/apt-get --simulate "$@"
TEXT
sed 's/apt-get/apt/g' "$root/usr/local/bin/apt-get" >"$root/usr/local/bin/apt"
chmod 755 "$root/usr/local/bin/apt-get" "$root/usr/local/bin/apt"

chown -R 1000:1000 "$home"
chmod 700 "$home"

step "Boot"
boot_container "$root" "$work/console"
in_it useradd --no-create-home --uid 1000 --shell /bin/bash --groups sudo,adm,audio owner
echo "owner ALL=(ALL) NOPASSWD: ALL" | in_it tee /etc/sudoers.d/owner >/dev/null
echo "127.0.0.1 localhost $(in_it hostname) database.local homeassistant.local" | in_it tee /etc/hosts >/dev/null

failed=0
for script in "$home"/plan/[0-9]* "$home"/plan/later-*; do
    page=$(basename "$script")
    step "$page"
    in_it runuser -l owner -c "timeout 300 bash -c '. ~/jarvis/scripts/docs-in-container.sh && . ~/plan/$page'" \
        </dev/null >"$work/page" 2>&1 || printf '    FAIL  %s did not reach its end\n' "$page" >>"$work/page"
    # Root acted as the owner of the data: nothing there is anybody else's.
    # shellcheck disable=SC2016 # expanded in the container
    foreign=$(in_it sh -c 'for d in /var/lib/jarvis /var/backups/jarvis; do [ ! -d $d ] || find $d ! -user jarvis; done')
    [ -z "$foreign" ] || printf "    FAIL  %s left files that are not jarvis's: %s\n" "$page" "$foreign" >>"$work/page"
    cat "$work/page"
    cat "$work/page" >>"$work/all"
    [ "${page#*-}" != "$(printf '%s' "$last" | tr / -)" ] || break
done

step "Not run"
sed 's/^/    /' "$home/plan/left-out"
failed=$(grep -c '^    FAIL' "$work/all" || true)
ran=$(grep -c '^    ok' "$work/all" || true)
printf '\n%s commands ran well, %s failed, %s were not run, in %s s\n' "$ran" "$failed" "$(wc -l <"$home/plan/left-out")" \
    $((SECONDS - started))
[ "$failed" -eq 0 ] || fail "$failed of the commands failed"
note "all of it worked"
