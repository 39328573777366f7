#!/usr/bin/env bash
# From a fresh machine to a talking appliance: installs what is missing, builds, fetches the models, and lets five
# synthetic voices show the main job end to end. Re-runnable; needs no other step.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/quickstart.sh [--keep DIR]

Builds Jarvis and tells a short story with it: an owner enrols and has something remembered, strangers are refused, the
daemon restarts, the owner asks and gets the answer back. --keep DIR keeps the story's data, sound and log there.
TEXT
}
keep=
while [ $# -gt 0 ]; do
    case "$1" in
    --keep) keep=${2:?--keep needs a folder}; shift 2 ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
started=$SECONDS

step "1/5 Packages"
apt_install "${build_packages[@]}" "${model_packages[@]}" sox espeak-ng alsa-utils \
    flite festival festvox-kdlpc16k festlex-cmu festlex-poslex
# shellcheck disable=SC2119 # a build needs no lints
install_rust

step "2/5 Models and libvosk"
"$repository/scripts/fetch-models.sh" --all

step "3/5 Build (a few minutes the first time)"
cargo build --release --manifest-path "$repository/Cargo.toml"
jarvisd=$CARGO_TARGET_DIR/release/jarvisd
"$jarvisd" --version

step "4/5 The story"
work=${keep:-$(mktemp -d)}
mkdir -p "$work"
[ -n "$keep" ] || trap 'rm -rf "$work"' EXIT
python3 "$repository/scripts/story.py" --jarvisd "$jarvisd" --work "$work"

step "5/5 Now with your own voice"
cat <<TEXT
    Plug in a microphone, then, in this folder:

      cd $repository
      PATH=$CARGO_TARGET_DIR/release:\$PATH
      jarvisd --root ~/jarvis-trial doctor                 # is everything there?
      jarvisd --root ~/jarvis-trial voice enroll --user Anna      # read aloud what it shows
      jarvisd --root ~/jarvis-trial run --events           # say "hey jarvis, what time is it"

    docs/install.md tells how to make it a service. All of this took $((SECONDS - started)) s.
TEXT
tail -n 4 "$work/story.txt"
