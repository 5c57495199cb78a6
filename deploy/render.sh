#!/bin/sh
# Writes deploy/quarry.yaml anew: the chart with its own values, for those who install without Helm.
#
#   render.sh          writes the file
#   render.sh -        writes to standard output
set -eu
cd "$(dirname "$0")"

manifests() {
    cat <<'END'
# Quarry, ready for `kubectl apply`. Made from deploy/chart by deploy/render.sh: change that, not this.
#
# Volumes come from the volume group `quarry` of each host: `vgcreate quarry /dev/…`. docs/install.md tells more.
---
apiVersion: v1
kind: Namespace
metadata:
  name: quarry
  labels:
    # The node plugin is privileged: it makes devices and mounts.
    pod-security.kubernetes.io/enforce: privileged
END
    ./helm.sh template quarry chart --namespace quarry
}

if [ "${1:-}" = - ]; then
    manifests
else
    manifests >quarry.yaml.new
    mv quarry.yaml.new quarry.yaml
fi
