"""A backlog of WAL: pushed by a real server's archiver, fetched as a recovery asks for it, by strongroom and by pgBackRest (both
its asynchronous commands with two processes). Every run begins with the same segments, all of them ready, and an empty archive."""

import contextlib
import filecmp
import os
import random
import shutil
import statistics
import subprocess
import time

import measure
import tree
from physical_cluster import Cluster
from physical_tools import Daemon, PgBackRest, Strongroom, copies, size_of
from verdict import bar, note

# How many times as fast as pgBackRest.
BAR = 2.0
# What a burst is, in MB of WAL a second.
BURST = 100
# Nothing may be forgotten between two runs, and nothing happen beside them.
CONF = "archive_command = ''\nwal_keep_size = '1TB'\nmax_wal_size = '1TB'\nbgwriter_lru_maxpages = 0\n"


def run(args, results):
    count = args.segments or (60 if args.quick else 2000)
    mib = args.segment_mib or fitting(count)
    with Cluster(os.environ["POSTGRES"], CONF, [f"--wal-segsize={mib}"]) as cluster:
        names = backlog(cluster, count)
        size = len(names) * mib * 1024 * 1024
        note(f"\n== WAL: {len(names)} segments of {mib} MiB, {args.rounds} rounds")
        binaries = copies(cluster)
        work = f"{cluster.folder}/work"
        cluster.folder_of(work)
        rows, stored = {}, {}
        for number in range(args.rounds):
            used = [
                Strongroom(f"strongroom-{number}", cluster, work, args.level, args.memory, binaries["strongroom"]),
                PgBackRest(f"pgbackrest-{number}", cluster, work, args.level, binaries["pgbackrest"], asynchronous=True, cipher=args.peer_cipher),
            ]
            if "client" in binaries:
                used.append(Daemon(f"daemon-{number}", cluster, work, args.level, args.memory, binaries["strongroom"], client=binaries["client"]))
            turn = number % len(used)
            used = used[turn:] + used[:turn]
            for one in used:
                rows.setdefault(("push", one.name), []).append(push(cluster, one, names))
                stored[one.name] = size_of(one.archive())
            for one in used:
                rows.setdefault(("fetch", one.name), []).append(fetch(cluster, one, names, work, check=number == 0))
            for one in used:
                one.drop()
        report(rows, stored, size, results)
        if "within" not in args.skip:
            within(args, cluster, work, binaries, names, size)


def fitting(count):
    """The largest segments, up to PostgreSQL's usual 16 MiB, of which there is room for so many, two archives of them, and as
    much again for whoever else needs it."""
    free = shutil.disk_usage(os.environ.get("TMPDIR", "/tmp")).free
    return next((mib for mib in (16, 8, 4, 2) if count * mib * 1024 * 1024 * 2.5 < free), 1)


def backlog(cluster, count):
    """Makes the server write so many segments that nobody archives: many small transactions, loads of rows, and pages that are
    logged whole, as after a checkpoint. Returns the names of the segments."""
    cluster.pgbench_init(20)
    status = f"{cluster.data}/pg_wal/archive_status"
    cluster.sql("CREATE TABLE bulk (id bigint PRIMARY KEY, account uuid, amount numeric(12, 2), note text)", "bench")
    ready = []
    while len(ready) < count:
        command = [f"{cluster.bin}/pgbench", "-n", "-c", "2", "-t", "3000", cluster.url("bench")]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        cluster.sql(
            "TRUNCATE bulk; INSERT INTO bulk SELECT i, md5(i::text)::uuid, (random() * 10000)::numeric(12, 2),"
            " 'invoice ' || md5(random()::text) || ' for order ' || i FROM generate_series(1, 200000) i", "bench")
        cluster.sql("CHECKPOINT")
        ready = sorted(name.removesuffix(".ready") for name in os.listdir(status) if name.endswith(".ready"))
    return ready[:count]


def archiver(cluster):
    return int(cluster.sql("SELECT pid FROM pg_stat_activity WHERE backend_type = 'archiver'"))


def push(cluster, one, names, limit_mib=None):
    """Lets the server archive: from the moment it is told how until it knows that the last segment is safe."""
    status = f"{cluster.data}/pg_wal/archive_status"
    reset(status)
    failed = int(cluster.sql("SELECT failed_count FROM pg_stat_archiver"))
    pid = archiver(cluster)
    warm(cluster, names)
    os.sync()
    with measure.Cgroup(limit_mib) as group:
        with tree.Watch(group) if group else contextlib.nullcontext() as watch:
            if group:
                for process in (pid, *one.pids()):
                    group.enter(process)
            started = time.monotonic()
            cluster.setting("archive_command", one.archive_command())
            while not os.path.exists(f"{status}/{names[-1]}.done"):
                if time.monotonic() - started > 3600:
                    raise measure.Failed(f"{one.name}: the server did not archive {names[-1]} within an hour")
                time.sleep(0.02)
            seconds = time.monotonic() - started
        cluster.setting("archive_command", "")
        cost = measure.Cost(seconds, 0.0, 0.0, "", 0)
        if group:
            cost.cpu, cost.peak_mib, cost.oom_kills = group.cpu(), watch.peak_mib, group.oom_kills()
            for process in (pid, *one.pids()):
                group.leave(process)
            tree.end(group)
    failures = int(cluster.sql("SELECT failed_count FROM pg_stat_archiver")) - failed
    if failures:
        note(f"  {one.name}: the server's archive_command failed {failures} times")
    return cost


def warm(cluster, names):
    """Reads what is to be archived: else whoever is first pays for reading it from the disk, and the others do not. Where memory does not
    hold it, everybody pays."""
    for name in names:
        with open(f"{cluster.data}/pg_wal/{name}", "rb") as file:
            while file.read(1 << 20):
                pass


def reset(status):
    """Everything is to be archived again."""
    for name in os.listdir(status):
        if name.endswith(".done"):
            os.rename(f"{status}/{name}", f"{status}/{name.removesuffix('.done')}.ready")


def fetch(cluster, one, names, work, check, limit_mib=None):
    """Asks for one segment after the other, as a server in recovery does; the time of the commands alone."""
    data = f"{work}/recovering"
    for folder in ("", "/global", "/pg_wal"):
        cluster.folder_of(data + folder)
    for name in ("PG_VERSION", "global/pg_control"):
        shutil.copy2(f"{cluster.data}/{name}", f"{data}/{name}")
        os.chmod(f"{data}/{name}", 0o644)
    to = "pg_wal/RECOVERYXLOG"
    script = f"{work}/recover.sh"
    with open(script, "w") as file:
        # What PostgreSQL does: removes what is there, and runs the command in a shell.
        file.write("set -e\n" + "".join(
            f"rm -f {to}\n{one.restore_command(data).replace('%f', name).replace('%p', to)} || {{ echo {name}; exit 1; }}\n[ -s {to} ]\n"
            for name in names))
    os.chmod(script, 0o644)
    os.sync()
    try:
        cost = tree.run([*cluster.user, "sh", script], cwd=data, limit_mib=limit_mib, helpers=one.pids())
        if check:
            for name in random.Random(5).sample(names, min(10, len(names))):
                command = one.restore_command(data).replace("%f", name).replace("%p", to)
                tree.run([*cluster.user, "sh", "-c", command], cwd=data)
                if not filecmp.cmp(f"{data}/{to}", f"{cluster.data}/pg_wal/{name}", shallow=False):
                    raise measure.Failed(f"{one.name} fetches another {name} than it was given")
    finally:
        shutil.rmtree(data)
    return cost


def report(rows, stored, size, results):
    middle = statistics.median
    note(f"{'':10}{'':12}{'s':>8}{'MB/s':>8}{'CPU s':>8}{'tree MiB':>10}{'ratio':>7}")
    for phase in ("push", "fetch"):
        ratios = {}
        for name in [n for n in ("strongroom", "with daemon", "pgbackrest") if (phase, n) in rows]:
            ratio = ratios[name] = middle(theirs.seconds / own.seconds for own, theirs in zip(rows[phase, name], rows[phase, "pgbackrest"]))
            costs = rows[phase, name]
            seconds = middle(c.seconds for c in costs)
            line = f"{phase if name == 'strongroom' else '':10}{name:12}{seconds:8.2f}{size / 1e6 / seconds:8.0f}"
            line += f"{middle(c.cpu for c in costs):8.2f}{max(c.peak_mib for c in costs):10.0f}"
            note(line + (f"{ratio:7.2f}" if name != "pgbackrest" else ""))
            results.setdefault(f"WAL {phase}", {})[name] = [{"seconds": c.seconds, "cpu": c.cpu, "peak_mib": c.peak_mib} for c in costs]
        # How it is archived without a daemon is what pgBackRest does, too.
        figure = f"{ratios['strongroom']:.2f} times as fast as pgBackRest (bar {BAR})"
        if "with daemon" in ratios:
            figure += f", with the daemon {ratios['with daemon']:.2f}"
        bar(f"WAL {phase}", ratios["strongroom"] >= BAR, figure)
    note("archive: " + ", ".join(f"{name} {n / 1e6:.1f} MB" for name, n in stored.items()) + f", of {size / 1e6:.0f} MB")
    results["WAL stored"] = stored


def within(args, cluster, work, binaries, names, size):
    """The whole backlog at once, and back, inside 128 MiB."""
    one = Strongroom("within", cluster, work, args.level, args.memory, binaries["strongroom"])
    cost = push(cluster, one, names, limit_mib=128)
    rate = size / 1e6 / cost.seconds
    figure = f"{rate:.0f} MB/s (bar {BURST}), memory {cost.peak_mib:.0f} MiB, OOM kills {cost.oom_kills}"
    bar("WAL burst in 128 MiB", cost.oom_kills == 0 and rate >= BURST, figure)
    cost = fetch(cluster, one, names, work, check=False, limit_mib=128)
    figure = f"{size / 1e6 / cost.seconds:.0f} MB/s, memory {cost.peak_mib:.0f} MiB, OOM kills {cost.oom_kills}"
    bar("WAL fetch in 128 MiB", cost.oom_kills == 0 and cost.status == 0, figure)
    one.drop()
