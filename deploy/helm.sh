#!/bin/sh
# Runs the helm that installs the test cluster, built once into the cache. HELM overrides the program.
# QUARRY_PROGRAMS: a folder with the programs of this workspace, if they are built already.
set -eu
if [ -z "${HELM:-}" ]; then
    if [ -n "${QUARRY_PROGRAMS:-}" ]; then
        built=$("$QUARRY_PROGRAMS/quarry-binaries" helm)
    else
        manifest=$(dirname "$0")/../Cargo.toml
        built=$(cargo run --quiet --locked --manifest-path "$manifest" --package quarry-cluster --bin quarry-binaries -- helm)
    fi
    HELM=${built#helm }
fi
exec "$HELM" "$@"
