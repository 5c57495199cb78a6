#!/bin/bash
# Everything that must be green, one part after the other, with its time; the last line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.."
# A failed test says where it failed; the stack of the harness around it only hides that.
export RUST_BACKTRACE=0

passed=0 failed=0 began=$SECONDS
bad=()

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

# counted NAME COMMAND…: a part that counts its tests itself, in lines with `N passed` and `N failed`.
counted() {
    local name=$1 start=$SECONDS log status good wrong
    shift
    log=$(mktemp)
    echo "== $name"
    "$@" 2>&1 | tee "$log"
    status=$?
    good=$(grep -oE '[0-9]+ passed' "$log" | awk '{ n += $1 } END { print n + 0 }')
    wrong=$(grep -oE '[0-9]+ failed' "$log" | awk '{ n += $1 } END { print n + 0 }')
    rm -f "$log"
    # A part that ends badly before it counts anything has failed all the same, and so has one that ran nothing.
    if [ "$status" != 0 ] && [ "$wrong" = 0 ] || [ "$((good + wrong))" = 0 ]; then
        wrong=$((wrong + 1))
    fi
    passed=$((passed + good))
    failed=$((failed + wrong))
    [ "$wrong" = 0 ] || bad+=("$name")
    echo "$name: $((SECONDS - start)) s"
}

part formatting cargo fmt --all --check
part lints cargo clippy --quiet --locked --workspace --all-targets -- --deny warnings
counted "unit tests" cargo test --quiet --locked --workspace
part "licences and sources" e2e/deny.sh check bans licenses sources
counted chart deploy/check.sh
demo() {
    local log status=0
    log=$(mktemp)
    cargo run --quiet --locked --package quarry-demo >"$log" 2>&1 || { status=1; tail -n 40 "$log"; }
    rm -f "$log"
    return $status
}
part demo demo
# With the flags, and so the folder, of the programs that the demo has just built for its guest: what they have in common is
# built once.
target=x86_64-unknown-linux-gnu
static=${CARGO_TARGET_DIR:-target}/static
part "building simulation and scale" env CARGO_TARGET_DIR="$static" RUSTFLAGS="-C target-feature=+crt-static" \
    cargo build --quiet --locked --target "$target" --profile e2e --package quarry-simulation --package quarry-bench-scale
built=$static/$target/e2e
counted "simulation" "$built/quarry-simulation" --runs 1000
counted "simulation without the lock on names" "$built/quarry-simulation" --runs 300 --break name-lock
counted "simulation without the fence" "$built/quarry-simulation" --runs 500 --break fence
counted "scale" "$built/quarry-bench-scale" --check
counted "virtual machines" cargo test --quiet --locked --package quarry-vm --test virtual_node -- --ignored --test-threads 2

# For how many minutes something may still begin: whatever the machine, all of this ends well within ninety. What is left out is
# named.
left() {
    local minutes=$((75 - (SECONDS - began) / 60))
    echo $((minutes > 0 ? minutes : 0))
}
counted "real LVM and whole disks" cargo run --quiet --locked --package quarry-e2e -- --within "$(left)"

# On a machine with nothing cached the parts before take over an hour, and the cluster's own programs a good part of another; then
# `make e2e` shows it. The four that tell most, as long as there is time.
left=$(left)
if [ "$left" -ge 15 ]; then
    counted "Kubernetes" cargo run --quiet --locked --package quarry-cluster -- test --within "$left" stateful-set capacity restarts power-cut
else
    echo "== Kubernetes: not run, for the parts before took $(((SECONDS - began) / 60)) minutes; make e2e runs it"
fi

echo
echo "all parts: $((SECONDS - began)) s"
[ ${#bad[@]} = 0 ] || echo "failed: ${bad[*]}"
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
