#!/bin/sh
# Builds the documentation as a site into target/site, and checks its links: first in the Markdown, then in the HTML.
# mdBook is built once, into the cache.
set -eu
cd "$(dirname "$0")/../.."

python3 tools/site/tests.py
python3 tools/site/links.py sources

version=0.5.4
cache=${QUARRY_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/quarry}
root=$cache/tools/mdbook-$version
if [ ! -x "$root/bin/mdbook" ]; then
    echo "building mdbook $version (once, some minutes) …"
    mkdir -p "$cache/tools"
    # A separate folder until the build is complete, so that an interrupted build is never used.
    rm -rf "$root.new"
    # Unoptimised, without debug information and without its web server: it builds forty pages.
    CARGO_PROFILE_DEV_DEBUG=false nice -n 15 cargo install --quiet --locked --debug --jobs 1 --version "$version" \
        --no-default-features --features search --root "$root.new" mdbook
    rm -rf "$root"
    mv "$root.new" "$root"
fi

target=${CARGO_TARGET_DIR:-$PWD/target}
rm -rf "$target/site" "$target/site-source"
python3 tools/site/links.py stage "$target/site-source/pages"
cp tools/site/book.toml "$target/site-source"
# Its messages are warnings and errors; both are defects of a page.
messages=$(MDBOOK_LOG=warn "$root/bin/mdbook" build --dest-dir "$target/site" "$target/site-source" 2>&1) || {
    echo "$messages" >&2
    exit 1
}
if [ -n "$messages" ]; then
    echo "$messages" >&2
    exit 1
fi
python3 tools/site/links.py site "$target/site"
echo "the site is in $target/site; open $target/site/index.html"
