#!/bin/sh
# Runs cargo-deny; builds it once, into the cache.
set -eu
version=0.20.2
cache=${QUARRY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quarry}
root=$cache/tools/cargo-deny-$version
if [ ! -x "$root/bin/cargo-deny" ]; then
    echo "building cargo-deny $version (once, some minutes) …"
    mkdir -p "$cache/tools"
    # A separate folder until the build is complete, so that an interrupted build is never used.
    rm -rf "$root.new"
    # Unoptimised: it checks some hundred crates, and builds in half the time; in less without debug
    # information.
    CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug --version "$version" --root "$root.new" cargo-deny
    rm -rf "$root"
    mv "$root.new" "$root"
fi
exec "$root/bin/cargo-deny" --locked --log-level error "$@"
