#!/bin/sh
# Makes models/calibration/campplus.{cohort.bin,channels.bin,toml} again, pins them in models/manifest.toml and
# prints the tables of docs/lab/speaker-*.md. Compensation and constants are made by
# scripts/lab/calibrate-channels.py, which names the Python packages that it needs.
#
#   scripts/lab/calibrate.sh AUDIO_DIR     one recording (FLAC or WAV, 16 kHz) of each of some 250 speakers, 12 s or longer
#   scripts/lab/calibrate.sh AUDIO_DIR --denoised yes        also compares raw with denoised sound
#   scripts/lab/calibrate.sh AUDIO_DIR --choices yes         only tables: early verdict, mean or prototypes, wake phrase in or out
#   scripts/lab/calibrate.sh AUDIO_DIR --second yes          only tables: somebody else who goes on alone
#   scripts/lab/calibrate.sh AUDIO_DIR --plans 150,300,500 --padding wrap     shows other choices, writes nothing
#   scripts/lab/calibrate.sh AUDIO_DIR --scores FILE         also writes the held-out trials there, for reliability.py; changes nothing else
#   scripts/lab/calibrate.sh --voices      only checks the shipped constants against synthetic voices (flite, festival)
#
# To be run after every change of the speaker model, of its front end, of the VAD or of the plan lengths.
set -eu
cd "$(dirname "$0")/../.."

calibrate() {
    cargo run --quiet --release --no-default-features --example calibrate -- --models models "$@"
}

make_voices() {
    for voice in awb rms slt kal16; do
        mkdir -p "$1/$voice"
    done
    command -v text2wave >/dev/null && mkdir -p "$1/ked"
    say() { # voice file text
        case $1 in
        ked) printf '%s' "$3" | text2wave -eval '(voice_ked_diphone)' -o "$dir/$1/$2.wav" ;;
        *) flite -voice "$1" -t "$3" -o "$dir/$1/$2.wav" ;;
        esac
    }
    dir=$1
    for voice in "$dir"/*/; do
        voice=$(basename "$voice")
        say "$voice" enrol-1 "My voice is the key to this device, and it will know me whenever I speak to it from across the room."
        say "$voice" enrol-2 "The weather this morning was bright and cold, so I walked along the river before going home for breakfast."
        say "$voice" enrol-3 "Please remember the things that I tell you, and answer nobody else when they ask you about them."
        say "$voice" test-1 "hey jarvis, what time is it"
        say "$voice" test-2 "hey jarvis, remember that the spare key is under the blue pot"
        say "$voice" test-3 "hey jarvis, what do you remember about the spare key"
        say "$voice" test-4 "hey jarvis, who am I"
        say "$voice" test-5 "hey jarvis, what did we talk about yesterday evening"
        say "$voice" test-6 "hey jarvis, forget that"
    done
}

case ${1:-} in
"" | -h | --help)
    sed -n '2,16p' "$0" | cut -c3-
    exit 2
    ;;
--voices) ;;
*)
    audio=$1
    shift
    calibrate --audio "$audio" "$@"
    if [ $# -eq 0 ]; then
        scripts/lab/calibrate-channels.py "$audio" --write
    fi
    ;;
esac

if command -v flite >/dev/null; then
    voices=$(mktemp -d)
    trap 'rm -rf "$voices"' EXIT
    make_voices "$voices"
    printf '\n### Synthetic voices\n\n'
    calibrate --voices "$voices"
else
    echo "flite is not installed: the check with synthetic voices is skipped" >&2
fi
