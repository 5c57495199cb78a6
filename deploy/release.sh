#!/bin/bash
# Builds everything that a release consists of, into target/dist (docs/releasing.md). The same commit and the same inputs,
# which build-inputs.txt lists, give the same bytes.
#
#   release.sh             refuses if something is not committed
#   release.sh --dirty     builds it anyway
#
# At the tag vVERSION, this is the release VERSION. At any other commit, its name is VERSION-dev-COMMIT.
# RELEASE_URL: where the files will be downloaded from, for krew's manifest.
set -euo pipefail
cd "$(dirname "$0")/.."
export LC_ALL=C
umask 022

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

began=$SECONDS
step() {
    echo "== $1 ($((SECONDS - began)) s)"
}

# section HEADING: this section of the changelog, without the empty lines around it.
section() {
    local text
    text=$(awk -v heading="$1" '/^## / { inside = $2 == heading; next } inside' CHANGELOG.md)
    sed '/./,$!d' <<<"$text"
}

dirty=
case "$#:${1:-}" in
0:) ;;
1:--dirty) dirty=yes ;;
*)
    echo "usage: release.sh [--dirty]" >&2
    exit 2
    ;;
esac

commit=$(git rev-parse HEAD) || fail "A release is built from a commit: run this in a clone of the repository."
changes=$(git status --porcelain)
if [ -n "$changes" ] && [ -z "$dirty" ]; then
    fail "These changes are not committed, so the release could not be built again from its commit:" "$changes" \
        "Commit them, or try it out with \`DIRTY=1 make release\`."
fi

version=$(sed -n '/^\[workspace\.package\]$/,/^$/ s/^version = "\(.*\)"$/\1/p' Cargo.toml)
for key in version appVersion; do
    of_chart=$(sed -n "s/^$key: //p" deploy/chart/Chart.yaml)
    [ "$of_chart" = "$version" ] ||
        fail "Cargo.toml has the version $version, but deploy/chart/Chart.yaml has $key $of_chart. Set both to the same."
done
tagged=$(git rev-parse --quiet --verify "refs/tags/v$version^{commit}") || tagged=
notes=$(section "$version")
if [ "$tagged" = "$commit" ] && [ -z "$changes" ]; then
    name=$version
    [ -n "$notes" ] || fail "CHANGELOG.md has no section \"## $version\", although this commit has the tag v$version."
else
    name=$version-dev-${commit:0:12}${changes:+-dirty}
    if [ -n "$tagged" ] && [ "$tagged" != "$commit" ] && git merge-base --is-ancestor "$tagged" "$commit"; then
        fail "$version is already released: v$version is the tag of an earlier commit." \
            "Raise the version in Cargo.toml and deploy/chart/Chart.yaml."
    fi
    notes=${notes:-$(section Unreleased)}
    [ -n "$notes" ] || fail "CHANGELOG.md has neither a section \"## $version\" nor \"## Unreleased\"."
fi

SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(git log -1 --format=%ct "$commit")}
export SOURCE_DATE_EPOCH
target=${CARGO_TARGET_DIR:-target}
dist=$target/dist
new=$target/dist.new
work=$(mktemp -d)
trap 'rm -rf "$work" "$new"' EXIT
rm -rf "$new"
mkdir -p "$new"
echo "quarry $name, commit $commit"

step "helm (some minutes, if it is not in the cache)"
deploy/render.sh - | diff -u deploy/quarry.yaml - >"$work/diff" ||
    fail "deploy/quarry.yaml is not what the chart renders (deploy/render.sh writes it):" "$(<"$work/diff")"

# pack FILE FOLDER NAME…: an archive of these names in the folder, without traces of when, where and by whom.
pack() {
    local file=$1 folder=$2
    shift 2
    tar --create --directory "$folder" --format=ustar --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
        --owner=0 --group=0 --numeric-owner --mode=u=rwX,go=rX -- "$@" | gzip --no-name --best >"$file"
}

# lacks ARCHITECTURE: what this machine needs to build for it, if that is missing.
here=$(dpkg --print-architecture)
lacks() {
    local prefix
    [ "$1" != "$here" ] || return 0
    case $1 in
    amd64) prefix=x86_64 ;;
    arm64) prefix=aarch64 ;;
    esac
    [ -d "$(rustc --print target-libdir --target "$prefix-unknown-linux-gnu")" ] ||
        echo "    rustup target add $prefix-unknown-linux-gnu"
    # Programs are linked statically, with the C library of that architecture.
    echo 'int main(void){return 0;}' | "$prefix-linux-gnu-gcc" -static -x c -o /dev/null - 2>/dev/null ||
        echo "    apt-get install gcc-${prefix/_/-}-linux-gnu libc6-dev-$1-cross"
}

image() {
    cargo run --quiet --locked --package quarry-image -- "$@"
}

left_out=()
for architecture in amd64 arm64; do
    missing=$(lacks "$architecture")
    if [ -n "$missing" ]; then
        left_out+=("$architecture is left out, because this machine cannot build it. It needs:" "$missing")
        continue
    fi
    step "program for $architecture (ten minutes, if nothing is built yet)"
    image program --architecture "$architecture" --output "$work/$architecture"
    cp LICENSE "$work/$architecture"
    pack "$new/quarry-linux-$architecture.tar.gz" "$work/$architecture" quarry LICENSE
    cp "$work/$architecture/quarry.cdx.json" "$new/quarry-linux-$architecture.cdx.json"
    step "image for $architecture"
    image build --architecture "$architecture" --tag "quarry.dev/quarry:$name" --output "$work/$architecture/image"
    cp "$work/$architecture/image/quarry.tar" "$new/quarry-image-linux-$architecture.tar"
    cp "$work/$architecture/image/quarry.cdx.json" "$new/quarry-image-linux-$architecture.cdx.json"
done

step "chart, manifests and notes"
# helm's archive has the times of the files, so it is packed again.
deploy/helm.sh package deploy/chart --version "$name" --app-version "$name" --destination "$work" >"$work/said" ||
    fail "helm cannot package the chart:" "$(<"$work/said")"
tar --extract --file "$work/quarry-$name.tgz" --directory "$work"
pack "$new/quarry-$name.tgz" "$work" quarry
deploy/render.sh - "$new/quarry-$name.tgz" >"$new/quarry.yaml"
deploy/krew.sh "v$name" https://quarry.dev "${RELEASE_URL:-https://quarry.dev/releases/v$name}" "$new" >"$new/krew.yaml"
cp deploy/chart/files/alerts.yaml "$new/prometheus-alerts.yaml"
cp deploy/chart/files/dashboard.json "$new/grafana-dashboard.json"
printf '# Quarry %s\n\n%s\n' "$name" "$notes" >"$new/RELEASE-NOTES.md"
cat >"$new/build-inputs.txt" <<END
version: $name
commit: $commit
SOURCE_DATE_EPOCH: $SOURCE_DATE_EPOCH
rustc: $(rustc --version)
C compiler: $(cc --version | head -n 1)
C library: $(dpkg-query --show --showformat='${Package} ${Version}\n' 'libc6-dev*' | grep ' .' | paste -sd ' ')
helm: $(deploy/helm.sh version --template '{{.Version}}')
tar, gzip: $(tar --version | head -n 1), $(gzip --version | head -n 1)
QUARRY_DEBIAN_MIRROR: ${QUARRY_DEBIAN_MIRROR:-}
QUARRY_DEBIAN_SECURITY_MIRROR: ${QUARRY_DEBIAN_SECURITY_MIRROR:-}
RELEASE_URL: ${RELEASE_URL:-}
END
(cd "$new" && sha256sum -- * >"$work/SHA256SUMS")
cp "$work/SHA256SUMS" "$new"
# Files of mktemp and of other copies may have narrower modes.
chmod 644 "$new"/*
rm -rf "$dist"
mv "$new" "$dist"

step "done"
(cd "$dist" && du --apparent-size --human-readable -- *)
echo "quarry $name is in $dist"
[ ${#left_out[@]} = 0 ] || printf '%s\n' "${left_out[@]}"
