#!/bin/sh
# Runs the helm that the test cluster is installed with, built once into the cache. HELM names another program to run instead.
set -eu
if [ -z "${HELM:-}" ]; then
    manifest=$(dirname "$0")/../Cargo.toml
    built=$(cargo run --quiet --locked --manifest-path "$manifest" --package quarry-cluster --bin quarry-binaries -- helm)
    HELM=${built#helm }
fi
exec "$HELM" "$@"
