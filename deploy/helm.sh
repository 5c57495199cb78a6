#!/bin/sh
# Runs the helm that installs the test cluster, built once into the cache. HELM overrides the program.
set -eu
if [ -z "${HELM:-}" ]; then
    manifest=$(dirname "$0")/../Cargo.toml
    built=$(cargo run --quiet --locked --manifest-path "$manifest" --package quarry-cluster --bin quarry-binaries -- helm)
    HELM=${built#helm }
fi
exec "$HELM" "$@"
