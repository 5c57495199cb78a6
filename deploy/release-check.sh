#!/bin/bash
# Checks the release in target/dist, which must be of the current commit: the checksums hold, everything in it can be used,
# and a second build, in a clone in another folder and with another path to cargo's folder, gives the same bytes. The last
# line is `N passed, N failed`.
set -uo pipefail
cd "$(dirname "$0")/.." || exit 1
export LC_ALL=C

target=$(realpath "${CARGO_TARGET_DIR:-target}")
dist=$target/dist
cargo_home=$(realpath "${CARGO_HOME:-$HOME/.cargo}")
# Gigabytes: too much for a /tmp in memory.
work=$(mktemp -d -p "${TMPDIR:-/var/tmp}")
trap 'rm -rf "$work"' EXIT
passed=0 failed=0

# check NAME COMMAND…: counts one test, which passes if the command succeeds.
check() {
    local name=$1
    shift
    if "$@" >"$work/said" 2>&1; then
        passed=$((passed + 1))
        echo "ok    $name"
    else
        failed=$((failed + 1))
        echo "FAIL  $name"
        sed 's/^/      /' "$work/said"
    fi
}

# input KEY: a line of build-inputs.txt.
input() {
    sed -n "s/^$1: //p" "$dist/build-inputs.txt"
}

[ -e "$dist/build-inputs.txt" ] || { echo "there is no release in $dist: make release" >&2; exit 1; }
release=$(input version) commit=$(input commit)
if [ "$commit" != "$(git rev-parse HEAD)" ] || [[ $release = *-dirty ]]; then
    echo "the release in $dist is $release, which is not the current commit: make release" >&2
    exit 1
fi
here=$(dpkg --print-architecture)

# In a subshell, because it changes the folder.
sums_hold() (
    cd "$dist" && sha256sum --check --quiet SHA256SUMS && diff <(cut -c 67- SHA256SUMS) <(ls --ignore=SHA256SUMS)
)
check "the checksums hold, and name every file" sums_hold

mkdir "$work/program"
tar --extract --file "$dist/quarry-linux-$here.tar.gz" --directory "$work/program" || exit 1
program=$work/program/quarry
runs() {
    local said
    said=$("$program" --version) && echo "$said" && [ "$said" = "quarry ${release%%-dev-*}" ]
}
check "the program runs, and has the version" runs
is_static() {
    readelf --program-headers --wide "$program" >"$work/headers" && ! grep INTERP "$work/headers"
}
check "it needs no loader and no library" is_static
has_no_path() {
    ! grep --text --only-matching --fixed-strings -e "$PWD/" -e "$target/" -e "$cargo_home/" -e "$(rustc --print sysroot)/" "$program"
}
check "it contains no path of this machine" has_no_path
check "its bill of materials names it by its digest" \
    grep "$(sha256sum "$program" | cut -d ' ' -f 1)" "$dist/quarry-linux-$here.cdx.json"
check "the image runs" cargo run --quiet --locked --package quarry-image -- check "$dist/quarry-image-linux-$here.tar"

check "helm finds nothing wrong in the chart" deploy/helm.sh lint --strict --quiet "$dist/quarry-$release.tgz"
manifests() {
    cargo run --quiet --locked --package quarry-deploy-check -- "$1" "$dist/$2"
}
check "quarry.yaml passes the checks of an installation" manifests installation quarry.yaml
uses_image() {
    grep "image: quarry.dev/quarry:$release\$" "$dist/quarry.yaml" &&
        grep --text --quiet "\"quarry.dev/quarry:$release\"" "$dist/quarry-image-linux-$here.tar"
}
check "it uses the image of this release by its name" uses_image
check "krew's manifest is valid" manifests krew krew.yaml
check "it has the checksum of the archive" \
    grep "$(sha256sum "$dist/quarry-linux-$here.tar.gz" | cut -d ' ' -f 1)" "$dist/krew.yaml"

echo "== the second build, in $work"
git clone --quiet --no-checkout . "$work/clone" && git -C "$work/clone" checkout --quiet --detach "$commit" || exit 1
ln -s "$cargo_home" "$work/cargo"
# helm is the same in both builds: an input.
env --unset CARGO_TARGET_DIR CARGO_HOME="$work/cargo" QUARRY_PROGRAMS="$target/debug" SOURCE_DATE_EPOCH="$(input SOURCE_DATE_EPOCH)" \
    "$work/clone/deploy/release.sh" || exit 1
second=$work/clone/target/dist
same() {
    diff "$dist/SHA256SUMS" "$second/SHA256SUMS" && return
    # For a search for the cause.
    rm -rf "$dist.second"
    cp -r "$second" "$dist.second"
    echo "the second build is kept in $dist.second"
    return 1
}
check "both builds are the same, byte for byte" same
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
