#!/usr/bin/env bash
# Boots a real systemd in a container, installs Jarvis there as docs/install.md says, and tries what the unit promises.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=container.sh
. "$(dirname "$0")/container.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/try-service.sh [--suite bookworm|trixie] [--program FILE]

Needs root, Debian's package mirror and some 600 MB. Makes a small Debian (kept in the cache folder), boots it with
systemd-nspawn without a network, and tries: check of the unit, its sandbox, start, readiness, watchdog, reload, stop, kill,
frozen microphone, configuration fault, a start of some minutes, backups, secrets as credentials, and the commands of
docs/install.md. The microphone is the test plug-in of tests/support. --program tries a jarvisd that is built already. In the
sandbox of each unit tests/support/sandbox.c runs in the place of jarvisd.
TEXT
}
suite=bookworm
program=
while [ $# -gt 0 ]; do
    case $1 in
    --suite) suite=${2:?} && shift 2 ;;
    --program) program=$(realpath "${2:?}") && shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
begin_try "$suite"
cd "$repository"

step "Packages and program"
apt_install "${build_packages[@]}" "${container_packages[@]}" flite sox
take_program

step "A small Debian ($suite)"
root=$cache/try-service/$suite
debian_root "$root" "$suite"

# What is installed goes into the folder of the container, which is mounted under an overlay that is thrown away.
step "Install as docs/install.md says"
install -Dm755 "$program" "$root/usr/bin/jarvisd"
[ ! -f "$libvosk" ] || install -Dm644 "$libvosk" "$root/usr/lib/jarvis/libvosk.so"
rm -rf "$root/usr/share/jarvis/models"
mkdir -p "$root/usr/share/jarvis"
cp -r models "$root/usr/share/jarvis/"
# Kept apart, so that they are fetched once.
JARVIS_MODELS_DIR=$cache/try-service/models scripts/fetch-models.sh --wake-word --whisper
cp "$cache"/try-service/models/* "$root/usr/share/jarvis/models/"
install -Dm644 systemd/jarvis.sysusers "$root/usr/lib/sysusers.d/jarvis.conf"
install -Dm644 systemd/jarvis.tmpfiles "$root/usr/lib/tmpfiles.d/jarvis.conf"
install -Dm644 -t "$root/etc/systemd/system" systemd/*.service systemd/*.timer

# The sound card of the tests, and sentences to enrol with.
card=$root/opt/sound
mkdir -p "$card/files" "$root/opt/voices"
gcc -O2 -shared -fPIC -o "$card/simmic.so" tests/support/simmic.c -lasound
sed -e 's,@LIB@,/opt/sound/simmic.so,' -e 's,@DIR@,/opt/sound/files,' tests/support/asound.conf.in >"$card/asound.conf"
chmod 777 "$card/files"
say() {
    flite -voice rms -t "$2" -o "$work/raw.wav"
    sox -R "$work/raw.wav" -r 16000 -c 1 -b 16 "$root/opt/voices/$1.wav" gain -n -3 pad 0.5 1
}
say one "the quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire"
say two "please remember to water the plants in the living room every monday and thursday before the evening news"
say three "my favourite season is autumn when the leaves turn red and gold and the air smells of apples and rain"
say who "hey jarvis, who am i, and what do you remember about the spare key"
dropins=$root/etc/systemd/system/jarvisd.service.d
mkdir -p "$dropins"
printf '[Service]\nEnvironment=ALSA_CONFIG_PATH=/opt/sound/asound.conf\nReadWritePaths=/opt/sound/files\n' >"$dropins/sound.conf"

step "Boot"
boot_container "$root" "$work/console"

as_jarvis() { in_it runuser -u jarvis -- env HOME=/var/lib/jarvis ALSA_CONFIG_PATH=/opt/sound/asound.conf "$@"; }
configure() { in_it sh -c "mkdir -p /etc/jarvis && cat >/etc/jarvis/jarvis.toml"; }
drop_in() { in_it sh -c "cat >/etc/systemd/system/jarvisd.service.d/$1.conf && systemctl daemon-reload"; }

step "The unit"
in_it systemd-sysusers
in_it systemd-tmpfiles --create
in_it systemctl daemon-reload
complaints=$(in_it systemd-analyze verify /etc/systemd/system/jarvisd.service 2>&1 || true)
# The one line that is meant for systemd 253 and newer.
complaints=$(printf '%s' "$complaints" | grep -v 'Failed to parse service type, ignoring: notify-reload' || true)
check "systemd-analyze verify has nothing to say${complaints:+: $complaints}" [ -z "$complaints" ]
complaints=$(in_it sh -c 'systemd-analyze verify /etc/systemd/system/jarvis-backup*.timer /etc/systemd/system/jarvis-backup*.service' 2>&1 || true)
check "nor about the backups${complaints:+: $complaints}" [ -z "$complaints" ]
exposure() { in_it systemd-analyze security --no-pager "--threshold=$2" "$1.service" 2>&1 | tail -n 1; }
safe() { in_it systemd-analyze security --no-pager "--threshold=$2" "$1.service" >/dev/null 2>&1; }
for unit in jarvisd:15 jarvis-backup:12 jarvis-backup-verify:12 jarvis-backup-failed@x:5; do
    found=$(exposure "${unit%:*}" "${unit#*:}")
    check "exposure of ${unit%:*} at most ${unit#*:} tenths: ${found#*: }" safe "${unit%:*}" "${unit#*:}"
done
printf '[audio]\ndevice = "room"\nplayback_device = "room"\n' | configure
check "check-config as the user of the daemon" as_jarvis jarvisd check-config

check "another user's home folder is passed over" in_it runuser -u jarvis -- jarvisd models verify

step "Enrol"
check "voice enroll as the user of the daemon" as_jarvis jarvisd voice enroll --user Anna /opt/voices/{one,two,three}.wav
check "voice identify knows the voice" as_jarvis jarvisd voice identify /opt/voices/who.wav

step "The sandbox"
gcc -O2 -o "$work/sandbox" tests/support/sandbox.c
in_it mkdir -p /opt/open /home/anna /etc/jarvis
in_it chmod 777 /opt/open
in_it chmod 755 /home/anna
in_it sh -c 'echo secret >/home/anna/secret && echo secret >/tmp/of-others && chmod 644 /home/anna/secret /tmp/of-others'
in_it sh -c 'cp /usr/bin/cp /opt/suid && chmod 4755 /opt/suid && mknod /dev/probe c 10 200 && chmod 666 /dev/probe'
in_it sh -c 'cat >/opt/sandbox && chmod 755 /opt/sandbox' <"$work/sandbox"
tries=$(in_it runuser -u jarvis -- /opt/sandbox backup || true)
outside=$(printf '%s' "$tries" | grep '^BAD' | grep -c ': allowed' || true)
check "$outside of the tries are denied by nothing but the sandbox" [ "$outside" -ge 15 ]
# try_sandbox UNIT NAME [INSTANCE]: a copy of UNIT that runs the tries.
try_sandbox() {
    local unit=$1 as=$2 copy=sandbox-$2 line
    # shellcheck disable=SC2016 # expanded in the container
    in_it sh -c 'sed -e "/^\(Type\|ExecStart\|ExecReload\|WatchdogSec\|Restart.*\|OnFailure\|NotifyAccess\|LoadCred.*\)=/d" \
        -e "s,^\[Service\],&\nType=oneshot\nExecStart=/opt/sandbox $2\nStandardOutput=truncate:/opt/open/$2," \
        "/etc/systemd/system/$1" >"/etc/systemd/system/$3.service" && systemctl daemon-reload' sh "$unit" "$as" "$copy"
    check "$unit: every try ends as it should" in_it systemctl start "$copy"
    in_it cat "/opt/open/$as" >"$work/tries" || true
    check "$unit: $(grep -c '^ok' "$work/tries") tries" [ "$(grep -c '^ok' "$work/tries")" -ge 50 ]
    while read -r line; do note "$unit: $line"; done < <(grep '^BAD' "$work/tries" || true)
}
try_sandbox jarvisd.service daemon
try_sandbox jarvis-backup.service backup
try_sandbox jarvis-backup-verify.service backup
try_sandbox jarvis-backup-failed@.service report
in_it sh -c 'rm -f /opt/suid /dev/probe /etc/systemd/system/sandbox-*.service && systemctl daemon-reload'
# The kernel may not be asked for the state of the clock, so timedated is.
in_it rm -f /run/systemd/timesync/synchronized
kernel=$(in_it timedatectl show -p NTPSynchronized --value)
in_it sh -c 'sed -e "s,^ExecStart=.*,ExecStart=/usr/bin/jarvisd doctor --json," -e "/^OnFailure=/d" \
    -e "s,^\[Service\],&\nStandardOutput=truncate:/opt/open/doctor," /etc/systemd/system/jarvis-backup.service \
    >/etc/systemd/system/doctor.service && systemctl daemon-reload && systemctl start doctor; rm /etc/systemd/system/doctor.service'
case $kernel in yes) clock="set by the network" ;; *) clock="not set by the network yet" ;; esac
check "in the sandbox the clock is as timedated says ($kernel)" in_it grep -q "$clock" /opt/open/doctor

step "Start, watchdog, reload, stop"
before=$(date +%s%N)
check "systemctl start ends when the daemon is ready" in_it systemctl start jarvisd
note "READY after $((($(date +%s%N) - before) / 1000000)) ms; STATUS: $(show StatusText); type $(show Type); exposure as above"
check "it is active" is ActiveState active
check "STATUS says what it does" is StatusText "waiting for the wake word"
check "the key and the database are the user's alone" \
    in_it sh -c '! find /var/lib/jarvis /run/jarvis -type f -perm /077 | grep -q .'
if said "no real-time priority"; then
    note "real-time priority is refused: where root itself may not raise limits, LimitRTPRIO= cannot be tried"
else
    ok "the capture thread has real-time priority"
fi
fed=$(show WatchdogTimestampMonotonic)
check "the watchdog is fed" within 35 differs WatchdogTimestampMonotonic "$fed"
main=$(show MainPID)
printf '[audio]\ndevice = "room"\nplayback_device = "room"\n[voice]\nthreshold = 0.9\n' | configure
check "systemctl reload" in_it systemctl reload jarvisd
check "the change is in force" within 10 said "changes are in force"
sleep 1
note "the configuration was read $(journal | grep -c 'was read again') time(s) for one reload"
printf '[voice]\nthreshold = 9\n' | configure
check "systemctl reload with a fault" in_it systemctl reload jarvisd
check "the fault is named and changes nothing" within 10 said "the running one stays in force"
check "the same process goes on" is MainPID "$main"
check "it is still active" is ActiveState active
before=$(date +%s%N)
check "systemctl stop" in_it systemctl stop jarvisd
took=$((($(date +%s%N) - before) / 1000000))
check "within 10 s ($took ms), with success" sh -c "[ $took -lt 10000 ] && [ '$(show Result)' = success ]"

step "Faults"
check "a configuration fault ends the start" not in_it systemctl start jarvisd 2>/dev/null
check "with exit code 78" is ExecMainStatus 78
sleep 8
check "and no restart" is NRestarts 0
check "the journal names the key" said "voice.threshold"
printf '[audio]\ndevice = "room"\nplayback_device = "room"\n' | configure
in_it systemctl reset-failed jarvisd || true
in_it systemctl start jarvisd
main=$(show MainPID)
before=$(date +%s%N)
in_it kill -9 "$main"
back() { is ActiveState active && ! is MainPID "$main" && ! is MainPID 0; }
check "it comes back after SIGKILL" within 60 back
note "READY again after $((($(date +%s%N) - before) / 1000000)) ms"
main=$(show MainPID)
in_it touch /opt/sound/files/unplug
check "an unplugged microphone is named" within 30 status_has microphone
note "STATUS: $(show StatusText)"
sleep 35
check "and is no reason for a restart" is MainPID "$main"
in_it rm /opt/sound/files/unplug
check "it hears again when it is plugged in" within 60 is StatusText "waiting for the wake word"
in_it touch /opt/sound/files/freeze
check "a microphone whose clock stands still ends in the watchdog" within 120 said "Watchdog timeout"
in_it rm -f /opt/sound/files/freeze
check "and in a restart" within 60 back
in_it systemctl stop jarvisd

step "A slow start"
# Less than a hundredth of the processor: the process stands still most of the time.
slow_down() {
    local main
    while [ ! -e "$work/started" ]; do
        main=$(show MainPID)
        if [ "$main" = 0 ]; then sleep 0.1; continue; fi
        in_it sh -c "kill -STOP $main; sleep 5; kill -CONT $main; sleep 0.02" 2>/dev/null || true
    done
}
slow_down &
before=$SECONDS
if in_it systemctl start jarvisd; then took=$((SECONDS - before)); else took=0; fi
touch "$work/started"
wait $!
check "on a slow processor it becomes ready after $took s, longer than TimeoutStartSec=60" [ "$took" -gt 60 ]
check "and is as always then" within 60 is StatusText "waiting for the wake word"
in_it systemctl stop jarvisd

step "Backups"
# As timesyncd leaves it behind once the clock is set; without a clock nothing would be deleted.
in_it install -D /dev/null /run/systemd/timesync/synchronized
proven() { as_jarvis jarvisd backup list --json | grep -c '"proven": true'; }
check "the timers are enabled" in_it systemctl enable --now jarvis-backup.timer jarvis-backup-verify.timer
check "systemctl start jarvis-backup makes, proves and prunes" in_it systemctl start jarvis-backup
check "one proven backup is there" [ "$(proven)" = 1 ]
check "it is proven again" in_it systemctl start jarvis-backup-verify
in_it chmod 0 /var/backups/jarvis
check "a folder that cannot be used is a failure" not in_it systemctl start jarvis-backup 2>/dev/null
noted() { in_it grep -q "\"failed_unit\": *$1" /var/lib/jarvis/backup.json; }
check "which is noted for the daemon" within 20 noted '"jarvis-backup"'
in_it chmod 700 /var/backups/jarvis
in_it systemctl start jarvisd
check "and shown by it" within 90 said "jarvis-backup failed"
check "the next one goes well while the daemon runs" in_it systemctl start jarvis-backup
check "and takes the note back" noted null
in_it systemctl stop jarvisd

step "The key as a credential"
in_it install -D -m 600 /var/lib/jarvis/voiceprint.key /etc/credstore/voiceprint.key
in_it rm /var/lib/jarvis/voiceprint.key
printf '[Service]\nLoadCredential=voiceprint.key:/etc/credstore/voiceprint.key\n' | drop_in key
check "it starts with LoadCredential=" in_it systemctl start jarvisd
check "and makes no key of its own" in_it test ! -e /var/lib/jarvis/voiceprint.key
check "a command without the credential is refused" not as_jarvis jarvisd voice identify /opt/voices/who.wav 2>"$work/said"
check "and says why" grep -q "their key is missing" "$work/said"
check "systemd-run with the key lends it" in_it systemd-run --quiet --pipe --wait --working-directory=/opt/voices \
    -p User=jarvis -p LoadCredential=voiceprint.key:/etc/credstore/voiceprint.key jarvisd voice identify who.wav
in_it systemctl stop jarvisd
in_it rm /etc/systemd/system/jarvisd.service.d/key.conf
in_it systemctl daemon-reload
in_it mkdir -p /etc/credstore.encrypted
in_it chmod 700 /etc/credstore.encrypted
seal() { in_it systemd-creds encrypt --with-key=host --name="$1" "$2" "/etc/credstore.encrypted/$1"; }
if seal voiceprint.key /etc/credstore/voiceprint.key; then
    in_it rm /etc/credstore/voiceprint.key
    check "it starts with a sealed key, and the unit is not edited" in_it systemctl start jarvisd
    check "and makes no key of its own" in_it test ! -e /var/lib/jarvis/voiceprint.key
    check "it can open the voices" not status_has verified
    check "the line of docs/install.md works" in_it systemd-run --quiet --pipe --wait --working-directory=/opt/voices \
        -p User=jarvis -p LoadCredentialEncrypted=voiceprint.key jarvisd voice identify who.wav
    check "doctor opens the voices with it" in_it sh -c 'systemd-run --quiet --pipe --wait -p User=jarvis \
        -p LoadCredentialEncrypted=voiceprint.key jarvisd doctor 2>&1 | grep -q "1 of 1 open"'
    in_it sh -c 'echo of-the-broker >/run/mqtt-password'
    seal mqtt-password /run/mqtt-password
    printf '[audio]\ndevice = "room"\n[mqtt]\nurl = "mqtt://127.0.0.1"\nusername = "jarvis"\n' | configure
    check "it starts with a sealed password of the broker" in_it systemctl restart jarvisd
    check "which it finds by its name" in_it sh -c 'ls /run/credentials/jarvisd.service | grep -qx mqtt-password'
    check "and the backups have the secrets, too" in_it systemctl start jarvis-backup
else
    bad "systemd-creds encrypt"
fi
in_it systemctl stop jarvisd

[ "$failed" -eq 0 ] || { journal | tail -n 60; fail "$failed of the tries failed"; }
note "all of it worked"
