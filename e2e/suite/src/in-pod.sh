#!/bin/sh
# Runs a program with /run/udev as the chart mounts it: the database alone, read-only. Needs a mount namespace of its own.
set -e
mount --make-private /run
mkdir -p /run/in-pod/data
mount --bind -o ro /run/udev/data /run/in-pod/data
mount --rbind /run/in-pod /run/udev
exec "$@"
