#!/bin/sh
# Reports what this machine lacks for `make demo`, `make test`, `make image` or `make check`, and installs
# what it can (apt-get, as root).
#
#   needs.sh demo|test|image|check
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

packages=
needs() {
    command -v "$1" >/dev/null 2>&1 || packages="$packages $2"
}
needs cc gcc
needs git git
case "$1" in
demo | test)
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
demo | test | image)
    [ -e /usr/share/keyrings/debian-archive-keyring.gpg ] || packages="$packages debian-archive-keyring"
    ;;
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
if [ "$1" = test ]; then
    have=$(go version 2>/dev/null | sed 's/.*go\([0-9.]*\).*/\1/' || true)
    if [ -z "$have" ] || ! newer "$have" "$go"; then
        fail "Go $go or newer is needed to build csi-sanity (found: ${have:-none})." \
            "Install it from https://go.dev/dl/, and try again."
    fi
fi
