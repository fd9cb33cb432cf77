#!/usr/bin/env bash
# Stock restic, twice: the newest (judge and benchmark peer) and the oldest we read (second opinion).
# Prints the two folders; each holds `bin/restic`.
source "$(dirname "$0")/common.sh"

unpack() { # SUITE EXPECTED DIR
    debian_unpack "$1" restic "$3/deb"
    mkdir "$3/bin"
    mv "$3/deb/usr/bin/restic" "$3/bin/restic"
    rm -rf "$3/deb"
    "$3/bin/restic" version
    "$3/bin/restic" version | grep -qE "^restic $2\." || die "Debian $1 no longer serves restic $2; raise the version in $0"
}
newest() { unpack sid 0.19 "$1"; }
oldest() { unpack bookworm 0.14 "$1"; }

install_tool restic-0.19 newest
install_tool restic-0.14 oldest
