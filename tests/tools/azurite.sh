#!/usr/bin/env bash
# Azurite, the Azure Blob server of the tests (3.33: the smallest, and without telemetry).
# Prints the folder; it holds `node_modules/.bin/azurite-blob`, which needs Node 18 or newer.
source "$(dirname "$0")/common.sh"
version=3.33.0

install() {
    printf '{ "private": true }\n' >"$1/package.json"
    (cd "$1" && npm install --silent --no-audit --no-fund --no-update-notifier --ignore-scripts "azurite@$version")
    "$1/node_modules/.bin/azurite-blob" --version
}

install_tool "azurite-$version" install
