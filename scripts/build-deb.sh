#!/usr/bin/env bash
# Builds the Debian packages of Jarvis. `--help` says which.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=cross.sh
. "$(dirname "$0")/cross.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/build-deb.sh --arch amd64|arm64 [--out FOLDER] [--version VERSION] [--wake-word]
                            [--program FILE]

Builds jarvisd_VERSION_ARCH.deb and jarvisd-models_VERSION_all.deb on Debian 12 or newer. It installs its
tools from Debian's packages. The packages fit the Debian on which they are built, and every newer one. On a PC,
packages for arm64 are built with Debian's cross compiler.

  --out FOLDER       where the packages go; default: the folder `packages` of the cache folder
  --version VERSION  default: the version in Cargo.toml
  --wake-word        also jarvisd-wake-hey-jarvis, whose licence (CC BY-NC-SA 4.0) does not allow
                     commercial use
  --program FILE     packs a jarvisd that is built already; beside it in the folder `examples` is the
                     example `manual`
TEXT
}
arch=
out=$cache/packages
version=
program=
wake_word=no
while [ $# -gt 0 ]; do
    case $1 in
    --arch) arch=${2:?} && shift 2 ;;
    --out) out=${2:?} && shift 2 ;;
    --version) version=${2:?} && shift 2 ;;
    --program) program=$(realpath "${2:?}") && shift 2 ;;
    --wake-word) wake_word=yes && shift ;;
    --help | -h) usage; exit 0 ;;
    *) usage >&2; exit 2 ;;
    esac
done
case $arch in
amd64) gnu=x86_64-linux-gnu vosk_arch=x86_64 ;;
arm64) gnu=aarch64-linux-gnu vosk_arch=aarch64 ;;
*) usage >&2; exit 2 ;;
esac
rust_target=${gnu/-linux/-unknown-linux}
mkdir -p "$out"
out=$(realpath "$out")
cd "$repository"
[ -n "$version" ] || version=$(sed -n '/^\[workspace.package\]/,/^\[/s/^version = "\(.*\)"/\1/p' Cargo.toml)
dpkg --validate-version "$version" || fail "$version is no version of a package"
started=$SECONDS

step "Packages of this machine"
apt_install "${build_packages[@]}" "${model_packages[@]}" dpkg-dev debhelper file
cross=no
if [ "$arch" != "$(dpkg --print-architecture)" ]; then
    [ "$arch" = arm64 ] || fail "packages for $arch are not built on another architecture; use a PC"
    cross=yes
    apt_install "${cross_packages[@]}" qemu-user-static
fi

step "Models and the Vosk library"
fetched=$cache/package-models
quietly() { # the notices of the licences are in the packages
    "$@" 2>"$out/.said" || { cat "$out/.said" >&2; fail "this failed: $*"; }
    rm "$out/.said"
}
mkdir -p "$fetched"
# Those that are fetched already need not be fetched once more; each is checked.
cp -n "$JARVIS_MODELS_DIR"/hey_jarvis* "$JARVIS_MODELS_DIR"/whisper_* "$fetched/" 2>/dev/null || true
quietly scripts/fetch-models.sh --dest "$fetched" --whisper --libvosk --arch $vosk_arch
[ "$wake_word" = no ] || quietly scripts/fetch-models.sh --dest "$fetched" --wake-word

# manual FOLDER: the program that writes the manual pages. One of another architecture runs in qemu.
manual() {
    local example run=()
    example=$(dirname "$program")/examples/manual
    if [ $cross = yes ]; then
        run=(qemu-aarch64-static -L "/usr/$gnu" -E "LD_LIBRARY_PATH=$(cross_libraries):/usr/$gnu/lib")
    fi
    "${run[@]}" "$example" "$1" || fail "the manual pages could not be made with $example"
}

if [ -z "$program" ]; then
    step "Build for $arch"
    # shellcheck disable=SC2119 # no component is wanted
    install_rust
    # In one call, so that both are linked from one build of the library.
    build=(cargo build --release --locked --bin jarvisd --example manual --target "$rust_target")
    [ $cross = no ] || cross_toolchain
    "${build[@]}"
    program=$CARGO_TARGET_DIR/$rust_target/release/jarvisd
fi
file -L "$program" | grep -qE "$(echo "$vosk_arch" | tr _ .)" || fail "$program is not built for $arch"

step "Packages"
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
# Everything has the day of the last change, so that the same source makes the same packages.
SOURCE_DATE_EPOCH=$(git log -1 --format=%ct 2>/dev/null || date +%s)
export SOURCE_DATE_EPOCH
stage=$work/jarvis
mkdir -p "$stage/built" "$stage/usr/lib/sysusers.d" "$stage/usr/lib/tmpfiles.d" "$stage/manual"
cp -r scripts/debian "$stage/debian"
cp -r systemd firmware-config models scripts docs README.md "$stage/"
install -m 755 "$program" "$stage/built/jarvisd"
install -m 644 "${JARVIS_LIBVOSK_DIR:-$cache/libvosk/$vosk_arch}/libvosk.so" "$stage/built/libvosk.so"
install -m 644 systemd/jarvis.sysusers "$stage/usr/lib/sysusers.d/jarvis.conf"
install -m 644 systemd/jarvis.tmpfiles "$stage/usr/lib/tmpfiles.d/jarvis.conf"
mkdir "$stage/fetched"
cp "$fetched"/whisper_tiny_en_* "$fetched"/hey_jarvis* "$stage/fetched/" 2>/dev/null || true
manual "$stage/manual"
mv "$stage/manual/bash/jarvisd.bash" "$stage/manual/bash/jarvisd"
scripts/crate-licences.py "$rust_target" >"$stage/crates.txt"

# The libraries that the programs name, as packages. The package of ALSA's library has another name from
# Debian 13 on, and provides this one.
depends() {
    local name glibc list=()
    glibc=$(readelf -VW "$@" | grep -oE 'GLIBC_[0-9.]+' | sort -Vu | tail -n 1)
    for name in $(readelf -dW "$@" | sed -n 's/.*(NEEDED).*\[\(.*\)\]/\1/p' | sort -u); do
        case $name in
        libc.so.6) list+=("libc6 (>= ${glibc#GLIBC_})") ;;
        libm.so.6 | libdl.so.2 | libpthread.so.0 | librt.so.1 | ld-linux-*) ;;
        libasound.so.2) list+=("libasound2 (>= 1.1.0)") ;;
        libgcc_s.so.1) list+=("libgcc-s1") ;;
        libstdc++.so.6) list+=("libstdc++6 (>= 5)") ;;
        libatomic.so.1) list+=(libatomic1) ;;
        libvosk.so) ;;
        *) fail "the program needs $name, and no package is known for it here" ;;
        esac
    done
    printf '%s, ' "${list[@]}" | sed 's/, $//'
}
depends "$stage/built/jarvisd" "$stage/built/libvosk.so" >"$stage/depends"
note "needs $(cat "$stage/depends")"

maintainer="${DEBFULLNAME:-$(git config user.name || true)} <${DEBEMAIL:-$(git config user.email || true)}>"
[ "$maintainer" != " <>" ] || fail "who makes the package? set DEBFULLNAME and DEBEMAIL"
commit=$(git rev-parse --short=12 HEAD 2>/dev/null || echo "a copy without history")
cat >"$stage/debian/changelog" <<TEXT
jarvis ($version) stable; urgency=medium

  * Built from $commit; changelog.gz has what is new.

 -- $maintainer  $(date -R -u -d "@$SOURCE_DATE_EPOCH")
TEXT
schemas=(migrations/sqlite/[0-9]*.sql)
# A program takes the models that it was built with, and any version of the package that has them.
models=$(sha256sum models/manifest.toml | cut -c 1-12)
sed -i -e "s/@VERSION@/$version/g" -e "s/@MODELS@/$models/g" \
    -e "s/@SCHEMA@/${#schemas[@]}/g" -e "s/@MAINTAINER@/$maintainer/g" \
    "$stage"/debian/control "$stage"/debian/*.p*
profiles=()
[ "$wake_word" = no ] || profiles=(--build-profiles=pkg.jarvis.wakeword)
(
    cd "$stage"
    LC_ALL=C.UTF-8 dpkg-buildpackage --build=binary --no-sign --no-check-builddeps \
        --host-arch "$arch" "${profiles[@]}"
) >"$work/log" 2>&1 || { tail -n 40 "$work/log" >&2; fail "the packages could not be made"; }
for package in "$work"/*.deb; do
    install -m 644 "$package" "$out/"
    note "$out/$(basename "$package"): $(($(stat -c %s "$package") / 1000)) kB"
done
note "after $((SECONDS - started)) s"
