#!/usr/bin/env bash
# make demo: a database, a directory and a command's output are backed up by the daemon on a schedule, restored
# elsewhere and compared. Needs Rust and Python 3 with pip; all else (a private PostgreSQL) it brings, and takes away again.
#
# STRONGROOM_BIN: use this binary instead of building one. DEMO_SCALE: pgbench scale factor (default 10, about 150 MB).
# DEMO_KEEP=1: leave the working directory (nothing keeps running).
set -euo pipefail
cd "$(dirname "$0")/../.."
repo=$PWD
export STRONGROOM_CACHE=${STRONGROOM_CACHE:-$HOME/.cache/strongroom}

say() { printf '%s\n' "$*"; }
step() { printf '\n\033[1m%s\033[0m\n' "$*"; }
fail() { printf '\nDEMO FAILED: %s\n' "$*" >&2; exit 1; }

# --- A place for everything, and the way out ---------------------------------------------------------------------------
work=$(mktemp -d "${TMPDIR:-/tmp}/strongroom-demo.XXXXXX")
source tests/demo/private-postgres.sh
daemon=
cleanup() {
    local status=$?
    set +e
    if [ -n "$daemon" ]; then
        kill -TERM "$daemon" 2>/dev/null
        wait "$daemon" 2>/dev/null
    fi
    if [ $status != 0 ] && [ -s "$work/daemon.log" ]; then
        say "--- the daemon's last words:" >&2
        tail -n 30 "$work/daemon.log" >&2
    fi
    stop_postgres
    if [ "${DEMO_KEEP:-}" = 1 ]; then say "kept: $work"; else rm -rf "$work"; fi
    exit $status
}
trap cleanup EXIT
trap 'exit 130' INT TERM

# --- What it needs -----------------------------------------------------------------------------------------------------
started=$SECONDS
if [ -n "${STRONGROOM_BIN:-}" ]; then
    bin=$(realpath "$STRONGROOM_BIN")
else
    step "Building strongroom (release; the first time takes some minutes)"
    cargo build --locked --release --bin strongroom
    bin=${CARGO_TARGET_DIR:-$repo/target}/release/strongroom
fi
step "Making a directory of real files, with what makes backups hard"
volume=$work/volume
mkdir -p "$volume/empty" "$volume/media"
# A copy of real files: crate sources if there are some, else this repository.
sources=$(find "${CARGO_HOME:-$HOME/.cargo}/registry/src" -mindepth 1 -maxdepth 1 -type d 2>/dev/null | head -n 1 || true)
[ -n "$sources" ] || sources=$repo
find "$sources" -mindepth 1 -maxdepth 1 -name '[a-m]*' -exec cp -r --preserve=mode,timestamps -t "$volume" {} +
head -c 30000000 /dev/urandom >"$volume/media/film.bin"
truncate -s 1G "$volume/sparse.img"
printf 'in the middle' | dd of="$volume/sparse.img" bs=1 seek=500000000 conv=notrunc status=none
ln "$volume/media/film.bin" "$volume/media/the same film.bin"
ln -s ../nowhere "$volume/media/dangling"
printf x >"$volume/"$'new\nline "quote" \\ back \xff not UTF-8 \xc2\xa0'
printf x >"$volume/$(printf 'é%.0s' {1..127})"
mkfifo "$volume/fifo"
touch -d '1970-01-01 00:00:01.000000001 UTC' "$volume/empty"
touch -d '2200-01-01 00:00:00.123456789 UTC' "$volume/fifo"
printf '#!/bin/sh\n' >"$volume/tool"
chmod 4755 "$volume/tool"
! command -v setfattr >/dev/null || setfattr -n user.color -v 0x00ff0a "$volume/tool"
say "$(du -sh "$volume" | cut -f1) in $(find "$volume" | wc -l) entries"

step "Setting up a private PostgreSQL 17"
start_postgres || fail "PostgreSQL did not start"

step "Loading a database: pgbench at scale ${DEMO_SCALE:-10}, and a shop with JSON, binary columns and large objects"
sql -d postgres -c 'CREATE DATABASE demo'
"$pg/bin/pgbench" -q -i -s "${DEMO_SCALE:-10}" -h "$work/pg" -U postgres demo >/dev/null 2>&1
sql -d demo -f tests/demo/load.sql >/dev/null
say "$(sql -d demo -Atc 'SELECT pg_size_pretty(pg_database_size(current_database()))') in $(sql -d demo -Atc "SELECT count(*) FROM pg_tables WHERE schemaname IN ('public', 'shop')") tables"

# --- The configuration: three jobs, a schedule seconds away ------------------------------------------------------------
port=$(python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])')
due=$(date -u -d '+15 seconds' '+%Y-%m-%dT%H:%M:%S')
cron=$(date -u -d "${due}Z" '+%-S %-M %-H %-d %-m *')
mkdir "$work/store"
printf 'a password for the demo' >"$work/password"
# The command job: any program that prints. Here a list of the shop's revenue, asked from the server.
cat >"$work/strongroom.yaml" <<CONF
environment: demo
repository:
  url: file://$work/store
  password: { file: $work/password }
tenants:
  acme:
    jobs:
      database:
        pg_dump: { url: "$(url demo)", databases: ["demo"] }
        schedule: "$cron"
      files:
        volume: { path: $volume }
        schedule: "$cron"
      revenue:
        command: { run: ["$pg/bin/psql", "-X", "-d", "$(url demo)", "-c", "COPY (SELECT * FROM shop.revenue ORDER BY state) TO STDOUT"], file: revenue.tsv }
        schedule: "$cron"
http: { metrics: "127.0.0.1:$port" }
cache_dir: $work/cache
CONF
export STRONGROOM_CONFIG=$work/strongroom.yaml
strongroom() { "$bin" "$@"; }

step "strongroom config check && strongroom init"
strongroom config check
strongroom init

step "strongroom run: the daemon; three jobs that have never run, so at once, and again by schedule at ${due#*T} UTC"
export STRONGROOM_ALLOW_COMMANDS=true
"$bin" run >"$work/daemon.log" 2>&1 &
daemon=$!
scheduled_runs() { # how many jobs have a complete snapshot that began when its schedule said, or later
    strongroom --json snapshots acme 2>/dev/null | python3 -c 'import json, sys
print(len({s["job"] for s in json.load(sys.stdin)["snapshots"] if s["complete"] and s["time"] >= sys.argv[1]}))' "$due" 2>/dev/null || echo 0
}
waited=0
until [ "$(scheduled_runs)" = 3 ]; do
    kill -0 "$daemon" 2>/dev/null || fail "the daemon ended by itself"
    waited=$((waited + 1))
    [ $waited -lt 300 ] || fail "five minutes, and not every job ran by its schedule"
    sleep 1
done
metrics=$(python3 -c 'import sys, urllib.request; print(urllib.request.urlopen(sys.argv[1], timeout=10).read().decode())' "http://127.0.0.1:$port/metrics")
[ "$(grep -c '^strongroom_job_last_success_timestamp_seconds{.*operation="backup"' <<<"$metrics")" = 3 ] || fail "/metrics lacks the three jobs"
peak=$(awk '/^VmHWM/ { print $2 }' "/proc/$daemon/status")
kill -TERM "$daemon"
wait "$daemon" || fail "the daemon ended with status $? after SIGTERM"
daemon=
strongroom snapshots acme

# --- Back again, elsewhere ---------------------------------------------------------------------------------------------
step "Restoring all three elsewhere"
timed() { # NAME COMMAND…: runs it and notes the seconds
    local name=$1 from to
    shift
    from=$(date +%s.%N)
    "$@"
    to=$(date +%s.%N)
    printf '%s %s\n' "$name" "$(awk -v a="$from" -v b="$to" 'BEGIN { print b - a }')" >>"$work/restore-times"
}
timed database strongroom restore acme/database --to "$(url postgres)" --database demo --target-database demo_restored --create
timed files strongroom restore acme/files --to "$work/restored"
timed revenue strongroom restore acme/revenue --to "$work/revenue.tsv"

step "Comparing"
for db in demo demo_restored; do
    sql -d $db -At -f tests/demo/fingerprint.sql >"$work/$db.rows"
    # The dump's own session settings and random tokens are not content.
    "$pg/bin/pg_dump" -h "$work/pg" -U postgres --schema-only $db | grep -v '^\\' >"$work/$db.schema"
done
[ "$(wc -l <"$work/demo.rows")" -ge 10 ] || fail "the fingerprint of the database is empty"
diff "$work/demo.rows" "$work/demo_restored.rows" || fail "the restored database has other rows"
diff "$work/demo.schema" "$work/demo_restored.schema" || fail "the restored database has another schema"
say "database: $(wc -l <"$work/demo.rows") tables, sequences and large objects equal, schema equal"

listing() { # every entry with type, mode, owner, links, time and target; every file's content
    (
        cd "$1"
        find . -mindepth 1 \( -type d -printf '%P\0%y %m %U %G %T@\n' -o -type f -printf '%P\0%y %m %U %G %T@ %s %n\n' \
            -o -printf '%P\0%y %m %U %G %T@ %l\n' \) | LC_ALL=C sort
        find . -type f -print0 | LC_ALL=C sort -z | xargs -0 sha256sum
        ! command -v getfattr >/dev/null || find . -type f -print0 | LC_ALL=C sort -z | xargs -0 getfattr -d -e hex -m - -- 2>/dev/null
    )
}
listing "$volume" >"$work/volume.list"
listing "$work/restored" >"$work/restored.list"
cmp "$work/volume.list" "$work/restored.list" || { diff -a "$work/volume.list" "$work/restored.list" | head -n 20; fail "the restored directory differs"; }
[ "$(stat -c %b "$work/restored/sparse.img")" -lt 10000 ] || fail "the sparse file came back without its holes"
say "files:    $(find "$volume" | wc -l) entries equal: contents, modes, owners, times, links, extended attributes"

sql -d demo -c 'COPY (SELECT * FROM shop.revenue ORDER BY state) TO STDOUT' | cmp - "$work/revenue.tsv" || fail "the restored command output differs"
say "revenue:  $(stat -c %s "$work/revenue.tsv") bytes equal"

restic=$STRONGROOM_CACHE/restic-0.19/bin/restic
if [ -x "$restic" ]; then
    RESTIC_PASSWORD_FILE=$work/password "$restic" -r "$work/store/demo/acme" --no-cache -q check --read-data
    say "restic:   stock restic checked every byte of the repository"
fi

step "Summary"
strongroom --json snapshots acme | python3 tests/demo/summary.py "$work" "$peak"
say "Everything was restored as it had been. $((SECONDS - started)) s in all; nothing is left running."
