"""The programs that save a whole cluster, each told to do the same things: save, save again, restore, and say what it stored.
They run as the user that the server runs as, and keep everything below one folder of that user's."""

import glob
import json
import os
import shlex
import shutil
import subprocess
import time

import measure
import tools
import tree

STANZA = "bench"


def size_of(folder):
    return sum(os.path.getsize(f"{at}/{name}") for at, _, names in os.walk(folder) for name in names)


def space_of(target):
    """Where the tablespace of a cluster that is restored to `target` goes."""
    return f"{target}.space"


def copies(cluster):
    """The programs, where the server's user can reach them."""
    peer = cluster.program(f"{os.environ['STRONGROOM_CACHE']}/pgbackrest-2.60", "pgbackrest")
    own = os.environ["STRONGROOM_BIN"]
    found = {"strongroom": cluster.program(own, "strongroom"), "pgbackrest": f"{peer}/bin/pgbackrest"}
    client = f"{os.path.dirname(own)}/strongroom-client"
    if os.path.exists(client):
        found["client"] = cluster.program(client, "strongroom-client")
    return found


class Program:
    """`place`: a folder of its own, that `drop` removes."""

    def __init__(self, name, cluster, work, level):
        self.cluster, self.level, self.place = cluster, level, f"{work}/{name}"
        cluster.folder_of(self.place)

    def call(self, *command, **options):
        """Runs it; the server's CPU seconds are added to its own, for whoever lets the server do the work."""
        before = self.cluster.cpu()
        # Not the home of whoever started the benchmark, which that user may not look into.
        cost = tree.run([*self.cluster.user, *command], cwd=self.place, env={"HOME": self.place}, **options)
        cost.cpu += self.cluster.cpu() - before
        return cost

    def pids(self):
        """Processes that work for it all the time."""
        return []

    def drop(self):
        shutil.rmtree(self.place)


class Strongroom(Program):
    name = "strongroom"

    def __init__(self, name, cluster, work, level, memory, binary):
        super().__init__(name, cluster, work, level)
        self.binary, self.config = binary, f"{self.place}/strongroom.yaml"
        settings = {
            "environment": "bench",
            "repository": {
                "url": f"file://{self.place}/repo", "password": {"value": tools.PASSWORD}, "layout": "{root}", "compression": level,
            },
            "tenants": {"bench": {"jobs": {
                "base": {"pg_base": {"url": cluster.url("postgres"), "data_directory": cluster.data}},
                "wal": {"pg_wal": {"mode": "archive", "socket": f"{self.place}/socket"}},
            }}},
            "limits": {"memory": memory},
            "cache_dir": f"{self.place}/cache",
        }
        with open(self.config, "w") as file:
            json.dump(settings, file)
        os.chmod(self.config, 0o644)
        self.call(binary, "--config", self.config, "-q", "init")

    def run(self, *arguments, **options):
        return self.call(self.binary, "--config", self.config, "--json", "-q", *arguments, **options)

    def full(self, **options):
        return self.run("backup", "bench/base", **options)

    # Every snapshot is a full one: there is no other kind.
    next_day = full

    def restore(self, target, **options):
        spaces = ["--tablespace-map", f"{self.cluster.space}={space_of(target)}"] if os.path.isdir(self.cluster.space) else []
        return self.run("restore", "bench/base", "--to", target, "--target-immediate", *spaces, **options)

    def size(self):
        return size_of(f"{self.place}/repo") - size_of(f"{self.place}/repo/wal")

    def archive(self):
        return f"{self.place}/repo/wal"

    def archive_command(self):
        return f"{self.binary} --config {self.config} -q wal push %p --job bench/wal"

    def restore_command(self, data):
        del data
        return f"{self.binary} --config {self.config} -q wal fetch %f %p --job bench/wal"


class Daemon(Strongroom):
    """`strongroom run` beside the server, which calls the small client: where the two live in containers of their own."""

    name = "with daemon"

    def __init__(self, *arguments, client):
        super().__init__(*arguments)
        self.client, self.socket = client, f"{self.place}/socket"
        with open(f"{self.place}/daemon.log", "w") as log:
            command = [*self.cluster.user, self.binary, "--config", self.config, "run"]
            env = os.environ | {"HOME": self.place}
            self.daemon = subprocess.Popen(command, cwd=self.place, env=env, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        deadline = time.monotonic() + 60
        while not os.path.exists(self.socket):
            if self.daemon.poll() is not None or time.monotonic() > deadline:
                self.stop()
                with open(f"{self.place}/daemon.log") as log:
                    raise measure.Failed(f"the daemon does not come up: {log.read()[-2000:]}")
            time.sleep(0.05)

    def pids(self):
        return [self.daemon.pid]

    def archive_command(self):
        return f"{self.client} wal push %p --job bench/wal --socket {self.socket}"

    def restore_command(self, data):
        return f"{self.client} wal fetch %f %p --job bench/wal --socket {self.socket} --data-directory {data}"

    def stop(self):
        if self.daemon.poll() is None:
            self.daemon.terminate()
            try:
                self.daemon.wait(30)
            except subprocess.TimeoutExpired:
                self.daemon.kill()
                self.daemon.wait()

    def drop(self):
        self.stop()
        super().drop()


class PgBackRest(Program):
    name = "pgbackrest"

    def __init__(self, name, cluster, work, level, binary, asynchronous=False, cipher=False):
        super().__init__(name, cluster, work, level)
        self.binary, self.config = binary, f"{self.place}/pgbackrest.conf"
        settings = {
            "repo1-path": f"{self.place}/repo", "repo1-bundle": "y", "repo1-block": "y", "repo1-retention-full": "9",
            "compress-type": "zst", "compress-level": level, "process-max": 2, "start-fast": "y",
            "archive-async": "y" if asynchronous else "n", "archive-get-queue-max": "256MiB", "archive-timeout": "600",
            "spool-path": f"{self.place}/spool", "lock-path": f"{self.place}/lock", "log-level-file": "off", "log-level-console": "warn",
        }
        if cipher:
            settings |= {"repo1-cipher-type": "aes-256-cbc", "repo1-cipher-pass": tools.PASSWORD}
        cluster.folder_of(f"{self.place}/spool")
        with open(self.config, "w") as file:
            file.write("[global]\n" + "".join(f"{k}={v}\n" for k, v in settings.items()))
            file.write(f"[{STANZA}]\npg1-path={cluster.data}\npg1-socket-path={cluster.folder}\npg1-user=postgres\n")
        os.chmod(self.config, 0o644)
        self.run("stanza-create")

    def run(self, *arguments, **options):
        return self.call(self.binary, f"--config={self.config}", f"--stanza={STANZA}", *arguments, **options)

    def full(self, **options):
        return self.run("backup", "--type=full", **options)

    def next_day(self, **options):
        return self.run("backup", "--type=incr", **options)

    def restore(self, target, **options):
        self.cluster.folder_of(target)
        self.cluster.folder_of(space_of(target))
        spaces = [f"--tablespace-map=wide={space_of(target)}"] if os.path.isdir(self.cluster.space) else []
        end = ["--type=immediate", "--target-action=promote", "--archive-mode=off"]
        return self.run("restore", f"--pg1-path={target}", *end, *spaces, **options)

    def size(self):
        return size_of(f"{self.place}/repo/backup")

    def archive(self):
        return f"{self.place}/repo/archive"

    def direct(self):
        """What `self.binary`, which is a script, ends with. A server calls it for every segment, and an installed pgBackRest is no script."""
        lib = f"{os.path.dirname(os.path.dirname(self.binary))}/lib"
        (loader,) = glob.glob(f"{lib}/ld-linux*.so.*")
        return f"{loader} --argv0 {self.binary} --library-path {lib} {lib}/pgbackrest --config={self.config} --stanza={STANZA}"

    def archive_command(self):
        return f"{self.direct()} archive-push %p"

    def restore_command(self, data):
        return f"{self.direct()} --pg1-path={data} archive-get %f %p"


class PgBaseBackup(Program):
    """`pg_basebackup` with zstd, and `zstd -d | tar x`: what everybody has. It compresses by itself, with as many threads as
    `| zstd -T2` would have, since it writes one archive a tablespace and a pipe takes only one."""

    name = "pg_basebackup"

    def full(self, **options):
        shutil.rmtree(f"{self.place}/base", ignore_errors=True)
        compress = f"--compress=client-zstd:level={self.level},workers=2"
        take = [f"{self.cluster.bin}/pg_basebackup", "-D", "base", "-Ft", "-X", "fetch", "-c", "fast", "--no-sync", compress]
        return self.call(*take, "-d", self.cluster.url("postgres"), **options)

    next_day = full

    def restore(self, target, **options):
        self.cluster.folder_of(target)
        self.cluster.folder_of(space_of(target))
        steps = ["set -o pipefail"]
        for name in sorted(os.listdir(f"{self.place}/base")):
            if name.endswith(".tar.zst"):
                to = target if name == "base.tar.zst" else space_of(target)
                steps.append(f"zstd -dcq base/{name} | tar -x -C {shlex.quote(to)}")
        return self.call("bash", "-c", "; ".join(steps), **options)

    def size(self):
        return size_of(self.place)
