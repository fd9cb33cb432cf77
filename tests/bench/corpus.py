"""The data: real files in four parts (crate sources, the Rust toolchain, the system, a PostgreSQL data directory), made
once and kept in the cache; a change of 1 % of the files and 64 pages of a 1 GB file; a million small files."""

import glob
import os
import pwd
import random
import shutil
import subprocess
import sys
import tempfile
import urllib.parse

PAGE = 8192


def build(folder, gigabytes, postgres):
    """Copies about `gigabytes` of files below `folder`, unless that was done before."""
    done = f"{folder}/.complete"
    if os.path.exists(done) and open(done).read() == str(gigabytes):
        return
    shutil.rmtree(folder, ignore_errors=True)
    os.makedirs(folder)
    share = gigabytes * 1e9 / 6
    home = os.path.expanduser("~")
    registry = glob.glob(f"{os.environ.get('CARGO_HOME', home + '/.cargo')}/registry/src/*")
    sysroot = subprocess.run(["rustc", "--print", "sysroot"], capture_output=True, text=True, check=True).stdout.strip()
    for name, roots, part in [
        ("crates", registry, 1.0 * share),
        ("toolchain", [sysroot], 1.4 * share),
        ("system", ["/etc", "/usr/bin", "/usr/sbin", "/usr/include", "/usr/share", "/usr/lib"], 2.0 * share),
    ]:
        print(f"corpus: {name}", file=sys.stderr)
        copy(roots, f"{folder}/{name}", part)
    print("corpus: postgres", file=sys.stderr)
    # pgbench's scale 1 is about 15 MB.
    with Cluster(postgres) as cluster:
        cluster.pgbench_init(max(1, int(1.6 * share / 15e6)))
        cluster.stop()
        shutil.move(cluster.data, f"{folder}/postgres")
    with open(done, "w") as file:
        file.write(str(gigabytes))


def copy(roots, target, limit):
    """Files and links below `roots`, in order, until `limit` bytes."""
    copied = 0
    for root in roots:
        for folder, folders, names in os.walk(root):
            folders.sort()
            to = f"{target}/{os.path.basename(root)}/{os.path.relpath(folder, root)}"
            os.makedirs(to, exist_ok=True)
            for name in sorted(names):
                path = f"{folder}/{name}"
                if os.path.islink(path):
                    os.symlink(os.readlink(path), f"{to}/{name}")
                elif os.path.isfile(path) and os.access(path, os.R_OK):
                    size = os.path.getsize(path)
                    if copied + size > limit:
                        continue
                    shutil.copy2(path, f"{to}/{name}")
                    copied += size
            if copied > limit * 0.995:
                return


def facts(folder):
    """Bytes and number of regular files."""
    size = count = 0
    for path in regular_files(folder):
        size += os.lstat(path).st_size
        count += 1
    return size, count


def regular_files(folder):
    for at, folders, names in os.walk(folder):
        folders.sort()
        for name in sorted(names):
            path = f"{at}/{name}"
            if os.path.isfile(path) and not os.path.islink(path):
                yield path


def warm(folder):
    """Reads everything once, so that nobody pays for the disk."""
    buffer = bytearray(1 << 20)
    for path in regular_files(folder):
        with open(path, "rb", buffering=0) as file:
            while file.readinto(buffer):
                pass


class Change:
    """1 % of the files (not the largest: 1 MB at most) get a line in their middle, and 64 pages spread over the largest
    file get other contents. `undo` brings the former contents back."""

    def __init__(self, folder, aside):
        files = list(regular_files(folder))
        self.big = max(files, key=os.path.getsize)
        small = [f for f in files if f != self.big and 0 < os.path.getsize(f) < 1_000_000 and "/postgres/" not in f]
        self.random = random.Random(20)
        self.chosen = self.random.sample(small, max(1, len(files) // 100))
        self.aside = aside
        self.pages = []

    def apply(self):
        os.makedirs(self.aside)
        for number, path in enumerate(self.chosen):
            shutil.copy2(path, f"{self.aside}/{number}")
            with open(path, "r+b") as file:
                data = file.read()
                middle = len(data) // 2
                file.seek(0)
                file.write(data[:middle] + b"\nchanged %d\n" % number + data[middle:])
        size = os.path.getsize(self.big)
        step = max(PAGE, size // 64 // PAGE * PAGE)
        with open(self.big, "r+b") as file:
            for at in range(0, size - PAGE + 1, step):
                file.seek(at)
                self.pages.append((at, file.read(PAGE)))
                file.seek(at)
                file.write(self.random.randbytes(PAGE))

    def undo(self):
        for number, path in enumerate(self.chosen):
            shutil.copy2(f"{self.aside}/{number}", path)
        with open(self.big, "r+b") as file:
            for at, page in self.pages:
                file.seek(at)
                file.write(page)
        self.pages = []
        shutil.rmtree(self.aside)


def million(folder, count):
    """`count` files of 20 to 500 bytes in folders of a thousand, made once."""
    done = f"{folder}/.complete"
    if os.path.exists(done) and open(done).read() == str(count):
        return
    shutil.rmtree(folder, ignore_errors=True)
    source = random.Random(7)
    for number in range(count):
        if number % 1000 == 0:
            at = f"{folder}/{number // 100_000}/{number // 1000}"
            os.makedirs(at)
        with open(f"{at}/{number}", "wb", buffering=0) as file:
            file.write(b"%d " % number + source.randbytes(source.randrange(10, 250)).hex().encode())
    with open(done, "w") as file:
        file.write(str(count))


class Cluster:
    """A private PostgreSQL that listens on a socket only, in a temporary folder. Root runs it as another user, as
    PostgreSQL demands, from a copy of the programs that this user can reach."""

    def __init__(self, binaries, conf="", initdb=()):
        """`conf`: further lines of postgresql.conf; `initdb`: further arguments of initdb."""
        self.conf, self.initdb = conf, initdb
        self.folder = tempfile.mkdtemp(prefix="strongroom-bench-pg.")
        os.chmod(self.folder, 0o755)
        self.bin, self.data, self.user, self.running = f"{binaries}/bin", f"{self.folder}/data", [], False
        if os.getuid() == 0:
            users = {p.pw_name: p for p in pwd.getpwall()}
            user = users.get("postgres") or users["nobody"]
            self.user = ["setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--clear-groups"]
            shutil.copytree(binaries, f"{self.folder}/programs", symlinks=True)
            self.bin = f"{self.folder}/programs/bin"
            os.mkdir(self.data, 0o700)
            os.chown(self.data, user.pw_uid, user.pw_gid)

    def __enter__(self):
        self.as_user("initdb", "-D", self.data, "-U", "postgres", "-A", "trust", "--no-sync", "--locale=C.UTF-8", *self.initdb)
        with open(f"{self.data}/postgresql.conf", "a") as conf:
            conf.write(f"listen_addresses = ''\nunix_socket_directories = '{self.folder}'\nunix_socket_permissions = 0777\n")
            conf.write("fsync = off\nmax_wal_size = 2GB\nwal_level = minimal\nmax_wal_senders = 0\nautovacuum = off\n")
            conf.write(f"shared_buffers = 256MB\nexternal_pid_file = ''\n{self.conf}")
        os.chmod(self.folder, 0o777)
        self.as_user("pg_ctl", "-D", self.data, "-l", "/dev/null", "-w", "start")
        self.running = True
        with open(f"{self.data}/postmaster.pid") as file:
            self.pid = int(file.readline())
        return self

    def __exit__(self, *_):
        if self.running:
            self.stop()
        shutil.rmtree(self.folder, ignore_errors=True)

    def stop(self):
        self.as_user("pg_ctl", "-D", self.data, "-m", "fast", "-w", "stop")
        self.running = False

    def as_user(self, program, *arguments):
        subprocess.run([*self.user, f"{self.bin}/{program}", *arguments], check=True, cwd="/", stdout=subprocess.DEVNULL)

    def sql(self, text, database="postgres"):
        command = [f"{self.bin}/psql", "-X", "-At", "-v", "ON_ERROR_STOP=1", "-c", text, self.url(database)]
        return subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout.strip()

    def url(self, database):
        return f"postgresql://postgres@/{database}?host={self.quoted(self.folder)}"

    @staticmethod
    def quoted(text):
        return urllib.parse.quote(text, safe="")

    def pgbench_init(self, scale, database="bench", fill=100):
        """pgbench's tables, about 15 MB a scale; `fill`: how full their pages are, in percent."""
        self.sql(f"CREATE DATABASE {database}")
        command = [f"{self.bin}/pgbench", "-q", "-i", "-s", str(scale), "-F", str(fill), self.url(database)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.sql("CHECKPOINT", database)

    def ledger(self, rows, database="ledger"):
        """Rows of about 170 bytes that compress as real ones do: ids, names from a small set, amounts, times, free text.
        Pages are filled by half, so that an updated row finds room in its own page (an update in place)."""
        self.sql(f"CREATE DATABASE {database}")
        self.sql(
            "CREATE TABLE ledger (id bigint, account uuid, kind text, amount numeric(12, 2), booked timestamptz, version int, note text)"
            " WITH (fillfactor = 45)", database)
        self.sql(
            "INSERT INTO ledger SELECT i, md5((i::bigint * 7919 % 100000)::text)::uuid, (ARRAY['sale', 'refund', 'fee', 'transfer'])[1 + i % 4],"
            " (random() * 10000)::numeric(12, 2), timestamptz '2026-01-01 00:00+00' + i * interval '3.7 seconds', 1,"
            " 'invoice ' || md5(i::text) || ' for order ' || (random() * 1e9)::bigint || ', paid by ' || (ARRAY['card', 'transfer'])[1 + i % 2]"
            f" FROM generate_series(1, {rows}) i", database)
        self.sql("ALTER TABLE ledger ADD PRIMARY KEY (id)", database)
        self.sql("VACUUM ANALYZE ledger", database)
        self.sql("CHECKPOINT", database)
