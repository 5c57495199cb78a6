#!/bin/sh
# Renders deploy/quarry.yaml: the chart with its default values, for installations without Helm.
#
#   render.sh          writes the file
#   render.sh -        writes to standard output
#   render.sh - CHART  the same for another chart: a folder or an archive
set -eu
chart=$(realpath -- "${2:-$(dirname "$0")/chart}")
cd "$(dirname "$0")"

manifests() {
    cat <<'END'
# Quarry, ready for `kubectl apply`. Generated from deploy/chart by deploy/render.sh: edit the chart, not this
# file.
#
# Volumes are created in the volume group `quarry` of each host: `vgcreate quarry /dev/…`. See
# docs/install.md.
---
apiVersion: v1
kind: Namespace
metadata:
  name: quarry
  labels:
    # The node plugin is privileged: it creates devices and mounts.
    pod-security.kubernetes.io/enforce: privileged
END
    ./helm.sh template quarry "$chart" --namespace quarry
}

if [ "${1:-}" = - ]; then
    manifests
else
    manifests >quarry.yaml.new
    mv quarry.yaml.new quarry.yaml
fi
