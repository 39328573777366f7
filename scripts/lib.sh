# Shared by the scripts of this folder; sourced, not run.
# shellcheck shell=bash

repository=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)
cache=${XDG_CACHE_HOME:-$HOME/.cache}/jarvis
# Outside the clone, so that a fresh clone builds from a warm folder.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$cache/target}
export JARVIS_MODELS_DIR=${JARVIS_MODELS_DIR:-${XDG_DATA_HOME:-$HOME/.local/share}/jarvis/models}

# step TEXT: begins a part, with the seconds since the script was started.
step() { printf '\n==> %s (after %s s)\n' "$*" "$SECONDS"; }
note() { printf '    %s\n' "$*"; }
fail() {
    printf '%s: %s\n' "$(basename "$0")" "$*" >&2
    exit 1
}

as_root() {
    if [ "$(id -u)" -eq 0 ]; then
        "$@"
    elif command -v sudo >/dev/null; then
        sudo "$@"
    else
        fail "this step needs root and there is no sudo; run as root: $*"
    fi
}

# apt_install PACKAGE...: installs those that are missing, says nothing when none is.
apt_install() {
    command -v apt-get >/dev/null || fail "this script knows Debian and Raspberry Pi OS only; install by hand: $*"
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'ok installed' || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return
    note "installing ${missing[*]}"
    as_root apt-get update -q >/dev/null
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
}

# The oldest compiler that builds this workspace.
rust_wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$repository/Cargo.toml")

at_least() { [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$1" ]; }

rust_here() { (cd "$repository" && cargo --version 2>/dev/null | awk '{print $2}'); }

# install_rust [PACKAGE...]: keeps a good toolchain that is there, else takes the distribution's newest. The packages hold
# rustfmt and clippy, for a toolchain without rustup.
install_rust() {
    # shellcheck disable=SC1091 # made by rustup, where there is one
    [ ! -f "$HOME/.cargo/env" ] || . "$HOME/.cargo/env"
    local have
    have=$(rust_here || true)
    if [ -z "$have" ] || ! at_least "$rust_wanted" "$have"; then
        # Debian keeps a current compiler for its browsers beside the release's own old one.
        local candidate
        as_root apt-get update -q >/dev/null
        candidate=$(apt-cache policy rustc-web 2>/dev/null | awk '/Candidate:/ {print $2}')
        if [ -n "$candidate" ] && [ "$candidate" != "(none)" ] && at_least "$rust_wanted" "${candidate%%+*}"; then
            apt_install rustc-web cargo-web
        elif apt-cache policy rustup 2>/dev/null | grep -q 'Candidate: [0-9]'; then
            apt_install rustup
            (cd "$repository" && rustup toolchain install)
        else
            fail "no Rust $rust_wanted or newer in this distribution's packages; install rustup by hand and run this again"
        fi
        hash -r
        have=$(rust_here || true)
    fi
    if [ -z "$have" ] || ! at_least "$rust_wanted" "$have"; then
        fail "Rust $rust_wanted or newer is needed, found ${have:-none}"
    fi
    if [ $# -gt 0 ] && ! (cd "$repository" && cargo fmt --version && cargo clippy --version) >/dev/null 2>&1; then
        if command -v rustup >/dev/null; then
            (cd "$repository" && rustup component add rustfmt clippy)
        else
            apt_install "$@"
        fi
    fi
    note "Rust $have"
}

# shellcheck disable=SC2034 # for the scripts that source this file
build_packages=(build-essential pkg-config libasound2-dev ca-certificates)
# shellcheck disable=SC2034 # for the scripts that source this file
model_packages=(python3 python3-venv python3-pip)
