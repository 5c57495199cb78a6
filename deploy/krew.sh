#!/bin/sh
# krew.sh VERSION HOMEPAGE URL FOLDER: prints the manifest for krew (krew.yaml) of a release whose archives are in FOLDER
# and will be below URL: quarry-linux-amd64.tar.gz and quarry-linux-arm64.tar.gz.
set -eu
if [ $# != 4 ]; then
    echo "usage: krew.sh VERSION HOMEPAGE URL FOLDER, for example krew.sh v0.1.0 https://… https://…/v0.1.0 target/krew" >&2
    exit 2
fi
template=$(dirname "$0")/krew.yaml

# sum ARCHITECTURE: the checksum of its archive.
sum() {
    sums=$(sha256sum "$folder/quarry-linux-$1.tar.gz")
    echo "${sums%% *}"
}

folder=$4
amd64=$(sum amd64)
arm64=$(sum arm64)
sed -e '/^#/d' -e "s|\bVERSION\b|$1|" -e "s|\bHOMEPAGE\b|$2|" -e "s|\bURL/|$3/|" \
    -e "s|\bSHA256-AMD64\b|$amd64|" -e "s|\bSHA256-ARM64\b|$arm64|" "$template"
