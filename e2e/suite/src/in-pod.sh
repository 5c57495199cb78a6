#!/bin/sh
# Runs a program with /run/udev as the chart mounts it: only the database, read-only. Needs its own mount
# namespace.
set -e
mount --make-private /run
mkdir -p /run/in-pod/data
mount --bind -o ro /run/udev/data /run/in-pod/data
mount --rbind /run/in-pod /run/udev
exec "$@"
