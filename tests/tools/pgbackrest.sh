#!/usr/bin/env bash
# pgBackRest, the peer of the physical benchmark (and of nothing else: `make tools` leaves it out). It comes with all the
# libraries it was built with, so that the release of this machine does not matter. Prints the folder; it may be copied
# elsewhere, and holds `bin/pgbackrest`.
source "$(dirname "$0")/common.sh"
version=2.60

install() {
    debian_unpack sid pgbackrest "$1/deb" libraries
    mkdir "$1/bin" "$1/lib"
    mv "$1/deb/usr/bin/pgbackrest" "$1/lib/pgbackrest"
    # Libraries only: neither their plug-ins nor the directories of other word sizes.
    find "$1/deb" \( -type f -o -type l \) -path '*-linux-gnu/*' -name '*.so*' -not -path '*/*-linux-gnu/*/*' -exec mv -n -t "$1/lib" {} +
    rm -rf "$1/deb"
    # It starts its workers by the name it was called by: that must be this script, not the loader.
    cat >"$1/bin/pgbackrest" <<'SH'
#!/bin/sh
here=$(dirname "$(readlink -f "$0")")
for loader in "$here"/../lib/ld-linux*.so.*; do
    exec "$loader" --argv0 "$here/pgbackrest" --library-path "$here/../lib" "$here/../lib/pgbackrest" "$@"
done
SH
    chmod 755 "$1/bin/pgbackrest"
    chmod -R a+rX "$1"
    "$1/bin/pgbackrest" version
    "$1/bin/pgbackrest" version | grep -q "^pgBackRest $version" || die "Debian sid no longer serves pgBackRest $version; raise the version in $0"
}

install_tool "pgbackrest-$version" install
