# A private PostgreSQL 17 in $work/pg, for the demo and the tour: `source` it with $work set, then `start_postgres`, and
# `stop_postgres` on the way out. It listens on a socket in that folder only: no port is opened, no other server disturbed.

start_postgres() {
    pg=$(tests/tools/postgres.sh 17)
    mkdir "$work/pg"
    chmod 755 "$work"
    if [ "$(id -u)" = 0 ]; then
        # PostgreSQL refuses to run as root: an ordinary user runs it, from a copy that this user can reach.
        pg_user=nobody
        ! id postgres >/dev/null 2>&1 || pg_user=postgres
        cp -r "$pg" "$work/postgres"
        pg=$work/postgres
        chmod -R a+rX "$pg"
        chown "$pg_user" "$work/pg"
    fi
    export PATH=$pg/bin:$PATH
    as_pg "$pg/bin/initdb" -D "$work/pg/data" -U postgres -A trust --data-checksums --no-sync --locale=C.UTF-8 >"$work/initdb.log" 2>&1 ||
        { cat "$work/initdb.log" >&2; return 1; }
    cat >>"$work/pg/data/postgresql.conf" <<CONF
listen_addresses = ''
unix_socket_directories = '$work/pg'
fsync = off
max_wal_size = 4GB
shared_buffers = 128MB
CONF
    as_pg "$pg/bin/pg_ctl" -D "$work/pg/data" -l "$work/pg/log" -w start >/dev/null || { cat "$work/pg/log" >&2; return 1; }
}

stop_postgres() {
    [ ! -f "$work/pg/data/postmaster.pid" ] || as_pg "$pg/bin/pg_ctl" -D "$work/pg/data" -m immediate -w stop >/dev/null 2>&1
}

as_pg() {
    if [ -n "${pg_user:-}" ]; then
        (cd "$work/pg" && setpriv --reuid="$pg_user" --regid="$(id -g "$pg_user")" --clear-groups env HOME="$work/pg" "$@")
    else
        "$@"
    fi
}

url() { printf 'postgresql://postgres@/%s?host=%s' "$1" "${work//\//%2F}%2Fpg"; }
sql() { "$pg/bin/psql" -X -q -v ON_ERROR_STOP=1 -h "$work/pg" -U postgres "$@"; }
