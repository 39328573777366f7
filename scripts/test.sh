#!/usr/bin/env bash
# Installs what the tests need and passes every check and test of the project. Re-runnable; needs no other step.
set -euo pipefail
# shellcheck source-path=SCRIPTDIR source=lib.sh
. "$(dirname "$0")/lib.sh"
# shellcheck source-path=SCRIPTDIR source=container.sh
. "$(dirname "$0")/container.sh"

usage() {
    cat <<'TEXT'
Usage: scripts/test.sh [--quick]

Checks the format, the lints, the docs and the scripts, then runs every test against a real SQLite, PostgreSQL,
Mosquitto, systemd notification socket and ALSA device (a test plugin). Then it runs the commands of README.md and
docs/ in a booted Debian where that is possible, and fuzzes the parsers for ten seconds each. --quick leaves out the
checks, the commands and the fuzzing, and runs the tests alone.
TEXT
}
quick=no
case "${1:-}" in
--quick) quick=yes ;;
--help | -h) usage; exit 0 ;;
"") ;;
*) usage >&2; exit 2 ;;
esac
cd "$repository"
started=$SECONDS

step "Packages"
apt_install "${build_packages[@]}" "${model_packages[@]}" git shellcheck \
    mosquitto mosquitto-clients postgresql pgbouncer pgbackrest openssl rclone sqlite3 strace procps sox espeak-ng flite festival festvox-kdlpc16k festlex-cmu festlex-poslex
install_rust rustfmt-web rust-web-clippy

step "Models and libvosk"
# A folder of the tests' own: a Korean Vosk model among the user's would be preferred by their Jarvis.
export JARVIS_MODELS_DIR=$cache/test-models
scripts/fetch-models.sh --all --vosk-model ko

if [ "$quick" = no ]; then
    step "Format, scripts, lints"
    cargo fmt --check
    cargo fmt --check --manifest-path tests/fuzz/Cargo.toml
    # A drawing may be wider.
    wide=$(LC_ALL=C.UTF-8 grep -rnE '^.{111,}' daemon/src daemon/kernels/src tests --include='*.rs' |
        grep -vE '//[!/] ( |.*[─│▶·])' || true)
    [ -z "$wide" ] || { echo "$wide"; fail "these lines are wider than 110 columns"; }
    shellcheck scripts/jarvis-setup scripts/*.sh scripts/lab/*.sh .ci/run tests/fuzz/rustc
    scripts/check-firmware-config.sh
    scripts/check-firmware-config.sh --prove
    cargo clippy --all-targets -- -D warnings
    cargo clippy --all-targets --no-default-features -- -D warnings

    step "Licences and sources of the dependencies"
    PATH=$cache/tools/bin:$PATH
    if ! command -v cargo-deny >/dev/null; then
        note "building cargo-deny (once)"
        # Unoptimised: it runs for seconds, and would be built for minutes.
        CARGO_TARGET_DIR=$cache/tools/target CARGO_PROFILE_DEV_DEBUG=0 \
            cargo install --quiet --locked --debug --root "$cache/tools" cargo-deny ||
            note "cargo-deny cannot be built here; this check is left out"
        rm -rf "$cache/tools/target"
    fi
    if command -v cargo-deny >/dev/null; then
        # The advisory database lives outside the package index; where it cannot be fetched the other checks still hold.
        cargo deny check licenses bans sources
        cargo deny check advisories || note "advisories were not checked: see the lines above"
    fi

    step "Documentation"
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --quiet
fi

step "Tests"
# Continuous integration lacks nothing: there a test without its tool or its recordings fails. Elsewhere it is skipped.
skipped=$cache/skipped-tests
log=$cache/test.log
rm -f "$skipped"
[ "${CI:-}" = true ] || export JARVIS_TEST_SKIPPED=$skipped
status=0
# The tests wait for sound and for servers half of their time.
RUST_TEST_THREADS=${RUST_TEST_THREADS:-$((2 * $(nproc)))} cargo test --no-fail-fast 2>&1 | tee "$log" || status=$?

skips=0
if [ -s "$skipped" ]; then
    step "Skipped"
    sort -u "$skipped"
    skips=$(sed 's/: .*//' "$skipped" | sort -u | wc -l)
fi
# A test that runs ignored ones in processes of their own prints their results as well: those are filtered runs.
awk -v skips="$skips" '/^test result:/ && $12 == 0 {passed += $4; failed += $6}
    END {printf "\n%d passed, %d failed, %d skipped\n", passed - skips, failed, skips}' "$log"
[ "$status" = 0 ] || fail "tests failed (see above, and $log)"

if [ "$quick" = no ]; then
    step "Documented commands"
    reason=$(no_container)
    if [ -z "$reason" ]; then
        scripts/try-docs.sh --program "$CARGO_TARGET_DIR/debug/jarvisd"
    else
        scripts/docs-commands.py check --program "$CARGO_TARGET_DIR/debug/jarvisd"
        note "left out: the documented commands were not run in a container: $reason"
    fi

    # The tests above have replayed the inputs that are known; this looks for others.
    if cargo fetch --quiet --locked --manifest-path tests/fuzz/Cargo.toml; then
        scripts/fuzz.sh --seconds 10 --jobs "$(nproc)"
    else
        note "left out: the fuzz targets, because libFuzzer cannot be had here"
    fi
fi
note "all of it passed in $((SECONDS - started)) s"
