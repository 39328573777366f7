#!/usr/bin/env bash
# Feeds the parsers of bytes that others wrote with bytes that libFuzzer makes up. Re-runnable; needs no other
# step.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/fuzz.sh [--seconds N] [--jobs N] [TARGET...]

Runs every fuzz target of tests/fuzz, or those named, for N seconds each (20), with --jobs as many at a time (1).
The inputs that it learns are kept in the cache folder and are where the next run begins. An input that a target
fails on is named and kept: after the mend it belongs into tests/fuzz/seeds/TARGET, which `cargo test` replays.
TEXT
}
seconds=20
jobs=1
targets=()
while [ $# -gt 0 ]; do
    case "$1" in
    --seconds) seconds=${2:?} && shift ;;
    --jobs) jobs=${2:?} && shift ;;
    --help | -h) usage; exit 0 ;;
    -*) usage >&2; exit 2 ;;
    *) targets+=("$1") ;;
    esac
    shift
done
cd "$repository/tests/fuzz"
if [ ${#targets[@]} -eq 0 ]; then
    for file in fuzz_targets/*.rs; do targets+=("$(basename "$file" .rs)"); done
fi

# shellcheck disable=SC2119 # nothing beside the compiler
command -v cargo >/dev/null || install_rust
apt_install "${build_packages[@]}"
step "Fuzz targets"
# Not `cargo fuzz build`, which would build every dependency once more: see tests/fuzz/rustc.
RUSTC_WRAPPER=$PWD/rustc cargo build --quiet --locked --bins

# Inputs that led somewhere new, and those that a target failed on.
learnt=$cache/fuzz
status=0
# Databases are written there, thousands of them.
scratch=/dev/shm
[ -d "$scratch" ] || scratch=${TMPDIR:-/tmp}
TMPDIR=$(mktemp -d -p "$scratch" jarvis-fuzz.XXXXXX)
export TMPDIR
trap 'rm -rf "$TMPDIR"' EXIT

# run_target TARGET: for that long, with the findings in a file of its own.
run_target() {
    local target=$1 log=$learnt/$1.log
    mkdir -p "$learnt/$target" "$learnt/findings"
    if "$CARGO_TARGET_DIR/debug/$target" "$learnt/$target" "seeds/$target" -max_total_time="$seconds" \
        -timeout=10 -rss_limit_mb=1024 -max_len=16384 -print_final_stats=1 \
        -artifact_prefix="$learnt/findings/$target-" >"$log" 2>&1; then
        note "$target: $(sed -n 's/^stat::number_of_executed_units: *//p' "$log") inputs in $seconds s"
    else
        # The libraries say much before the line that tells it.
        grep -E 'panicked|ERROR|Test unit written' -A 3 "$log" || tail -n 20 "$log"
        note "$target: found something, see $log"
        return 1
    fi
}

running=0
for target in "${targets[@]}"; do
    [ -f "fuzz_targets/$target.rs" ] || fail "there is no target $target"
    if [ "$running" -ge "$jobs" ]; then
        wait -n || status=1
        running=$((running - 1))
    fi
    run_target "$target" &
    running=$((running + 1))
done
while [ "$running" -gt 0 ]; do
    wait -n || status=1
    running=$((running - 1))
done
exit "$status"
