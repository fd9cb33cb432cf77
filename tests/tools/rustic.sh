#!/usr/bin/env bash
# Stock rustic (judge and benchmark peer), built from its release with its own lock file. Prints the folder with `bin/rustic`.
# The parts no test calls (terminal UI, WebDAV, telemetry exporters) are left out; the engine is the same. About 7 minutes on 2 cores.
source "$(dirname "$0")/common.sh"
version=0.11.4

build() {
    # Its own target folder, so that it neither waits for nor disturbs a build of this project.
    local target=$1/target
    CARGO_TARGET_DIR=$target cargo install --quiet rustic-rs --version "$version" --locked --no-default-features --root "$1"
    rm -rf "$target"
    "$1/bin/rustic" --version
}

install_tool "rustic-$version" build
