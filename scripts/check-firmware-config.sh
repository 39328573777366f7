#!/usr/bin/env bash
# Checks the files of firmware-config/ as far as a machine without the boards can.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/check-firmware-config.sh [--prove] [FOLDER]

Loads the ALSA presets with alsa-lib and records and plays through each with a simulated card; checks the udev rules, the
drop-ins of systemd, and the names of overlays, cards and mixer controls, which must be in known.tsv with their source.
Every setting must have its reason above it, every file its way there and back, and a place in the README. Ends with 1
if something is wrong. --prove breaks a copy of the folder in many ways, one after the other, and ends with 1 if one of
them is not noticed. Needs alsa-utils, a C compiler with ALSA's headers, systemd and python3.
TEXT
}
prove=no
folder=$repository/firmware-config
while [ $# -gt 0 ]; do
    case $1 in
    --prove) prove=yes && shift ;;
    --help | -h) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) folder=$1 && shift ;;
    esac
done
folder=$(cd "$folder" && pwd)
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$folder"
faults=0

fault() {
    printf '    FAIL  %s\n' "$*"
    faults=$((faults + 1))
}

# known KIND NAME: whether the list has it.
known() { grep -qF "$1	$2	" known.tsv; }

# settings FILE: its lines without comments and blanks.
settings() { grep -vE '^[[:space:]]*(#|$)' "$1" || true; }

# --- every file: its way there and back, a reason for each setting, a place in the README ----------------------------

check_text() {
    local file word
    while IFS= read -r file; do
        case $file in README.md | known.tsv) continue ;; esac
        grep -qF "\`$file\`" README.md || fault "$file: the README does not name it"
        for word in Apply Undo; do
            grep -qE "^# (.* )?$word:" "$file" || fault "$file: no line says \"$word:\""
        done
        grep -qE '^# Jarvis: |^# ALSA for a Jarvis ' "$file" || fault "$file: the first line does not say what it is"
        # A comment counts for the settings below it, up to a blank line or a new section.
        awk '/^[ \t]*#/ {reason = 1; next}
            /^[ \t]*$/ || /^\[/ {reason = 0; next}
            !reason && /=/ {printf "%s:%d: a setting without its reason: %s\n", FILENAME, FNR, $0}' "$file" >"$work/bare"
        case $file in
        boot/* | etc/systemd/* | etc/sysctl.d/*) while IFS= read -r word; do fault "$word"; done <"$work/bare" ;;
        esac
    done < <(find . -type f -printf '%P\n' | sort)
    # shellcheck disable=SC2016 # the backquotes are those of the page
    while IFS= read -r file; do
        [ -f "$file" ] || fault "README.md: there is no $file"
    done < <(grep -oE '`(boot|cards|etc|mixer)/[^` ]*[^`/ ]`' README.md | tr -d '`' | sort -u)
}

# --- names that only the hardware knows ------------------------------------------------------------------------------

# overlay_fits FILE LINE: a known overlay, whole or with parameters that it has.
overlay_fits() {
    local file=$1 overlay=${2#*=} name parameter value
    known overlay "$overlay" && return
    name=${overlay%%,*}
    known overlay "$name" || { fault "$file: no overlay is known as $name" && return; }
    while IFS= read -r parameter; do
        value=${parameter#*=}
        parameter=${parameter%%=*}
        known parameter "$name:$parameter" || { fault "$file: $name has no parameter $parameter" && continue; }
        case $parameter in
        gpio) [[ $value =~ ^[0-9]+$ ]] && [ "$value" -ge 2 ] && [ "$value" -le 27 ] ;;
        active_low) [[ $value =~ ^[01]$ ]] ;;
        gpio_pull) [[ $value =~ ^(off|down|up)$ ]] ;;
        keycode) [[ $value =~ ^[0-9]+$ ]] && [ "$value" -le 767 ] ;;
        label | trigger) [[ $value =~ ^[a-z0-9-]+$ ]] ;;
        *) false ;;
        esac || fault "$file: $name does not take $parameter=$value"
    done < <(tr ',' '\n' <<<"${overlay#*,}")
}

# Pins, names and the files that go by them.
check_gpio() {
    local boot=boot/firmware/jarvis-gpio.txt rules=etc/udev/rules.d/81-jarvis-gpio.rules
    local drop=etc/systemd/system/jarvisd.service.d/50-jarvis-gpio.conf pin light twice
    twice=$(settings "$boot" | grep -oE 'gpio=[0-9]+' | sort | uniq -d)
    [ -z "$twice" ] || fault "$boot: two things on one pin: $twice"
    while IFS= read -r pin; do
        grep -qF "\"button@$(printf %x "$pin")\"" "$rules" || fault "$rules: nothing for the key on pin $pin"
    done < <(settings "$boot" | sed -nE 's/^dtoverlay=gpio-key,.*\bgpio=([0-9]+).*/\1/p')
    light=$(settings "$boot" | sed -nE 's/^dtoverlay=gpio-led,.*\blabel=([^,]+).*/\1/p')
    grep -qF "KERNEL==\"$light\"" "$rules" || fault "$rules: nothing for the light $light"
    grep -qxF "ReadWritePaths=-/sys/class/leds/$light" "$drop" || fault "$drop: the light $light cannot be set"
}

check_boot() {
    local file line
    for file in boot/firmware/*.txt; do
        while IFS= read -r line; do
            case $line in
            dtoverlay=*) overlay_fits "$file" "$line" ;;
            dtparam=*=*)
                line=${line#*=}
                known dtparam "${line%%=*}" || fault "$file: no dtparam is known as ${line%%=*}"
                ;;
            *) fault "$file: neither an overlay nor a dtparam: $line" ;;
            esac
        done < <(settings "$file")
    done
}

check_mixer() {
    local file line
    for file in mixer/*.txt; do
        while IFS= read -r line; do
            if [[ $line =~ ^cset\ name=\'([^\']+)\'\ (on|off|[0-9]+)(,(on|off|[0-9]+))?$ ]]; then
                known control "${BASH_REMATCH[1]}" || fault "$file: no control is known as ${BASH_REMATCH[1]}"
            else
                fault "$file: amixer does not take: $line"
            fi
        done < <(settings "$file")
    done
}

# --- ALSA -------------------------------------------------------------------------------------------------------------

# As installed: alsa-lib takes everything, and stops only where the card is not there.
without_card() { # without_card PRESET CARD COMMAND...
    local preset=$1 card=$2
    shift 2
    [ ! -e "/proc/asound/$card" ] || return 0
    if "$@" >"$work/said" 2>&1; then
        fault "$preset: \`$*\` works although there is no card $card"
    elif ! grep -qF "Cannot get card index for $card" "$work/said"; then
        fault "$preset: alsa-lib does not take it: $(head -n 2 "$work/said" | tr '\n' ' ')"
    fi
}

# What alsa-lib reads of a `slave` only once the card is there, it would also take wrong until then.
slaves_fit() { # slaves_fit FILE
    python3 - "$1" <<'PYTHON'
import ctypes, sys
alsa = ctypes.CDLL("libasound.so.2")
for name in ("snd_config_iterator_first", "snd_config_iterator_next", "snd_config_iterator_end", "snd_config_iterator_entry"):
    getattr(alsa, name).restype = ctypes.c_void_p
    getattr(alsa, name).argtypes = [ctypes.c_void_p]
INTEGER, COMPOUND = 0, 1024
FIELDS = {"rate": (INTEGER, COMPOUND), "period_time": (INTEGER,), "buffer_time": (INTEGER,), "pcm": (COMPOUND,)}
top, source, faults = ctypes.c_void_p(), ctypes.c_void_p(), []
alsa.snd_config_top(ctypes.byref(top))
alsa.snd_input_stdio_open(ctypes.byref(source), sys.argv[1].encode(), b"r")
if alsa.snd_config_load(top, source) < 0:
    sys.exit("it is no configuration of ALSA")
for pcm in ("jarvis_capture", "jarvis_playback"):
    slave, seen = ctypes.c_void_p(), set()
    if alsa.snd_config_search(top, f"pcm.{pcm}.slave".encode(), ctypes.byref(slave)) < 0:
        faults.append(f"{pcm} has no slave")
        continue
    at = alsa.snd_config_iterator_first(slave)
    while at != alsa.snd_config_iterator_end(slave):
        field, text = ctypes.c_void_p(alsa.snd_config_iterator_entry(at)), ctypes.c_char_p()
        alsa.snd_config_get_id(field, ctypes.byref(text))
        name = text.value.decode()
        if alsa.snd_config_get_type(field) not in FIELDS.get(name, ()):
            faults.append(f"{pcm} has a slave whose {name} ALSA does not take")
        seen.add(name)
        at = alsa.snd_config_iterator_next(at)
    faults += [f"{pcm} has a slave without {name}" for name in FIELDS if name not in seen]
sys.exit("; ".join(faults) or 0)
PYTHON
}

# check_sound [PRESET...]: these, or all.
check_sound() {
    local share=/usr/share/alsa/alsa.conf shared=etc/alsa/conf.d/60-jarvis.conf
    local preset card device capture playback format channels rate native
    [ -f "$work/simmic.so" ] ||
        cc -O1 -shared -fPIC -o "$work/simmic.so" "$repository/tests/support/simmic.c" -lasound ||
        fail "the simulated card does not compile; apt-get install build-essential libasound2-dev"
    slaves_fit "$shared" >"$work/said" 2>&1 || fault "$shared: $(tail -n 1 "$work/said")"
    [ $# -gt 0 ] || set -- cards/*.conf
    for preset in "$@"; do
        capture=$(sed -n 's/^jarvis_capture_card "\(.*\)"$/\1/p' "$preset")
        playback=$(sed -n 's/^jarvis_playback_card "\(.*\)"$/\1/p' "$preset")
        for card in "$capture" "$playback"; do
            known card "$card" || { fault "$preset: no card is known as \"$card\"" && continue 2; }
            [ ${#card} -le 15 ] || fault "$preset: ALSA cuts card names to 15 letters: $card"
        done
        export ALSA_CONFIG_PATH=$share:$folder/$preset:$folder/$shared
        without_card "$preset" "$capture" arecord -q -D jarvis_microphone -d 1 /dev/null
        for device in jarvis_loudspeaker jarvis_loudspeaker_volume default; do
            without_card "$preset" "$playback" aplay -q -D "$device" -f S16_LE -r 48000 -d 1 /dev/zero
        done
        aplay -L 2>/dev/null >"$work/names"
        for device in jarvis_microphone jarvis_loudspeaker jarvis_loudspeaker_volume; do
            grep -A1 -x "$device" "$work/names" | grep -q Jarvis || fault "$preset: \`aplay -L\` does not list $device"
        done

        # With a simulated card in the place of dsnoop and dmix, which take hardware only.
        read -r format channels rate < <(awk -F '\t' -v n="$capture" '$1 == "card" && $2 == n {print $4, $5, $6}' known.tsv)
        rm -rf "$work/card" && mkdir "$work/card"
        # In the card's own format: alsa-lib converts for hardware, and not for a simulated card.
        head -c 40000 /dev/urandom >"$work/card/in.raw"
        cat >"$work/simulated.conf" <<TEXT
pcm_type.simmic { lib "$work/simmic.so" }
pcm.!jarvis_capture { type simmic dir "$work/card" format $format channels $channels rate $rate }
pcm.!jarvis_playback { type simmic dir "$work/card" format $format channels $channels rate $rate }
TEXT
        export ALSA_CONFIG_PATH=$ALSA_CONFIG_PATH:$work/simulated.conf
        native=(-f "$format" -c "$channels" -r "$rate" -t raw)
        rm -f "$work/heard.raw"
        timeout 10 arecord -q -D jarvis_microphone "${native[@]}" -s 2000 "$work/heard.raw" 2>"$work/said" ||
            fault "$preset: nothing can be recorded: $(head -n 1 "$work/said")"
        cmp -n 4000 "$work/card/in.raw" "$work/heard.raw" >/dev/null 2>&1 ||
            fault "$preset: the microphone's sound does not come through"
        timeout 10 aplay -q -D jarvis_loudspeaker "${native[@]}" "$work/card/in.raw" 2>"$work/said" ||
            fault "$preset: nothing can be played: $(head -n 1 "$work/said")"
        cmp -n 16000 "$work/card/in.raw" "$work/card/out.raw" >/dev/null 2>&1 ||
            fault "$preset: the loudspeaker gets other sound"
    done
    unset ALSA_CONFIG_PATH
}

# --- udev -------------------------------------------------------------------------------------------------------------

check_udev() {
    local file
    for file in etc/udev/rules.d/*.rules; do
        # The examples are rules as well.
        sed -E 's/^#([A-Z]+==)/\1/' "$file" >"$work/${file##*/}"
        if udevadm verify --help >/dev/null 2>&1; then
            # The account comes with the package.
            udevadm verify --resolve-names=never "$work/${file##*/}" >"$work/said" 2>&1 || fault "$file: $(tr '\n' ' ' <"$work/said")"
        fi
        python3 - "$work/${file##*/}" <<'PYTHON' >"$work/said" || fault "$file: $(tr '\n' ' ' <"$work/said")"
import re, sys
KEYS = "ACTION|DEVPATH|KERNELS?|NAME|SYMLINK|SUBSYSTEMS?|DRIVERS?|ENV|TAGS?|ATTRS?|GOTO|LABEL|RUN|OWNER|GROUP|MODE"
TOKEN = re.compile(r'\s*(%s)(\{[^}"]+\})?(==|!=|\+=|-=|:=|=)"([^"]*)"\s*(,|$)' % KEYS)
labels, targets, faults = set(), {}, []
text = open(sys.argv[1]).read().replace("\\\n", "  ")
for number, line in enumerate(text.split("\n"), 1):
    if not line.strip() or line.startswith("#"):
        continue
    at = 0
    while at < len(line):
        found = TOKEN.match(line, at)
        if not found:
            faults.append(f"line {number}: not a rule: {line[at:].strip()}")
            break
        key, attribute, operator, value = found.group(1, 2, 3, 4)
        if key == "GOTO":
            targets[value] = number
        if key == "LABEL":
            labels.add(value)
        if key == "ATTR" and attribute == "{id}" and operator == "=" and not re.fullmatch(r"[A-Za-z0-9_-]{1,15}", value):
            faults.append(f"line {number}: no name of a sound card: {value}")
        at = found.end()
faults += [f"line {number}: no label {name}" for name, number in targets.items() if name not in labels]
print("; ".join(faults))
sys.exit(bool(faults))
PYTHON
    done
}

# --- systemd, zram, kernel ------------------------------------------------------------------------------------------

# value_fits SETTING VALUE
value_fits() {
    case $1 in
    *Sec) systemd-analyze timespan "$2" >/dev/null 2>&1 ;;
    *MaxUse | *FileSize) [[ $2 =~ ^[0-9]+[KMG]$ ]] ;;
    Storage) [[ $2 =~ ^(persistent|volatile|auto|none)$ ]] ;;
    RateLimitBurst | swap-priority) [[ $2 =~ ^[0-9]+$ ]] ;;
    zram-size) [[ $2 =~ ^[0-9a-z/*(),.\ ]+$ ]] ;;
    *) false ;;
    esac
}

check_systemd() {
    local file section line key value base drop unit
    for file in etc/systemd/*.conf.d/*.conf; do
        section=
        while IFS= read -r line; do
            if [[ $line =~ ^\[(.*)\]$ ]]; then section=${BASH_REMATCH[1]} && continue; fi
            key=$(sed -E 's/ *=.*//' <<<"$line")
            value=$(sed -E 's/^[^=]*= *//' <<<"$line")
            known setting "$section.$key" || fault "$file: no setting is known as [$section] $key"
            value_fits "$key" "$value" || fault "$file: $key does not take \"$value\""
            # Where systemd has its own list of them, that counts as well.
            base=/etc/systemd/$(basename "$(dirname "$file")" .d)
            [ ! -f "$base" ] || grep -qE "^#?$key=" "$base" || fault "$file: $base of this machine has no $key"
        done < <(settings "$file")
        base=systemd/$(basename "$(dirname "$file")" .d)
        mkdir -p "$work/root" && cp -r etc "$work/root"
        systemd-analyze --root="$work/root" cat-config "$base" >"$work/taken" 2>"$work/said" || true
        grep -qF "/$file" "$work/taken" || fault "$file: $base does not take it in: $(head -n 1 "$work/said")"
    done
    for drop in etc/systemd/system/*.d; do
        unit=$(basename "$drop" .d)
        rm -rf "$work/units" && mkdir "$work/units"
        if [ -f "/lib/systemd/system/$unit" ]; then
            cp "/lib/systemd/system/$unit" "$work/units/"
        elif [ -f "$repository/systemd/$unit" ]; then
            sed 's,^ExecStart=.*,ExecStart=/bin/true,' "$repository/systemd/$unit" >"$work/units/$unit"
        else
            printf '[Service]\nType=oneshot\nExecStart=/bin/true\n' >"$work/units/$unit"
        fi
        cp -r "$drop" "$work/units/"
        SYSTEMD_UNIT_PATH=$work/units: systemd-analyze verify --man=no "$work/units/$unit" >"$work/said" 2>&1 || true
        ! grep -F "$(basename "$drop")/" "$work/said" >"$work/about" || fault "$drop: $(tr '\n' ' ' <"$work/about")"
    done
    for file in etc/sysctl.d/*.conf; do
        while IFS= read -r line; do
            key=$(sed -E 's/ *=.*//' <<<"$line")
            [ -f "/proc/sys/${key//.//}" ] || fault "$file: the kernel has no $key"
            [[ $line =~ =\ *[0-9]+$ ]] || fault "$file: no value: $line"
        done < <(settings "$file")
    done
}

check_all() {
    check_text
    check_boot
    check_gpio
    check_mixer
    check_sound
    check_udev
    check_systemd
}

# --- whether all of that can fail -------------------------------------------------------------------------------------

# broken CHECK FILE SED-EXPRESSION: the check must find a fault in a copy that is broken in this way.
broken() {
    rm -rf "$work/copy" && cp -r "$folder" "$work/copy"
    sed -i -E "$3" "$work/copy/$2"
    if cmp -s "$folder/$2" "$work/copy/$2"; then fault "$2: the break changes nothing: $3"; fi
    local before=$faults
    cd "$work/copy" && folder=$work/copy
    case $1,$2 in
    check_sound,cards/*) check_sound "$2" >/dev/null ;;
    check_sound,*) check_sound cards/voicehat.conf >/dev/null ;;
    *) "$1" >/dev/null ;;
    esac
    cd "$original" && folder=$original
    if [ "$faults" -eq "$before" ]; then
        missed=$((missed + 1))
        printf '    FAIL  %s: nobody notices: %s\n' "$2" "$3"
    fi
    faults=$before
    breaks=$((breaks + 1))
}

prove_all() {
    local shared=etc/alsa/conf.d/60-jarvis.conf rules=etc/udev/rules.d/80-jarvis-sound.rules
    local journal=etc/systemd/journald.conf.d/50-jarvis-limits.conf
    local wait=etc/systemd/system/systemd-time-wait-sync.service.d/50-jarvis-give-up.conf
    local gpio=boot/firmware/jarvis-gpio.txt pins=etc/udev/rules.d/81-jarvis-gpio.rules
    local access=etc/systemd/system/jarvisd.service.d/50-jarvis-gpio.conf
    local original=$folder
    breaks=0 missed=0
    broken check_text boot/firmware/jarvis-voicehat.txt 's/^# Undo:/# Back:/'
    broken check_text "$journal" '/^# Writes are gathered/,/^#.*once\./d; s/^Storage=/\n&/'
    broken check_text README.md 's,cards/usb.conf,cards/usbb.conf,'
    broken check_boot boot/firmware/jarvis-voicehat.txt 's/googlevoicehat-soundcard/googlevoicehat/'
    broken check_boot boot/firmware/jarvis-voicehat.txt 's/^dtparam=audio/dtparam=audlo/'
    broken check_boot boot/firmware/jarvis-rtc-pi5.txt 's/^dtparam=/dtpram=/'
    broken check_boot "$gpio" 's/gpio=17/gpio=71/'
    broken check_boot "$gpio" 's/gpio_pull=up/gpio_pull=high/'
    broken check_boot "$gpio" 's/keycode/key/'
    broken check_gpio "$gpio" 's/gpio=22/gpio=27/'
    broken check_gpio "$gpio" 's/gpio=17/gpio=4/'
    broken check_gpio "$gpio" 's/label=jarvis,/label=front,/'
    broken check_gpio "$access" 's,leds/jarvis,leds/front,'
    broken check_systemd "$access" 's/^DeviceAllow/DevicesAllow/'
    broken check_udev "$pins" 's/^SUBSYSTEM=="leds", KERNEL/SUBSYSTEM="leds" KERNEL/'
    broken check_udev "$pins" 's/^LABEL=.*//'
    broken check_mixer mixer/wm8960.txt 's/LINPUT1 Switch/LINPUT1 Swich/'
    broken check_mixer mixer/tlv320aic3104.txt 's/118,118/118 118/'
    broken check_sound cards/voicehat.conf 's/"sndrpigooglevoi"/"sndrpigooglevoice"/'
    broken check_sound cards/usb.conf 's/^jarvis_capture_rate.*//'
    broken check_sound "$shared" 's/type dsnoop/type dsnop/'
    broken check_sound "$shared" 's/period_time/periodtime/'
    broken check_sound "$shared" 's/buffer_time 200000/buffer_time "200 ms"/'
    broken check_sound "$shared" 's/ipc_gid audio/ipc_gid nosuchgroup/'
    broken check_sound "$shared" 's/max_dB/max_db/'
    broken check_sound "$shared" 's/slave.pcm "jarvis_capture"/slave.pcm "jarvis_kapture"/'
    broken check_sound "$shared" '0,/show on/s/show on/show off/'
    broken check_sound "$shared" '0,/^}/s/^}//'
    broken check_udev "$rules" 's/^SUBSYSTEMS==/SUBSYSTEMZ==/'
    broken check_udev "$rules" 's/^LABEL=.*//'
    broken check_udev "$rules" 's/^#(KERNELS=="1-1.2"),/#\1/'
    broken check_udev "$rules" 's/"JarvisUSB"$/"Jarvis USB"/'
    broken check_systemd "$journal" 's/^SystemMaxUse/SystemMaximumUse/'
    broken check_systemd "$journal" 's/^SyncIntervalSec=.*/SyncIntervalSec=often/'
    broken check_systemd etc/systemd/system.conf.d/50-jarvis-watchdog.conf 's/^\[Manager\]/[Service]/'
    broken check_systemd "$wait" 's/^TimeoutStartSec/TimeoutStartingSec/'
    broken check_systemd "$wait" 's/^TimeoutStartSec=.*/TimeoutStartSec=soon/'
    broken check_systemd etc/sysctl.d/90-jarvis-zram.conf 's/^vm.page-cluster/vm.page-clusters/'
    broken check_systemd etc/systemd/zram-generator.conf.d/50-jarvis.conf 's/^zram-size/zram-fraction/'
}

apt_install alsa-utils build-essential libasound2-dev systemd python3
if [ "$prove" = yes ]; then
    prove_all
    note "broken in $breaks ways, of which $((breaks - missed)) were noticed"
    faults=$((faults + missed))
else
    check_all
    note "$(find . -type f | wc -l) files, $faults faults"
fi
[ "$faults" -eq 0 ] || fail "see above"
