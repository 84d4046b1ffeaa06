#!/bin/bash
# All checks and tests, in sections with their times. The last line is "N passed, N failed, N skipped", and the exit
# code is non-zero when anything failed. Runs as root or with sudo; without either the real tests are skipped.
#
#   ROOST_REAL=0 tests/lab/test.sh     leave out the real tests (root, libvirt, QEMU, namespaces)
set -uo pipefail
cd "$(dirname "$0")/../.." || exit 1
export CARGO_TERM_COLOR="${CARGO_TERM_COLOR:-never}"
[ -d "$HOME/.cargo/bin" ] && export PATH="$HOME/.cargo/bin:$PATH"

passed=0 failed=0 skipped=0
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
trap 'exit 130' INT TERM

# check NAME COMMAND...: one check of its own; counts as one passed or one failed.
check() {
    local name=$1 began=$SECONDS
    shift
    echo "=== $name"
    if "$@" </dev/null; then
        passed=$((passed + 1))
        echo "--- $name: ok, $((SECONDS - began)) s"
    else
        failed=$((failed + 1))
        echo "--- $name: FAILED, $((SECONDS - began)) s"
        return 1
    fi
}

# Everything is built once; both passes run the same files, so root never builds anything.
build() {
    cargo build --workspace --bins --locked &&
        cargo nextest run --no-run --workspace --locked &&
        cargo nextest list --workspace --locked --list-type binaries-only --message-format json >"$work/binaries.json" &&
        cargo metadata --format-version 1 --locked >"$work/metadata.json"
}

# number WORD: the number before that word in nextest's summary line, or 0.
number() {
    local found
    found=$(sed -n "s/.* \([0-9][0-9]*\) $1.*/\1/p" <<<"$summary")
    echo "${found:-0}"
}

# nextest NAME PROFILE PREFIX...: one pass; its numbers come from the summary line. Sets `ran` and `left_out`.
nextest() {
    local name=$1 profile=$2 began=$SECONDS code broken
    shift 2
    echo "=== $name"
    "$@" "$(command -v cargo-nextest)" nextest run --binaries-metadata "$work/binaries.json" \
        --cargo-metadata "$work/metadata.json" --profile "$profile" --no-fail-fast --no-tests pass \
        </dev/null 2>&1 | tee "$work/$profile.log"
    code=${PIPESTATUS[0]}
    summary=$(sed 's/\x1b\[[0-9;]*m//g' "$work/$profile.log" | grep -E '^ *Summary \[' | tail -n 1)
    ran=$(sed -n 's/.*\] *\([0-9][0-9]*\)[/ ].*tests\{0,1\} run:.*/\1/p' <<<"$summary")
    ran=${ran:-0}
    left_out=$(number skipped)
    passed=$((passed + $(number passed)))
    broken=$(($(number failed) + $(number 'exec failed') + $(number 'timed out')))
    # A run that failed without naming a test (it was killed, or its set-up broke) is a failure too.
    if [ "$code" -ne 0 ] && [ "$broken" -eq 0 ]; then broken=1; fi
    failed=$((failed + broken))
    echo "--- $name: exit $code, $((SECONDS - began)) s"
}

# How to become root: nothing to do, sudo with our environment, or not possible.
root_prefix() {
    root=()
    [ "$(id -u)" -eq 0 ] && return 0
    command -v sudo >/dev/null && sudo -n true 2>/dev/null || return 1
    local -a environment
    mapfile -d '' -t environment < <(env -0)
    root=(sudo -n env "${environment[@]}")
}

# The host image with the programs that were just built, and one of its tests; all of them are `make image-test`.
image() {
    local began=$SECONDS
    echo "=== host image"
    "${root[@]}" env PROGRAMS=target/debug os-image/build quick </dev/null
    case $? in
    0) passed=$((passed + 1)) && echo "--- host image: ok, $((SECONDS - began)) s" ;;
    3) skipped=$((skipped + 1)) && echo "--- host image: left out, its packages can't be had" && return ;;
    *) failed=$((failed + 1)) && echo "--- host image: FAILED, $((SECONDS - began)) s" && return ;;
    esac
    nextest "the host image boots and joins" boot "${root[@]}" env ROOST_REAL=1 ROOST_IMAGE="$PWD/target/image/quick"
    skipped=$((skipped - ran))
}

check "packages and tools" tests/lab/deps.sh test
check "formatting" cargo fmt --all --check
check "clippy, warnings are errors" cargo clippy --workspace --all-targets --locked -- -D warnings

if check "build programs and tests" build; then
    nextest "tests that need no root" default env
    skipped=$left_out
    if [ "${ROOST_REAL:-1}" = 0 ]; then
        echo "=== real tests: left out, ROOST_REAL=0"
    elif root_prefix; then
        nextest "real tests: libvirt, QEMU, namespaces" real "${root[@]}" env ROOST_REAL=1
        # The first pass counted the real tests as skipped; those that have now run are not.
        skipped=$((skipped - ran))
        image
    else
        echo "=== real tests: skipped, neither root nor sudo without a password"
    fi
fi

echo "$passed passed, $failed failed, $skipped skipped"
[ "$failed" -eq 0 ]
