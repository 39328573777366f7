#!/usr/bin/env bash
# Puts Jarvis and its first start into a system for a card. `--help` and docs/image.md say how.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/image.sh --packages FOLDER (--image FILE --out FILE | --root FOLDER [--debian SUITE])
                        [--provision FILE] [--answers FILE]

Installs the packages of FOLDER (scripts/build-deb.sh --arch arm64) into a system for a Raspberry Pi, and puts the
files for its first start there. Runs as root on Debian; on a PC the programs of the system run in qemu.

  --image FILE      an image of Raspberry Pi OS Lite, 64-bit, .img or .img.xz; it is not changed
  --out FILE        the image that is made of it, 1 GiB larger
  --root FOLDER     the system is in a folder already, and is changed there
  --debian SUITE    makes FOLDER first: a Debian for arm64, for trials without a card
  --provision FILE  host name, account, network, of lines KEY = VALUE:
                      hostname  user  password_hash (`openssl passwd -6`)  ssh_key (the line of a .pub file)
                      timezone  wifi_ssid  wifi_password  wifi_country (two capitals)
                      address (10.0.0.5/24, else DHCP)  gateway  dns
  --answers FILE    answers for jarvis-setup, which the first start gives to it
TEXT
}
packages='' image='' out='' root='' debian='' provision='' answers=''
while [ $# -gt 0 ]; do
    case $1 in
    --packages) packages=$(realpath "${2:?}"); shift 2 ;;
    --image) image=$(realpath "${2:?}"); shift 2 ;;
    --out) out=$(realpath -m "${2:?}"); shift 2 ;;
    --root) root=$(realpath -m "${2:?}"); shift 2 ;;
    --debian) debian=${2:?} && shift 2 ;;
    --provision) provision=$(realpath "${2:?}"); shift 2 ;;
    --answers) answers=$(realpath "${2:?}"); shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
case ${packages:+p}:${image:+i}${out:+o}:${root:+r}:${debian:+d} in
p:io:: | p::r: | p::r:d) ;;
*) usage >&2; exit 2 ;;
esac
[ "$(id -u)" -eq 0 ] || fail "this needs root, to mount and to change root"
for file in $provision $answers; do [ -f "$file" ] || fail "there is no file $file"; done
work=$(mktemp -d)
mounted=()
loops=()

# Everything that this script mounted goes, whatever happened.
clean_up() {
    local n
    for ((n = ${#mounted[@]} - 1; n >= 0; n--)); do umount -l "${mounted[n]}" || true; done
    for n in "${loops[@]}"; do losetup -d "$n" || true; done
    rm -rf "$work"
}
trap clean_up EXIT

mount_at() { # mount_at PLACE ARGUMENT...
    local place=$1
    shift
    mount "$@" "$place"
    mounted+=("$place")
}

# --- the answers that are given ---------------------------------------------------------------------------------------

declare -A given=()

read_provision() {
    local line key value number=0
    while IFS= read -r line || [ -n "$line" ]; do
        number=$((number + 1))
        [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
        [[ $line =~ ^[[:space:]]*([a-z_]+)[[:space:]]*=[[:space:]]*(.*[^[:space:]])[[:space:]]*$ ]] ||
            fail "$provision, line $number is not KEY = VALUE"
        key=${BASH_REMATCH[1]} value=${BASH_REMATCH[2]}
        case $key in
        hostname) [[ $value =~ ^[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?$ ]] ;;
        user) [[ $value =~ ^[a-z_][a-z0-9_-]{0,31}$ ]] ;;
        password_hash) [[ $value =~ ^\$[0-9a-z]+\$[./0-9A-Za-z=,\$]+$ ]] ;;
        ssh_key) [[ $value =~ ^(ssh|ecdsa|sk)-[a-z0-9@.-]+\ [A-Za-z0-9+/=]+(\ [^\"\\]*)?$ ]] ;;
        timezone) [[ $value =~ ^[A-Za-z_/+-]+[0-9]*$ ]] ;;
        wifi_ssid) [[ ${#value} -le 32 && $value != *[\"\\]* ]] ;;
        wifi_password) [[ ${#value} -ge 8 && ${#value} -le 63 && $value != *[\"\\]* ]] ;;
        wifi_country) [[ $value =~ ^[A-Z]{2}$ ]] ;;
        address) [[ $value =~ ^[0-9]+(\.[0-9]+){3}/[0-9]+$ ]] ;;
        gateway | dns) [[ $value =~ ^[0-9]+(\.[0-9]+){3}$ ]] ;;
        *) fail "$provision, line $number: there is no key \"$key\"" ;;
        esac || fail "$provision, line $number: $key does not take this value"
        given[$key]=$value
    done <"$provision"
    if [ -n "${given[ssh_key]-}${given[password_hash]-}" ] && [ -z "${given[user]-}" ]; then
        fail "$provision: a key or a password needs a user"
    fi
    if [ -n "${given[wifi_ssid]-}" ] && [ -z "${given[wifi_country]-}" ]; then
        fail "$provision: a wifi_ssid needs a wifi_country, without which the radio stays off"
    fi
}

# --- the first start of Raspberry Pi OS -------------------------------------------------------------------------------

has() { [ -n "${given[$1]-}" ]; }

# The partition of a card that is read at the start is FAT, which knows no owners.
only_root() { chmod 600 "$@" 2>/dev/null || true; }

# Addresses of an interface, for netplan.
addresses() {
    if has address; then
        printf '      dhcp4: false\n      addresses: ["%s"]\n' "${given[address]}"
        ! has gateway || printf '      routes:\n        - to: default\n          via: %s\n' "${given[gateway]}"
        ! has dns || printf '      nameservers:\n        addresses: ["%s"]\n' "${given[dns]}"
    else
        printf '      dhcp4: true\n'
    fi
    # A start without this network goes on.
    printf '      optional: true\n'
}

# Raspberry Pi OS since October 2025 (trixie), and Debian with cloud-init.
write_cloud_init() {
    local boot=$1
    {
        printf '#cloud-config\n'
        ! has hostname || printf 'hostname: %s\nmanage_etc_hosts: true\n' "${given[hostname]}"
        ! has timezone || printf 'timezone: %s\n' "${given[timezone]}"
        if has user; then
            printf 'users:\n  - name: %s\n    shell: /bin/bash\n' "${given[user]}"
            printf '    groups: [adm, audio, sudo, users, video]\n    sudo: "ALL=(ALL) NOPASSWD:ALL"\n'
            if has password_hash; then
                printf '    lock_passwd: false\n    passwd: "%s"\n' "${given[password_hash]}"
            fi
            ! has ssh_key || printf '    ssh_authorized_keys:\n      - "%s"\n' "${given[ssh_key]}"
        fi
        if has ssh_key; then
            printf 'ssh_pwauth: false\n'
            # A key of Raspberry Pi OS alone: its SSH server is off until somebody asks for it.
            [ ! -e "$root/usr/lib/raspberrypi-sys-mods" ] || printf 'enable_ssh: true\n'
        fi
    } >"$boot/user-data"
    {
        printf 'network:\n  version: 2\n  ethernets:\n    eth0:\n'
        if has wifi_ssid; then printf '      dhcp4: true\n      optional: true\n'; else addresses; fi
        if has wifi_ssid; then
            printf '  wifis:\n    wlan0:\n      regulatory-domain: %s\n' "${given[wifi_country]}"
            addresses
            printf '      access-points:\n        "%s":\n' "${given[wifi_ssid]}"
            if has wifi_password; then
                printf '          password: "%s"\n' "${given[wifi_password]}"
            else
                printf '          {}\n'
            fi
        fi
    } >"$boot/network-config"
    # Another id would be another machine to cloud-init.
    [ -f "$boot/meta-data" ] || printf 'instance-id: jarvis-image\n' >"$boot/meta-data"
    only_root "$boot/user-data" "$boot/network-config"
}

# Raspberry Pi OS bookworm.
write_custom_toml() {
    ! has address || fail "Raspberry Pi OS bookworm takes no fixed address at its first start; leave it to the router"
    {
        printf 'config_version = 1\n'
        ! has hostname || printf '\n[system]\nhostname = "%s"\n' "${given[hostname]}"
        if has user; then
            printf '\n[user]\nname = "%s"\n' "${given[user]}"
            ! has password_hash || printf 'password = "%s"\npassword_encrypted = true\n' "${given[password_hash]}"
        fi
        if has ssh_key; then
            printf '\n[ssh]\nenabled = true\npassword_authentication = false\nauthorized_keys = ["%s"]\n' "${given[ssh_key]}"
        fi
        if has wifi_ssid; then
            printf '\n[wlan]\nssid = "%s"\ncountry = "%s"\n' "${given[wifi_ssid]}" "${given[wifi_country]}"
            ! has wifi_password || printf 'password = "%s"\npassword_encrypted = false\n' "${given[wifi_password]}"
        fi
        ! has timezone || printf '\n[locale]\ntimezone = "%s"\n' "${given[timezone]}"
    } >"$1/custom.toml"
    only_root "$1/custom.toml"
}

write_first_start() {
    local boot=$root/boot/firmware
    mkdir -p "$boot"
    if [ -x "$root/usr/bin/cloud-init" ]; then
        write_cloud_init "$boot"
        note "the first start reads user-data and network-config (cloud-init)"
    elif [ -e "$root/usr/lib/raspberrypi-sys-mods/init_config" ]; then
        write_custom_toml "$boot"
        note "the first start reads custom.toml (raspberrypi-sys-mods)"
    else
        fail "this system has neither cloud-init nor raspberrypi-sys-mods, so it reads no file at its first start"
    fi
}

# jarvis-setup wants the sound card, so it runs on the board. If it fails it runs again at the next start.
write_answers() { # the unit is in the package
    install -m 600 "$answers" "$root/etc/jarvis/first-start.answers"
    systemctl --root="$root" enable jarvis-first-start.service >/dev/null 2>&1 ||
        fail "jarvis-first-start.service cannot be enabled in $root"
    note "the first start gives the answers to jarvis-setup"
}

# --- the system -------------------------------------------------------------------------------------------------------

# Programs of another architecture run if the kernel knows the interpreter. With the flag F it is opened when it is
# registered, so that nothing has to lie in the system itself.
arm64_runs_here() {
    [ "$(dpkg --print-architecture)" != arm64 ] || return 0
    apt_install qemu-user-static
    local here=/proc/sys/fs/binfmt_misc
    [ -e $here/register ] || mount -t binfmt_misc binfmt_misc $here || fail "binfmt_misc cannot be mounted here"
    if [ ! -e $here/qemu-aarch64 ]; then
        local line=/usr/lib/binfmt.d/qemu-aarch64.conf
        [ -f $line ] || fail "there is no $line; install qemu-user-static of Debian 12 or newer"
        cat $line >$here/register || fail "qemu cannot be registered for programs of arm64"
        note "qemu is registered for programs of arm64, until the next start of this machine"
    fi
    grep -q '^flags:.*F' $here/qemu-aarch64 || fail "the qemu that is registered for arm64 has no flag F"
}

make_debian() {
    [ ! -e "$root/etc/debian_version" ] || { note "$root is there already" && return; }
    apt_install debootstrap
    debootstrap --arch=arm64 --variant=minbase --include=systemd,systemd-sysv "$debian" "$root" >"$root.log" 2>&1 ||
        fail "debootstrap failed, see $root.log"
}

# The image, grown, with its two partitions at $root and $root/boot/firmware.
open_image() {
    apt_install fdisk e2fsprogs dosfstools
    if [ "${image##*.}" = xz ]; then
        apt_install xz-utils
        xz -dc "$image" >"$out"
    else
        cp "$image" "$out"
    fi
    truncate -s +1G "$out"
    # The second partition takes the rest of the card at the first start as well.
    echo ', +' | sfdisk -q -N 2 "$out" || fail "$out has no second partition; it is no image of Raspberry Pi OS"
    local boot
    loops+=("$(losetup -f --show -o "$(at 1 START)" --sizelimit "$(at 1 SECTORS)" "$out")")
    boot=${loops[-1]}
    loops+=("$(losetup -f --show -o "$(at 2 START)" --sizelimit "$(at 2 SECTORS)" "$out")")
    e2fsck -fy "${loops[-1]}" >"$work/fsck" 2>&1 || [ $? -le 1 ] || fail "e2fsck: $(tail -n 1 "$work/fsck")"
    resize2fs "${loops[-1]}" >/dev/null 2>&1 || fail "the file system of $out cannot be grown"
    root=$work/root
    mkdir "$root"
    mount_at "$root" "${loops[-1]}"
    mkdir -p "$root/boot/firmware"
    mount_at "$root/boot/firmware" "$boot"
}

# at PARTITION COLUMN: START or SECTORS of the table, in bytes.
at() { echo $(($(partx -g -o "$2" -n "$1:$1" "$out") * 512)); }

inside() { chroot "$root" env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin LC_ALL=C.UTF-8 DEBIAN_FRONTEND=noninteractive "$@"; }

install_packages() {
    local arch debs=() kept
    arch=$(inside dpkg --print-architecture)
    [ "$arch" = arm64 ] || fail "the system is for $arch, not for arm64"
    shopt -s nullglob
    debs=("$packages"/jarvisd_*_arm64.deb "$packages"/jarvisd-models_*_all.deb "$packages"/jarvisd-wake-*_all.deb)
    shopt -u nullglob
    [ ${#debs[@]} -ge 2 ] || fail "$packages has no jarvisd_…_arm64.deb and jarvisd-models_…_all.deb; see scripts/build-deb.sh"
    mount_at "$root/proc" -t proc proc
    # No service starts in a folder, and names are found as on this machine.
    printf '#!/bin/sh\nexit 101\n' | install -m 755 /dev/stdin "$root/usr/sbin/policy-rc.d"
    kept=$work/resolv.conf
    if [ -e "$root/etc/resolv.conf" ] || [ -L "$root/etc/resolv.conf" ]; then mv "$root/etc/resolv.conf" "$kept"; fi
    cp /etc/resolv.conf "$root/etc/resolv.conf"
    install -d "$root/tmp/jarvis"
    cp "${debs[@]}" "$root/tmp/jarvis/"
    chmod 755 "$root/tmp/jarvis"
    inside apt-get -q update >"$work/apt" 2>&1 || fail "apt-get update: $(tail -n 3 "$work/apt")"
    # Raspberry Pi OS has these, a bare Debian has not.
    [ -z "$debian" ] || inside apt-get -q install -y --no-install-recommends cloud-init openssh-server netplan.io >>"$work/apt" 2>&1 ||
        fail "cloud-init cannot be installed: $(tail -n 3 "$work/apt")"
    inside sh -c 'apt-get -q install -y /tmp/jarvis/*.deb' >>"$work/apt" 2>&1 ||
        { tail -n 30 "$work/apt" >&2 && fail "the packages cannot be installed; apt-get says why above"; }
    inside apt-get clean
    rm -rf "$root/tmp/jarvis" "$root/usr/sbin/policy-rc.d" "$root/etc/resolv.conf"
    if [ -e "$kept" ] || [ -L "$kept" ]; then mv "$kept" "$root/etc/resolv.conf"; fi
    note "$(inside jarvisd --version) is installed"
    # A key or a memory in an image would be those of every device made of it.
    [ -z "$(ls -A "$root/var/lib/jarvis" 2>/dev/null)" ] || fail "the installation left files in /var/lib/jarvis"
}

step "The system"
[ -z "$provision" ] || read_provision
arm64_runs_here
[ -z "$debian" ] || make_debian
[ -z "$image" ] || open_image
[ -e "$root/etc/debian_version" ] || fail "$root holds no system of Debian or Raspberry Pi OS"
step "The packages"
install_packages
step "The first start"
if [ -n "$provision" ]; then write_first_start; else note "nothing but what the system asks for itself"; fi
if [ -n "$answers" ]; then write_answers; else note "jarvis-setup is left to its owner"; fi
step "Done: ${out:-$root}"
