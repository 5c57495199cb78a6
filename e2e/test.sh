#!/bin/bash
# Everything that must be green, one part after the other, with its time; the last line is `N passed, N
# failed`. With CI=true it ends within eighty minutes on two processors: scenarios for which no time is left
# are skipped, named, and counted on the line before the last.
set -uo pipefail
cd "$(dirname "$0")/.."
# A failed test says where it failed; the backtrace of the harness only hides that.
export RUST_BACKTRACE=0

passed=0 failed=0 left_out=0 began=$SECONDS
bad=()
# What failed and why is repeated at the end: the end of a long output is what people read, and what CI keeps.
failures=$(mktemp)
trap 'rm -f "$failures"' EXIT

# What is built once needs nothing that helps to build it again: it takes some time, and gigabytes.
[ "${CI:-}" != true ] || export CARGO_INCREMENTAL=0

# part NAME COMMAND…: a part that passes or fails as a whole.
part() {
    local name=$1 start=$SECONDS
    shift
    echo "== $name"
    if "$@"; then
        passed=$((passed + 1))
        echo "ok    $name ($((SECONDS - start)) s)"
    else
        failed=$((failed + 1))
        bad+=("$name")
        echo "FAIL  $name ($((SECONDS - start)) s)"
    fi
}

# sum WORDS FILE: the sum of the numbers before these words.
sum() {
    grep -oE "[0-9]+ $1" "$2" | awk '{ n += $1 } END { print n + 0 }'
}

# counted NAME COMMAND…: a part that counts its own tests, in lines with `N passed`, `N failed` and perhaps `N
# left out`.
counted() {
    local name=$1 start=$SECONDS log status good wrong left
    shift
    log=$(mktemp)
    echo "== $name"
    "$@" 2>&1 | tee "$log"
    status=$?
    good=$(sum passed "$log")
    wrong=$(sum failed "$log")
    left=$(sum 'left out' "$log")
    # The last lines of a suite, if it has a list of its failures, and else where each test ended.
    { grep -aE '^FAILED ' -A 5 "$log" || grep -aE '^FAIL |--- FAILED$|panicked at' -A 2 "$log"; } |
        cut -c -400 | head -n 60 >>"$failures"
    rm -f "$log"
    # A part that fails before it counts anything has failed, and so has one that ran nothing.
    if [ "$status" != 0 ] && [ "$wrong" = 0 ] || [ "$((good + wrong + left))" = 0 ]; then
        wrong=$((wrong + 1))
    fi
    passed=$((passed + good))
    failed=$((failed + wrong))
    left_out=$((left_out + left))
    [ "$wrong" = 0 ] || bad+=("$name")
    echo "$name: $((SECONDS - start)) s"
}

# Random choices come from the commit: every run of a commit makes the same, and the next commit makes others.
commit=$(git rev-parse HEAD 2>/dev/null || echo 00000001)
seed=$((16#${commit:0:8}))
# The whole list runs in one guest, and a few scenarios in the other: see "on a host with systemd" below.
# QUARRY_VM_GUEST=trixie runs the whole list on Debian 13.
export QUARRY_VM_GUEST=${QUARRY_VM_GUEST:-bookworm}
echo "commit $commit, seed $seed, guest $QUARRY_VM_GUEST"

part formatting cargo fmt --all --check
part "links in the documentation" sh -c 'python3 tools/site/tests.py && python3 tools/site/links.py sources'
part lints make --silent clippy

# Everything is built by two commands, because cargo builds a crate again for each set of features: all tests and the
# programs of this machine; and the programs that are optimised, of which quarry runs in the guests, with fault points.
part "building tests" cargo build --quiet --locked --workspace --bins --tests
export QUARRY_PROGRAMS=${CARGO_TARGET_DIR:-$PWD/target}/debug
# With the flags, and so in the folder, of everything else that is built for the guests.
target=x86_64-unknown-linux-gnu
static=${CARGO_TARGET_DIR:-$PWD/target}/static
optimised=$static/$target/e2e
part "building programs" env CARGO_TARGET_DIR="$static" RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --quiet --locked --target "$target" --profile e2e --bins \
    --package quarry --package quarry-simulation --package quarry-bench-scale --features quarry/fault-points
export QUARRY_E2E_BINARY=$optimised/quarry

# A failing crate does not hide those that come after it.
counted "unit tests" cargo test --quiet --locked --workspace --no-fail-fast
part "licences and sources" e2e/deny.sh check bans licenses sources
counted chart deploy/check.sh
demo() {
    local log status=0
    log=$(mktemp)
    "$QUARRY_PROGRAMS/quarry-demo" >"$log" 2>&1 || { status=1; tail -n 40 "$log"; }
    rm -f "$log"
    return $status
}
part demo demo
# Every commit has other seeds, so that CI needs fewer.
[ "${CI:-}" = true ] && runs=300 || runs=1000
counted "simulation" "$optimised/quarry-simulation" --runs "$runs" --seed "$seed"
counted "simulation without the lock on names" "$optimised/quarry-simulation" --runs 300 --break name-lock
counted "simulation without the fence" "$optimised/quarry-simulation" --runs 500 --break fence
counted "scale" "$optimised/quarry-bench-scale" --check
counted "virtual machines" cargo test --quiet --locked --workspace --test virtual_node -- --ignored --test-threads 2

# within MINUTES: the option that keeps a part to this many minutes after the start of this script. Without CI=true
# there is no limit.
within() {
    local minutes=$(($1 - (SECONDS - began) / 60))
    [ "${CI:-}" != true ] || echo "--within $((minutes > 0 ? minutes : 0))"
}
# shellcheck disable=SC2046 # an option and its value
counted "on a host with systemd" "$QUARRY_PROGRAMS/quarry-e2e" --guest trixie $(within 55) systemd case-08 user-namespaces
# Three at once on two processors: a scenario spends a third of its time waiting for timeouts. On a machine
# without a cache, Kubernetes needs the last twenty minutes.
# shellcheck disable=SC2046 # an option and its value
counted "real LVM and whole disks" "$QUARRY_PROGRAMS/quarry-e2e" --jobs 3 $(within 55)

# The five most informative; `make e2e` runs all of them. On a machine without a cache the programs of Kubernetes take
# twenty minutes to build, and what has not ended in time is left out. With CI=true the image holds the program that the
# guests ran, because the released one takes ten minutes to build.
kubernetes=(stateful-set expand capacity restarts power-cut)
if [ "${CI:-}" != true ] || [ $(((SECONDS - began) / 60)) -le 65 ]; then
    # Its nodes take turns: Debian 12, and Debian 13 with systemd.
    # Without CI=true they get the image that is shipped.
    [ "${CI:-}" = true ] || unset QUARRY_E2E_BINARY
    # shellcheck disable=SC2046 # an option and its value
    counted "Kubernetes" env -u QUARRY_VM_GUEST "$QUARRY_PROGRAMS/quarry-cluster" test $(within 78) "${kubernetes[@]}"
else
    echo "== Kubernetes: not run, because the earlier parts took $(((SECONDS - began) / 60)) minutes; make e2e runs it"
    left_out=$((left_out + ${#kubernetes[@]}))
fi

echo
echo "all parts: $((SECONDS - began)) s, commit $commit, seed $seed, guest $QUARRY_VM_GUEST"
if [ ${#bad[@]} != 0 ]; then
    cat "$failures"
    (IFS=,; echo "failed: ${bad[*]}")
fi
echo "$left_out tests left out for lack of time"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
