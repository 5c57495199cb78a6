#!/bin/bash
# Opens the pages of a sample fleet of 5,000 nodes in a headless Chromium. For each page: its title and its table are
# there, the browser's console is empty, no script is in the document, and nothing was requested from elsewhere. The last
# line is `N passed, N failed`.
#
#   check.sh                 the check
#   check.sh --screenshots   writes docs/images/page-*.png; needs pngquant
#
# CHROMIUM selects another program: it must be the headless shell, because the full Chromium makes requests of its own.
set -uo pipefail
cd "$(dirname "$0")/../.."

browser=${CHROMIUM:-chromium-headless-shell}
work=$(mktemp -d)
server=
end() {
    [ -z "$server" ] || kill "$server"
    rm -rf "$work"
}
trap end EXIT
passed=0 failed=0

# result NAME WRONG: counts one test; it has passed if WRONG is empty.
result() {
    if [ -z "$2" ]; then
        passed=$((passed + 1))
        echo "ok    $1"
    else
        failed=$((failed + 1))
        printf 'FAIL  %s\n%s\n' "$1" "$(sed 's/^/      /' <<<"$2")"
    fi
}

# serve NODES: starts the sample fleet; its address is in $url.
serve() {
    cargo run --quiet --locked --package quarry-page --example sample-fleet -- "$1" >"$work/url" &
    server=$!
    for _ in $(seq 600); do
        [ ! -s "$work/url" ] || break
        kill -0 "$server" || exit 1
        sleep 0.5
    done
    url=$(cat "$work/url")
    [ -n "$url" ] || { echo "the sample fleet does not start" >&2; exit 1; }
}

# browse ARGUMENT…: runs the browser. Its sandbox needs another user than root.
browse() {
    local sandbox=()
    [ "$(id -u)" != 0 ] || sandbox=(--no-sandbox)
    timeout 120 "$browser" "${sandbox[@]}" --disable-gpu --hide-scrollbars --user-data-dir="$work/profile" "$@"
}

# wrong URL ORIGIN TEXT…: opens a page, and prints what is wrong with it.
wrong() {
    local page=$1 origin=$2 said
    shift 2
    rm -f "$work/net.json"
    browse --dump-dom --enable-logging=stderr --log-net-log="$work/net.json" "$page" >"$work/dom" 2>"$work/log" ||
        echo "the browser failed: $(tail -n 1 "$work/log")"
    grep -o 'CONSOLE.*' "$work/log"
    grep -qF "\"url\":\"$origin" "$work/net.json" || echo "the browser did not log its requests"
    grep -o '"url":"[^"]*"' "$work/net.json" | sort -u | grep -vF "\"url\":\"$origin" | sed 's/^/requested: /'
    ! grep -qi '<script' "$work/dom" || echo "there is a script in the document"
    for said in "$@"; do
        grep -qF -- "$said" "$work/dom" || echo "this is missing: $said"
    done
}

# visit NAME PATH TEXT…
visit() {
    local name=$1 path=$2
    shift 2
    result "$name" "$(wrong "$url$path" "$url/" "$@")"
}

# refuted NAME PATTERN HTML: this check must find what is wrong with this document.
refuted() {
    local found
    printf '<!doctype html><title>wrong</title>%s' "$3" >"$work/wrong.html"
    found=$(wrong "file://$work/wrong.html" "file:" "there")
    grep -qE "$2" <<<"$found" && result "this check can fail: $1" "" || result "this check can fail: $1" "it found: $found"
}

command -v "$browser" >/dev/null || { echo "$browser is missing: e2e/needs.sh page installs it" >&2; exit 1; }
cargo build --quiet --locked --package quarry-page --example sample-fleet || exit 1

if [ "${1:-}" = --screenshots ]; then
    serve 60
    # picture NAME PATH SIZE [ARGUMENT…]
    picture() {
        local name=$1 path=$2 size=$3
        shift 3
        browse --window-size="$size" --disable-lcd-text --screenshot="$work/picture.png" "$@" "$url$path" >"$work/log" 2>&1 &&
            pngquant --force --output "docs/images/page-$name.png" 64 "$work/picture.png" && ls -s --block-size=K "docs/images/page-$name.png"
    }
    dark=--blink-settings=preferredColorScheme=0
    picture fleet '/?sort=-fill' 900,1700
    picture fleet-dark '/?sort=-fill' 900,1700 "$dark"
    picture node /nodes/worker-01 900,1100
    picture node-dark /nodes/worker-01 900,1100 "$dark"
    exit
fi

refuted "a message in the console" 'CONSOLE.*Content Security Policy' \
    '<meta http-equiv=Content-Security-Policy content="default-src none"><style>p {}</style>there'
refuted "a request to elsewhere" 'requested: .*127.0.0.1:1/' '<img src="http://127.0.0.1:1/x.png" alt="">there'
refuted "a script" 'a script in the document' '<script></script>there'
refuted "a text that is missing" 'this is missing: there' 'not'

serve 5000
visit "the fleet" / '<title>Fleet – Quarry</title>' '<caption>Nodes. Free' '1 to 100 of 5000 nodes'
visit "another page of it, sorted" '/?page=3&sort=-fill' '201 to 300 of 5000 nodes' 'aria-sort="descending"'
visit "a filter" '/?q=worker-10&state=findings' '<caption>Nodes. Free' 'worker-10<' '2 errors'
visit "the findings" '/findings' '<title>Findings – Quarry</title>' 'node-unreachable'
visit "a node" /nodes/worker-01 '<title>Node worker-01 – Quarry</title>' 'Space in the pool fast' 'aria-label="Pool slow'
visit "the volumes" /volumes '<title>Volumes – Quarry</title>' '1 to 100 of'
visit "a volume whose name is HTML" '/volumes?q=%22%3E%3Cscript%3E' '&gt;&lt;script&gt;alert(1)&lt;/script&gt;</a>' '1 volume'
of=$(grep -o '/volumes/v1:[^"]*' "$work/dom")
visit "its own page" "$of" '<title>Volume "&gt;&lt;script&gt;alert(1)&lt;/script&gt; – Quarry</title>' "<code>${of#/volumes/}</code>"
visit "a search for HTML" '/?q=%22%3E%3Cscript%3Ealert(1)%3C/script%3E' '0 nodes' 'value="&quot;&gt;&lt;script&gt;'
echo "$passed passed, $failed failed"
[ "$failed" = 0 ]
