"""The cluster that is saved: pgbench's tables and others, ways to change one page of a hundred, and a look at a restored one."""

import contextlib
import os
import shutil
import subprocess
import time

import corpus
import measure

TABLES = {
    "bench": ["SELECT count(*), sum(aid::bigint), sum(abalance::bigint * aid) FROM pgbench_accounts",
              "SELECT count(*), sum(bbalance::bigint) FROM pgbench_branches"],
    "ledger": ["SELECT count(*), sum(hashtextextended(ledger::text, 0)::numeric) FROM ledger"],
    "papers": ["SELECT count(*), sum(hashtextextended(body, id)::numeric) FROM papers", "SELECT count(*), sum(length(scan)) FROM papers"],
}
# A day's clustered changes lie in so many places, a run of neighbouring pages each.
RUNS = 16


class Cluster(corpus.Cluster):
    """With page checksums and an archive; a checkpoint comes only when asked for, so that all programs see the same files."""

    def __init__(self, binaries, conf="", initdb=()):
        lines = "wal_level = replica\nmax_wal_senders = 4\narchive_mode = on\narchive_command = '/bin/true'\ncheckpoint_timeout = '1d'\n"
        super().__init__(binaries, lines + conf, ["--data-checksums", *initdb])
        self.space = f"{self.folder}/space"

    def __enter__(self):
        try:
            return super().__enter__()
        except Exception:
            self.__exit__()
            raise

    def folder_of(self, path):
        """Makes a folder that belongs to the server's user."""
        os.makedirs(path, exist_ok=True)
        os.chmod(path, 0o700)
        if self.user:
            owner = os.stat(self.data)
            os.chown(path, owner.st_uid, owner.st_gid)

    def program(self, source, name):
        """A copy, of a file or a folder, that the server's user can reach."""
        to = f"{self.folder}/{name}"
        if os.path.isdir(source):
            shutil.copytree(source, to, symlinks=True)
        else:
            shutil.copy(source, to)
        return to

    def cpu(self):
        """CPU seconds of the server and of its processes that ended."""
        return measure.cpu_of(self.pid)

    def setting(self, name, value):
        self.sql(f"ALTER SYSTEM SET {name} = '{value}'")
        self.sql("SELECT pg_reload_conf()")

    def fill(self, scale):
        """About 15 MB a scale by pgbench, 3.5 MB of half-filled ledger, and 2 MB of documents, half of them beyond compression.
        The documents and pgbench's largest index lie in a tablespace."""
        self.folder_of(self.space)
        self.sql(f"CREATE TABLESPACE wide LOCATION '{self.space}'")
        # Room in each page for a few new versions of its rows.
        self.pgbench_init(scale, fill=90)
        self.sql("ALTER INDEX pgbench_accounts_pkey SET TABLESPACE wide", "bench")
        self.ledger(scale * 10_000)
        self.sql("CREATE DATABASE papers TABLESPACE wide")
        self.sql("CREATE TABLE papers (id bigint PRIMARY KEY, body text, scan bytea)", "papers")
        self.sql("ALTER TABLE papers ALTER scan SET STORAGE EXTERNAL", "papers")
        words = (
            "SELECT string_agg((ARRAY['order', 'of', 'the', 'contract', 'party', 'shall', 'deliver', 'within', 'days', 'price'])"
            "[1 + (hashint4(w + i * 31) & 2147483647) % 10], ' ')")
        scan = "SELECT string_agg(sha256((i || ' ' || n)::bytea), ''::bytea)"
        self.sql(
            f"INSERT INTO papers SELECT i, ({words} FROM generate_series(1, 900) w), ({scan} FROM generate_series(1, 256) n)"
            f" FROM generate_series(1, {scale * 120}) i", "papers")
        self.sql("VACUUM ANALYZE", "papers")
        # Whoever looks first writes down what is committed: that is no change of the first day's.
        self.fingerprint()
        self.settle()

    def size(self):
        return int(self.sql("SELECT sum(pg_database_size(oid)) FROM pg_database"))

    def a_day(self, kind, day):
        """Changes one row in each of 1 % of the pages of the large tables, others every day; `clustered` or `scattered`."""
        for database, table, column in (("bench", "pgbench_accounts", "abalance"), ("ledger", "ledger", "version")):
            pages = int(self.sql(f"SELECT pg_relation_size('{table}') / 8192", database))
            if kind == "scattered":
                chosen = range(day * 13 % 100, pages, 100)
            else:
                length = max(1, pages // 100 // RUNS)
                starts = [(run * pages // RUNS + day * length) % pages for run in range(RUNS)]
                chosen = [page for start in starts for page in range(start, min(start + length, pages))]
            # The row's number differs by the day, so that a page that is met again has one that is still in its place.
            rows = ",".join(f'"({page},{day + 1})"' for page in chosen)
            self.script(f"UPDATE {table} SET {column} = {column} + 1 WHERE ctid = ANY('{{{rows}}}'::tid[]);", database)
        self.settle()

    def settle(self):
        """Returns when all is written and archived, so that no measured program has to share the machine with that."""
        self.sql("CHECKPOINT")
        self.sql("SELECT pg_switch_wal()")
        deadline = time.monotonic() + 600
        while any(name.endswith(".ready") for name in os.listdir(f"{self.data}/pg_wal/archive_status")):
            if time.monotonic() > deadline:
                raise measure.Failed("the server cannot archive")
            time.sleep(0.1)
        os.sync()

    def warm(self):
        """Reads the whole cluster: else whoever comes after one that leaves nothing in the page cache pays for reading it from the disk."""
        for top in (self.data, self.space):
            for at, _, names in os.walk(top):
                for name in names:
                    with contextlib.suppress(FileNotFoundError, IsADirectoryError), open(f"{at}/{name}", "rb") as file:
                        while file.read(1 << 20):
                            pass

    def script(self, text, database):
        """SQL that may be longer than an argument."""
        command = [f"{self.bin}/psql", "-X", "-q", "-v", "ON_ERROR_STOP=1", self.url(database)]
        subprocess.run(command, input=text, text=True, check=True, stdout=subprocess.DEVNULL)

    def fingerprint(self, url=None):
        """Counts and sums over every table."""
        url = url or self.url
        asked = [(database, query) for database, queries in TABLES.items() for query in queries]
        command = [f"{self.bin}/psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c"]
        asked = [subprocess.run([*command, query, url(database)], check=True, stdout=subprocess.PIPE, text=True) for database, query in asked]
        return [answer.stdout for answer in asked]

    def compare(self, restored, expected):
        """Starts a server on a restored data directory, waits until its recovery is over, and fails unless it holds the same."""
        socket = f"{self.folder}/restored"
        self.folder_of(socket)
        os.chmod(socket, 0o755)
        options = f"-c unix_socket_directories={socket} -c archive_mode=off -c shared_buffers=128MB"
        log = f"{socket}/log"
        try:
            self.as_user("pg_ctl", "-D", restored, "-l", log, "-o", options, "-w", "-t", "600", "start")
        except subprocess.CalledProcessError as error:
            with open(log) as file:
                raise measure.Failed(f"the restored cluster does not start: {file.read()[-2000:]}") from error
        try:
            here, there = (f"host={self.quoted(folder)}" for folder in (self.folder, socket))

            def url(database):
                return self.url(database).replace(here, there)

            ask = [f"{self.bin}/psql", "-X", "-At", "-c", "SELECT pg_is_in_recovery()", url("postgres")]
            deadline = time.monotonic() + 300
            while subprocess.run(ask, capture_output=True, text=True).stdout.strip() != "f":
                if time.monotonic() > deadline:
                    raise measure.Failed("the restored cluster stays in recovery")
                time.sleep(0.1)
            found = self.fingerprint(url)
        finally:
            self.as_user("pg_ctl", "-D", restored, "-m", "fast", "-w", "stop")
        if found != expected:
            raise measure.Failed(f"restored differently: {found} instead of {expected}")
