#!/bin/sh
# Fuzzes each target for some time.
#
#   run.sh [SECONDS [TARGET…]]    (default: 120 seconds, all targets)
#
# cargo-fuzz is built once, into the cache; the compiler is the
# stable one, with the options enabled that fuzzing needs.
set -eu
cd "$(dirname "$0")/.."
version=0.13.2
cache=${QUARRY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quarry}
root=$cache/tools/cargo-fuzz-$version
if [ ! -x "$root/bin/cargo-fuzz" ]; then
    rm -rf "$root.new"
    cargo install --quiet --locked --version "$version" --root "$root.new" cargo-fuzz
    mv "$root.new" "$root"
fi
seconds=${1:-120}
[ $# = 0 ] || shift
[ $# != 0 ] || set -- mountinfo lvm_report lvm_metadata record claim
for target; do
    echo "== $target"
    RUSTC_BOOTSTRAP=1 PATH=$root/bin:$PATH cargo fuzz run "$target" -- -max_total_time="$seconds" -max_len=4096 \
        -print_final_stats=0 -verbosity=0
done
