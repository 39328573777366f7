#!/usr/bin/env bash
# Installs the Debian packages in a booted Debian, and tries use, update, way back, removal and purge.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=container.sh
. "$(dirname "$0")/container.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/try-package.sh [--suite bookworm|trixie] [--packages FOLDER | --program FILE]

Needs root, Debian's package mirror and some 900 MB. Builds the packages for this machine, unless --packages
names the folder of scripts/build-deb.sh; --program packs a jarvisd that is built already. Then it makes a
small Debian (kept in the cache folder) with what the packages depend on, boots it with systemd-nspawn without
a network, and tries: lintian, installation, readiness, a typed and a spoken turn, jarvis-setup, update from a signed
repository with a changed configuration, refused way back to an older version, removal, purge. The microphone
is the test plug-in of tests/support.
TEXT
}
suite=bookworm
packages=
program=
while [ $# -gt 0 ]; do
    case $1 in
    --suite) suite=${2:?} && shift 2 ;;
    --packages) packages=$(realpath "${2:?}") && shift 2 ;;
    --program) program=$(realpath "${2:?}") && shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
begin_try "$suite"
cd "$repository"
started=$SECONDS

step "Packages"
apt_install "${build_packages[@]}" "${container_packages[@]}" flite sox lintian gnupg
arch=$(dpkg --print-architecture)
if [ -z "$packages" ]; then
    packages=$work/built
    scripts/build-deb.sh --arch "$arch" --out "$packages" --wake-word ${program:+--program "$program"}
fi
daemon=$(find "$packages" -name "jarvisd_*_$arch.deb" | sort -V | tail -n 1)
[ -n "$daemon" ] || fail "no jarvisd_*_$arch.deb in $packages"
version=$(dpkg-deb -f "$daemon" Version)
models=$packages/jarvisd-models_${version}_all.deb

# repack DEB VERSION FILE EXPRESSION: the same package as another version, with FILE of it changed by sed.
repack() {
    local deb=$1 new=$2 file=$3 expression=$4 tree=$work/tree
    rm -rf "$tree"
    dpkg-deb -R "$deb" "$tree"
    sed -i "s/^Version: .*/Version: $new/" "$tree/DEBIAN/control"
    find "$tree/DEBIAN" -name 'p*' -exec sed -i "s/$version/$new/g" {} +
    sed -i -e "$expression" "$tree/$file"
    # Fast: nobody else takes this package.
    dpkg-deb -Zgzip -z1 -b "$tree" "$debs" >/dev/null
}
root=$cache/try-package/$suite
debs=$root/opt/packages

step "A small Debian ($suite)"
debian_root "$root" "$suite" alsa-utils ca-certificates
rm -rf "$debs" "$root/opt/repository" "$root/opt/sound" "$root/opt/voices"
mkdir -p "$debs" "$root/opt/sound/room" "$root/opt/voices"
cp "$packages"/*.deb "$debs/"
newer=$version+1 older=$version~0
repack "$models" "$newer" DEBIAN/control ''
repack "$models" "$older" DEBIAN/control ''
# Its configuration has another comment, so that there is something to ask about.
repack "$daemon" "$newer" etc/jarvis/jarvis.toml '1i# Changed in the package.'
# Offered as by a web server.
export GNUPGHOME=$work/gnupg
mkdir -m 700 "$GNUPGHOME"
gpg --batch --quiet --passphrase '' --quick-generate-key "Packages of a try" ed25519 sign never 2>/dev/null
mkdir "$work/offered"
mv "$debs"/*_"$newer"_*.deb "$work/offered/"
scripts/apt-repository.sh --key "Packages of a try" "$work/offered" "$root/opt/repository"
# It knows one schema less than there is.
known=$(dpkg-deb --ctrl-tarfile "$daemon" | tar -xO ./preinst | sed -n 's/^known=//p')
repack "$daemon" "$older" DEBIAN/preinst "s/^known=.*/known=$((known - 1))/"

step "A microphone and a voice"
gcc -O2 -shared -fPIC -o "$root/opt/sound/simmic.so" tests/support/simmic.c -lasound
chmod 777 "$root/opt/sound/room"
cat >"$root/etc/asound.conf" <<'TEXT'
pcm_type.simmic { lib "/opt/sound/simmic.so" }
pcm.!default { type simmic dir "/opt/sound/room" format S16_LE channels 1 rate 48000 }
TEXT
mkdir -p "$root/etc/systemd/system/jarvisd.service.d"
printf '[Service]\nReadWritePaths=/opt/sound/room\n' >"$root/etc/systemd/system/jarvisd.service.d/sound.conf"
say() { # say FILE TEXT: as a recording, and as the microphone hears it
    flite -voice rms -t "$2" -o "$work/raw.wav"
    sox -R "$work/raw.wav" -r 48000 -c 1 -b 16 "$root/opt/voices/$1.wav" gain -n -3 pad 0.5 1
    sox -R "$root/opt/voices/$1.wav" "$root/opt/voices/$1.raw"
}
say one "the quick brown fox jumps over the lazy dog while the old cat sleeps beside the warm kitchen fire"
say two "please remember to water the plants in the living room every monday and thursday before the news"
say three "my favourite season is autumn when the leaves turn red and gold and the air smells of apples"
say ask "what do you remember about the spare key"

step "lintian"
check "has nothing to say but what is overridden" \
    lintian --fail-on error,warning,info --display-info --allow-root "$packages"/*.deb

step "Boot"
boot_container "$root" "$work/console"
# Standard input is empty, so that a question is a failure.
apt() {
    in_it env DEBIAN_FRONTEND=noninteractive "${way_back[@]}" apt-get -q -y "$@" </dev/null >"$work/apt" 2>&1
}
loudly() { "$@" || { tail -n 25 "$work/apt"; return 1; }; }
way_back=()
install_version() { # install_version VERSION [OPTION...]
    local version=$1
    shift
    apt install "$@" /opt/packages/{jarvisd_"$version"_"$arch",jarvisd-models_"$version"_all}.deb
}
# shellcheck disable=SC2016 # for dpkg-query
installed() { [ "$(in_it dpkg-query -W -f '${db:Status-Abbrev}${Version}' jarvisd 2>/dev/null)" = "ii $1" ]; }
enabled() { in_it systemctl is-enabled --quiet "$@"; }
ask() { in_it jarvisd ask --user Anna "$1" >"$work/said" 2>&1; }
answers() { ask "$1" && grep -qi "$2" "$work/said"; }
recalls() { answers "what do you remember about the spare key" "flower pot"; }
messages() { in_it jarvisd conversation search --user Anna --json "spare key" | grep -c '"text"'; }
has_configuration() { in_it grep -q "$1" /etc/jarvis/jarvis.toml; }

# shellcheck disable=SC2016 # expanded in the container
owners_alone='[ "$(stat -c "%U %a" /var/lib/jarvis /var/backups/jarvis | sort -u)" = "jarvis 700" ]'
# shellcheck disable=SC2016 # expanded in the container
owner_stays='[ "$(stat -c %U /var/lib/jarvis/jarvis.db /var/lib/jarvis/voiceprint.key | sort -u)" = jarvis ]'

step "Install"
before=$(date +%s%N)
check "apt install ./jarvisd_*.deb ./jarvisd-models_*.deb" loudly install_version "$version"
note "after $((($(date +%s%N) - before) / 1000000)) ms, the start of the daemon included"
check "it is installed" installed "$version"
check "the service is active, and enabled" enabled jarvisd
check "it is ready" within 60 is ActiveState active
note "STATUS: $(show StatusText)"
check "the timers of the backups are enabled" enabled jarvis-backup.timer jarvis-backup-verify.timer
check "the data folders are the user's alone" in_it sh -c "$owners_alone"
check "check-config" in_it jarvisd check-config
check "models verify" in_it jarvisd models verify silero-vad campplus whisper-tiny-en-encoder
manual=/usr/share/man/man1/jarvisd-backup-create.1.gz
completions=/usr/share/bash-completion/completions/jarvisd
check "manual pages and completions are there" in_it bash -c "test -e $manual && . $completions"

step "A turn"
check "user add" in_it jarvisd user add Anna
check "a typed turn" answers "remember that the spare key is under the flower pot" "."
check "and another recalls it" recalls
check "voice enroll" in_it jarvisd voice enroll --user Anna /opt/voices/{one,two,three}.wav
in_it systemctl restart jarvisd
before=$(messages)
in_it sh -c 'cd /opt/sound/room && cp /opt/voices/ask.raw next && mv next say.raw'
more() { [ "$(messages)" -gt "$before" ]; }
check "a spoken turn is answered from the memory" within 60 more
spoken() { in_it test -s /opt/sound/room/out.raw; }
check "and the loudspeaker plays" within 60 spoken

step "jarvis-setup, without a person"
printf '%s\n' 'name = "Hall"' 'backup = on' >"$work/answers"
in_it tee /run/answers <"$work/answers" >/dev/null
set_up() { in_it jarvis-setup "$@" </dev/null >"$work/said" 2>&1 || { tail -n 20 "$work/said"; return 1; }; }
check "jarvis-setup --answers" set_up --answers /run/answers
check "the daemon is ready" within 60 is ActiveState active
check "the name is written" has_configuration '^name = "Hall"'
check "jarvis-setup --undo" set_up --undo
check "it is taken back" not has_configuration '^name = "Hall"'
check "the daemon is ready" within 60 is ActiveState active

step "Update from the repository, with a changed configuration"
in_it install -m 644 /opt/repository/jarvis.gpg /usr/share/keyrings/jarvis.gpg
list=/etc/apt/sources.list.d/jarvis.list
echo "deb [signed-by=/usr/share/keyrings/jarvis.gpg] file:/opt/repository ./" | in_it tee $list >/dev/null
# The mirror of Debian is out of reach here; what is known of it stays.
check "apt update reads the signed list" loudly apt update -o Dir::Etc::SourceList=$list \
    -o Dir::Etc::SourceParts=/dev/null -o APT::Get::List-Cleanup=0
in_it sed -i '1i[device]\nname = "Kitchen"' /etc/jarvis/jarvis.toml
main=$(show MainPID)
check "apt upgrade asks nothing" loudly apt upgrade -o Dpkg::Options::=--force-confold
check "it is installed" installed "$newer"
check "the daemon is a new one" differs MainPID "$main"
check "it is ready" within 60 is ActiveState active
check "the configuration is the owner's" has_configuration 'name = "Kitchen"'
check "the new one lies beside it" in_it grep -q "Changed in the package" /etc/jarvis/jarvis.toml.dpkg-dist
check "the memory is there" recalls

step "The way back to an older version"
check "apt refuses what does not know the memory" not install_version "$older" --allow-downgrades
check "and says how to go back" grep -q "backup restore NAME --in-place" "$work/apt"
in_it dpkg --configure -a >/dev/null
check "the newer one stays" installed "$newer"
check "it is ready" within 60 is ActiveState active
check "the memory is there" recalls
way_back=(JARVIS_DOWNGRADE=yes)
check "JARVIS_DOWNGRADE=yes installs it all the same" \
    loudly install_version "$older" --allow-downgrades -o Dpkg::Options::=--force-confold
way_back=()
check "it is installed" installed "$older"
check "and updated again" loudly apt upgrade -o Dpkg::Options::=--force-confold

step "Remove"
check "apt remove jarvisd" loudly apt remove jarvisd
check "the daemon is stopped" not is ActiveState active
check "memory, voices, key and configuration stay" \
    in_it sh -c 'cd /var/lib/jarvis && test -s jarvis.db -a -s voiceprint.key -a -e /etc/jarvis/jarvis.toml'
check "installed again" loudly apt install jarvisd -o Dpkg::Options::=--force-confold
check "it recalls" recalls

step "Purge"
check "apt purge asks nothing" loudly apt purge jarvisd jarvisd-models
check "it says how to delete the memory" grep -q "To delete them for good" "$work/apt"
check "the configuration is gone" in_it test ! -e /etc/jarvis/jarvis.toml
check "memory, voices and key stay, with their owner" in_it sh -c "$owner_stays"
check "nothing else of the packages stays" in_it sh -c '
    ! find /usr /etc /var/lib/systemd -path "*jarvis*" ! -path "*/jarvisd.service.d*" ! -path "*jarvis.list" \
        ! -path "*jarvis.gpg" 2>/dev/null | grep .'
check "no unit failed" in_it sh -c '! systemctl list-units --failed --plain --no-legend "jarvis*" | grep .'

[ "$failed" -eq 0 ] || { journal | tail -n 60; fail "$failed of the tries failed"; }
note "all of it worked, in $((SECONDS - started)) s"
