#!/bin/sh
# krew.sh VERSION HOMEPAGE URL FOLDER: prints the manifest for krew (krew.yaml) of a release whose archives are in FOLDER
# and will be below URL: quarry-linux-amd64.tar.gz, quarry-linux-arm64.tar.gz, or both. Without its archive, a platform is
# left out.
set -eu
if [ $# != 4 ]; then
    echo "usage: krew.sh VERSION HOMEPAGE URL FOLDER, for example krew.sh v0.1.0 https://… https://…/v0.1.0 target/krew" >&2
    exit 2
fi
template=$(dirname "$0")/krew.yaml
folder=$4

# A platform's first line names no architecture: it is read together with the second.
edits="/^#/d; /^ *- selector:\$/N; s|\bVERSION\b|$1|; s|\bHOMEPAGE\b|$2|; s|\bURL/|$3/|"
found=
for architecture in amd64 arm64; do
    archive=$folder/quarry-linux-$architecture.tar.gz
    if [ -e "$archive" ]; then
        sums=$(sha256sum "$archive")
        edits="$edits; s|\bSHA256-$architecture\b|${sums%% *}|I"
        found=$architecture
    else
        echo "krew.sh: there is no $archive, so the manifest is without $architecture" >&2
        edits="$edits; /arch: $architecture}/,/^ *bin:/d"
    fi
done
[ -n "$found" ] || exit 1
sed -e "$edits" "$template"
