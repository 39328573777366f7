# A compiler for arm64 from Debian's packages; sourced after lib.sh, not run.
#
# The system gets Debian's cross compiler and nothing else: no foreign architecture. The standard library of
# Rust for arm64, the compiler it belongs to, and ALSA's library are unpacked in a folder of the cache.
# shellcheck shell=bash
# shellcheck disable=SC2154 # of lib.sh

# shellcheck disable=SC2034 # for the scripts that source this file
cross_packages=(gcc-aarch64-linux-gnu g++-aarch64-linux-gnu pkg-config ca-certificates)

# foreign_apt FOLDER ARCH COMMAND...: apt-get with the machine's Debian sources, for ARCH, with its own state.
foreign_apt() {
    local folder=$1 arch=$2 sources=/etc/apt/sources.list.d/debian.sources
    shift 2
    [ -f $sources ] || sources=/etc/apt/sources.list
    mkdir -p "$folder/state/lists/partial" "$folder/cache/archives/partial" "$folder/log"
    touch "$folder/status"
    # The hooks of a system that is a container remove what is downloaded.
    apt-get -q -o APT::Architecture="$arch" -o APT::Architectures="$arch" -o Dir::State="$folder/state" \
        -o Dir::State::status="$folder/status" -o Dir::Cache="$folder/cache" -o Dir::Log="$folder/log" \
        -o Dir::Etc::SourceList="$sources" -o Dir::Etc::SourceParts=/dev/null -o APT::Sandbox::User= \
        -o Debug::NoLocking=1 -o DPkg::Post-Invoke= -o APT::Update::Post-Invoke= \
        -o APT::Update::Post-Invoke-Success= "$@"
}

# unpack_debs FOLDER DEB...
unpack_debs() {
    local folder=$1 deb
    shift
    mkdir -p "$folder"
    for deb in "$@"; do
        dpkg-deb --fsys-tarfile "$deb" | tar -x -C "$folder" --keep-directory-symlink
    done
}

# cross_libraries: the folder of the libraries that are linked and are not those of the cross compiler.
cross_libraries() { echo "$cache/cross/arm64/libraries/usr/lib/aarch64-linux-gnu"; }

# fetch_cross_packages FOLDER OWN-ARCH: FOLDER/debs gets what runs here, FOLDER/debs/arm64 what is linked.
fetch_cross_packages() {
    local folder=$1 own=$2 part
    # Each is a package that the one before needs. A caller behind `||` gets no help of `set -e`.
    cd "$folder/debs" &&
        foreign_apt "$folder/apt-own" "$own" download rustc-web libstd-rust-web-dev &&
        part=$(dpkg-deb -f libstd-rust-web-dev_*.deb Depends | grep -oE '^libstd-rust-web-[0-9.]+') &&
        foreign_apt "$folder/apt-own" "$own" download "$part" &&
        part=$(dpkg-deb -f "$part"_*.deb Depends | grep -oE 'libllvm[^ ,]*') &&
        foreign_apt "$folder/apt-own" "$own" download "$part" &&
        mkdir arm64 && cd arm64 &&
        foreign_apt "$folder/apt-arm64" arm64 download libstd-rust-web-dev libasound2-dev &&
        part=$(dpkg-deb -f libasound2-dev_*.deb Depends | grep -oE 'libasound2(t64)?' | head -n 1) &&
        foreign_apt "$folder/apt-arm64" arm64 download "$part"
}

# cross_toolchain: makes it, unless it is there, and sets what cargo needs.
cross_toolchain() {
    local folder=$cache/cross/arm64 gnu=aarch64-linux-gnu
    if [ ! -e "$folder/complete" ]; then
        rm -rf "$folder"
        mkdir -p "$folder/debs"
        note "compiler, standard library and ALSA for arm64: unpacking in $folder"
        local own
        own=$(dpkg --print-architecture)
        { foreign_apt "$folder/apt-own" "$own" update && foreign_apt "$folder/apt-arm64" arm64 update; } \
            >"$folder/log" 2>&1 || fail "apt-get update failed, see $folder/log"
        # Runs here: compiler, its library, and the LLVM that this needs.
        (fetch_cross_packages "$folder" "$own") >>"$folder/log" 2>&1 ||
            fail "packages for the cross build could not be fetched, see $folder/log"
        unpack_debs "$folder/rust" "$folder"/debs/*.deb "$folder"/debs/arm64/libstd-rust-web-dev_*.deb
        unpack_debs "$folder/libraries" "$folder"/debs/arm64/libasound2*.deb
        rm -rf "$folder"/debs "$folder"/apt-*
        cat >"$folder/rustc" <<TEXT
#!/bin/sh
LD_LIBRARY_PATH=$folder/rust/usr/lib/$(gcc -print-multiarch) exec $folder/rust/usr/bin/rustc "\$@"
TEXT
        chmod 755 "$folder/rustc"
        touch "$folder/complete"
    fi
    export RUSTC=$folder/rustc
    local libraries=$folder/libraries/usr
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=$gnu-gcc
    # The second library that a library needs is looked for among those of the cross compiler.
    export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUSTFLAGS="-C link-arg=-L$libraries/lib/$gnu"
    export CC_aarch64_unknown_linux_gnu=$gnu-gcc CXX_aarch64_unknown_linux_gnu=$gnu-g++
    export AR_aarch64_unknown_linux_gnu=$gnu-ar
    export PKG_CONFIG_ALLOW_CROSS=1 PKG_CONFIG_SYSROOT_DIR_aarch64_unknown_linux_gnu=$folder/libraries
    export \
        PKG_CONFIG_LIBDIR_aarch64_unknown_linux_gnu=$libraries/lib/$gnu/pkgconfig:$libraries/share/pkgconfig
}
