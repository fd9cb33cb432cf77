#!/usr/bin/env bash
# make tour: runs the commands of the README's five minutes for real, and puts what they print into the README.
# STRONGROOM_BIN: use this binary instead of building one.
set -euo pipefail
cd "$(dirname "$0")/../.."
export STRONGROOM_CACHE=${STRONGROOM_CACHE:-$HOME/.cache/strongroom}
if [ -n "${STRONGROOM_BIN:-}" ]; then
    bin=$(realpath "$STRONGROOM_BIN")
else
    cargo build --locked --release --bin strongroom
    bin=$(realpath "${CARGO_TARGET_DIR:-target}/release/strongroom")
fi
tests/tools/restic.sh >/dev/null
work=$(mktemp -d "${TMPDIR:-/tmp}/strongroom-tour.XXXXXX")
source tests/demo/private-postgres.sh
cleanup() { stop_postgres || true; rm -rf "$work"; }
trap cleanup EXIT
start_postgres
sql -d postgres -c 'CREATE DATABASE shop' && sql -d shop -f tests/demo/load.sql >/dev/null

mkdir "$work/tour"
cp -r src "$work/tour/project"
mkdir "$work/bin"
ln -s "$bin" "$work/bin/strongroom"
ln -s "$STRONGROOM_CACHE/restic-0.19/bin/restic" "$work/bin/restic"
export PATH=$work/bin:$PATH DATABASE_URL
DATABASE_URL=$(url shop)
# Files younger than two seconds are read again by the next backup, which would spoil the example.
sleep 3

commands() {
    cat <<'TOUR'
head -c 24 /dev/urandom | base64 > password
export STRONGROOM_REPOSITORY=file://$PWD/backups STRONGROOM_PASSWORD_FILE=$PWD/password
strongroom init

strongroom backup --volume project
strongroom backup --pg-dump "$DATABASE_URL"

echo '// one more line' >> project/main.rs
strongroom backup --volume project
strongroom snapshots

strongroom restore default/volume --to back
diff -r project back && echo the same

strongroom restore default/pg-dump --to "$DATABASE_URL" --target-database shop_2 --create
psql "$DATABASE_URL" -Atc "SELECT datname FROM pg_database WHERE datname LIKE 'shop%'"

strongroom check --read-data
restic -r backups --password-file password check --read-data
TOUR
}
transcript() (
    cd "$work/tour"
    while IFS= read -r line; do
        if [ -z "$line" ]; then echo; continue; fi
        printf '$ %s\n' "$line"
        # In this shell, so that `export` lasts.
        eval "$line" 2>&1 | cat >"$work/said" || { cat "$work/said" >&2; exit 1; }
        case $line in export*) eval "$line" ;; esac
        sed "s#$work/tour#/home/you#g; /^\[0:0/d; /^using temporary cache/d" "$work/said"
    done < <(commands)
)
transcript >"$work/transcript"
python3 - "$work/transcript" <<'PY'
import sys

readme = open("README.md").read()
start, end = "<!-- tour: make tour writes what follows -->\n", "<!-- end of tour -->"
before, rest = readme.split(start)
_, after = rest.split(end)
open("README.md", "w").write(f"{before}{start}\n```\n{open(sys.argv[1]).read()}```\n\n{end}{after}")
PY
echo "README.md has the transcript"
