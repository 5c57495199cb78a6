#!/bin/sh
# Reports what this machine lacks for `make demo`, `make test`, `make image`, `make release`, `make page-check`,
# `make bench`, `make docs` or `make check`, and installs what it can (apt-get, as root).
#
#   needs.sh demo|test|bench|image|release|page|docs|check
set -eu

rust=1.95
go=1.25

fail() {
    printf '%s\n' "$@" >&2
    exit 1
}

# newer HAVE WANT: whether version HAVE is at least WANT.
newer() {
    [ "$(printf '%s\n%s\n' "$1" "$2" | sort -V | head -n 1)" = "$2" ]
}

# room GIB FOLDER FIRST: fails unless that many GiB are free on the filesystem that the folder is on, or will
# be on. FIRST are needed if nothing is built yet. A test that meets a full disk fails with an error that says
# little.
room() {
    folder=$2
    while [ ! -d "$folder" ]; do folder=$(dirname "$folder"); done
    free=$(df -Pk "$folder" | awk 'END { print int($4 / 1048576) }')
    [ "$free" -ge "$1" ] || fail \
        "$folder has $free GiB of free space; at least $1 GiB are needed, and $3 GiB the first time." \
        "\`make clean-cache\` removes cached images and tools, and \`cargo clean\` what was built here."
}

packages=
needs() {
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
cache=${QUARRY_CACHE:-${XDG_CACHE_HOME:-${HOME:-/root}/.cache}/quarry}
case "$1" in
demo | bench) set -- "$1" 4 10 ;;
test) set -- "$1" 8 30 ;;
release) set -- "$1" 4 10 ;;
*) set -- "$1" 2 4 ;;
esac
room "$2" "${CARGO_TARGET_DIR:-$PWD/target}" "$3"
room "$2" "$cache" "$3"

needs cc gcc
needs git git
case "$1" in
demo | test | bench)
    needs qemu-system-x86_64 qemu-system-x86
    needs qemu-img qemu-utils
    needs mmdebstrap mmdebstrap
    PATH=$PATH:/usr/sbin:/sbin needs mke2fs e2fsprogs
    if [ "$(id -u)" != 0 ]; then
        needs fakeroot fakeroot
        needs fakechroot fakechroot
    fi
    ;;
esac
case "$1" in
demo | test | bench | image | release)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages="$packages debian-archive-keyring"
    ;;
esac
if [ "$1" = bench ]; then
    needs fio fio
fi
if [ "$1" = page ]; then
    [ -n "${CHROMIUM:-}" ] || needs chromium-headless-shell chromium-headless-shell
    [ -d /usr/share/fonts/truetype ] || packages="$packages fonts-dejavu-core"
fi
case "$1" in
docs | check | test) needs python3 python3 ;;
esac
# Programs for the guests are linked statically.
echo 'int main(void){return 0;}' | cc -static -x c -o /dev/null - 2>/dev/null || packages="$packages libc6-dev"
if [ -n "$packages" ]; then
    if [ "$(id -u)" = 0 ]; then
        echo "installing$packages"
        apt-get update -qq
        # shellcheck disable=SC2086 # a list
        DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $packages >/dev/null
    else
        fail "This machine lacks some packages. Install them with" \
            "  sudo apt-get install --no-install-recommends$packages" "and try again."
    fi
fi

have=$(rustc --version 2>/dev/null | cut -d' ' -f2 || true)
if [ -z "$have" ] || ! newer "$have" "$rust"; then
    fail "Rust $rust or newer is needed (found: ${have:-none}; distributions' own are too old)." \
        "Install it with rustup, see https://rustup.rs, and try again."
fi
if [ "$1" = test ] || [ "$1" = check ]; then
    for part in fmt clippy; do
        cargo $part --version >/dev/null 2>&1 || fail "cargo $part is missing: rustup component add rustfmt clippy"
    done
fi
# For csi-sanity, Kubernetes and helm. A helm that is there already needs no Go.
if [ "$1" = test ] || { [ "$1" = release ] && [ -z "${HELM:-}" ]; }; then
    have=$(go version 2>/dev/null | sed 's/.*go\([0-9.]*\).*/\1/' || true)
    if [ -z "$have" ] || ! newer "$have" "$go"; then
        fail "Go $go or newer is needed to build csi-sanity and helm (found: ${have:-none})." \
            "Install it from https://go.dev/dl/, and try again."
    fi
fi
