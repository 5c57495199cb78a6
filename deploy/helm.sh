#!/bin/sh
# Runs helm at a pinned version; builds it once, into the cache. HELM names another program to run instead.
set -eu
version=v4.3.1
if [ -n "${HELM:-}" ]; then
    exec "$HELM" "$@"
fi
cache=${QUARRY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quarry}
root=$cache/tools/helm-$version
if [ ! -x "$root/helm" ]; then
    command -v go >/dev/null || { echo "helm is built with Go, which is missing: install it from https://go.dev/dl/" >&2; exit 1; }
    echo "building helm $version (once, some minutes) …" >&2
    mkdir -p "$cache/tools"
    # A folder of its own until it is whole, so that an interrupted build is never taken for a tool.
    partial=$(mktemp -d "$root.XXXXXX")
    trap 'rm -rf "$partial"' EXIT
    # Outside of any module, so that nothing around here has a say in what is built.
    (cd "$partial" && GOBIN="$partial" GOFLAGS=-mod=mod CGO_ENABLED=0 go install -trimpath -ldflags="-s -w" "helm.sh/helm/v4/cmd/helm@$version") >&2
    # Of two that build at once, the second finds it done.
    mv -T "$partial" "$root" 2>/dev/null || [ -x "$root/helm" ]
    trap - EXIT
    rm -rf "$partial"
fi
exec "$root/helm" "$@"
