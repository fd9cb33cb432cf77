"""Whole clusters: strongroom beside pgBackRest and `pg_basebackup | zstd`, on the same server, in the same run, in turn.

pgBackRest runs with two processes, bundles and block incrementals, and the same compression level; it does not encrypt
unless told (--peer-cipher), while we cannot do otherwise. Its archive is not counted; the WAL that our snapshots hold is."""

import json
import os
import statistics
import tempfile

import measure
import physical_day
import physical_wal
from physical_cluster import Cluster
from physical_tools import PgBackRest, PgBaseBackup, Strongroom, copies, space_of
from verdict import bar, note

# How many times as fast as pgBackRest.
BARS = {"full": 1.5, "restore": 1.5, "next day": 1.5}
DAYS = 6


def options(parser):
    parser.add_argument("--scale", type=int, help="pgbench's scale of the cluster of `physical` (300; 20 if --quick)")
    parser.add_argument("--level", type=int, default=1, help="zstd level of all programs of `physical`")
    parser.add_argument("--peer-cipher", action="store_true", help="let pgBackRest encrypt too (aes-256-cbc), as we always do")
    parser.add_argument("--segments", type=int, help="WAL segments of the backlog of `physical` (2000; 60 if --quick)")
    parser.add_argument("--segment-mib", type=int, help="their size (16; less where the disk has no room for so many)")
    parser.add_argument("--skip", default="", help="parts of `physical` to leave out: base, wal, within, day, tebibyte")


def run(args, make_store, results):
    del make_store
    skipped = args.skip.split(",")
    results = results.setdefault("physical", {})
    if "base" not in skipped:
        base(args, results)
    if "wal" not in skipped:
        physical_wal.run(args, results)
    if "day" not in skipped:
        physical_day.run(args, results)
    if "tebibyte" not in skipped:
        tebibyte(args, results)


def tebibyte(args, results):
    """What the engine makes of a large cluster's file names and chunks."""
    program = os.path.join(os.path.dirname(os.environ["STRONGROOM_BIN"]), "examples", "tebibyte")
    if not os.path.exists(program):
        note("\n(no tree and index of a large cluster: build the example `tebibyte` beside the binary)")
        return
    segments = 100 if args.quick else 1024
    note(f"\n== tree and index of {segments} files of 1 GiB")
    with tempfile.TemporaryDirectory() as folder:
        cost = measure.run([program, folder, str(segments)])
    found = results["large cluster"] = json.loads(cost.output)
    for name, day in zip(("first backup", "next day"), found["days"]):
        note(f"{name}: {day['chunks_stored']} chunks stored of {found['chunks']}; tree {day['tree_bytes'] / 1e6:.1f} MB, "
             f"index {day['index_bytes'] / 1e6:.2f} MB")
    note(f"the index is loaded in {found['index_load_seconds']:.1f} s")


def base(args, results):
    scale = args.scale or (20 if args.quick else 300)
    with Cluster(os.environ["POSTGRES"]) as cluster:
        cluster.fill(scale)
        note(f"\n== clusters: pgbench scale {scale} and others, {cluster.size() / 1e9:.2f} GB, {args.rounds} rounds, zstd level {args.level}")
        binaries = copies(cluster)
        note("  " + measure.run([binaries["pgbackrest"], "version"]).output.strip())
        work = f"{cluster.folder}/work"
        cluster.folder_of(work)
        rows, sizes, day = {}, {}, 0
        # The first two weeks are whole ones, for the sizes; of further ones only the first day is timed.
        weeks = ["clustered", "scattered"] + ["clustered"] * (max(2, args.rounds) - 2)
        for number, kind in enumerate(weeks):
            day = week(args, cluster, work, binaries, number, kind, day, rows, sizes)
        report(rows, sizes, results)
        if "within" not in args.skip:
            within(args, cluster, work, binaries, results)


def week(args, cluster, work, binaries, number, kind, day, rows, sizes):
    """A full backup and its restore, then days; returns the number of the next day."""
    ours = Strongroom(f"strongroom-{number}", cluster, work, args.level, args.memory, binaries["strongroom"])
    peer = PgBackRest(f"pgbackrest-{number}", cluster, work, args.level, binaries["pgbackrest"], cipher=args.peer_cipher)
    bare = PgBaseBackup(f"pg_basebackup-{number}", cluster, work, args.level)
    # pgBackRest's backups are no good without its archive, so the server feeds it all the time.
    cluster.setting("archive_command", peer.archive_command())
    cluster.settle()
    used = [ours, peer, bare]
    turn = number % len(used)

    def each(phase, action, programs=used):
        for one in [p for p in used[turn:] + used[:turn] if p in programs]:
            # Nobody pays for what the one before has left to be written, or has taken from the page cache.
            if not phase.startswith("restore"):
                cluster.warm()
            os.sync()
            rows.setdefault((phase, one.name), []).append(action(one))

    each("full", lambda one: one.full())
    for one in used:
        sizes.setdefault((kind, one.name), []).append(one.size())
    expected = cluster.fingerprint()
    each("restore", lambda one: restore(cluster, one, f"{work}/restored", expected if number == 0 else None))
    for _ in range(DAYS if number < 2 else 1):
        cluster.a_day(kind, day)
        day += 1
        phase = "next day" if kind == "clustered" else "scattered"
        # The bare dump has no next day: it is the same again.
        each(phase, lambda one: one.next_day(), [ours, peer] if number < 2 else used)
        for one in (ours, peer):
            sizes[kind, one.name].append(one.size())
    if number < 2:
        # The newest of a whole week, whatever it hangs on.
        expected = cluster.fingerprint()
        each(f"restore of day {DAYS}", lambda one: restore(cluster, one, f"{work}/restored", expected), [ours, peer])
    cluster.setting("archive_command", "/bin/true")
    for one in used:
        one.drop()
    return day


def restore(cluster, one, target, expected):
    """Restores, and where the contents are told starts a server there and compares."""
    try:
        cost = one.restore(target)
        if expected:
            cluster.compare(target, expected)
        return cost
    except measure.Failed as error:
        raise measure.Failed(f"{one.name}: {error}") from error
    finally:
        put_aside(cluster, target)


def put_aside(cluster, target):
    """Frees what a restored cluster takes, but keeps its files: ext4 does not use the numbers of removed files again for some
    minutes, and looks at all of them for each new one, so whoever comes after a removal would pay for it."""
    aside = f"{cluster.folder}/aside"
    os.makedirs(aside, exist_ok=True)
    for folder in (target, space_of(target)):
        if os.path.isdir(folder):
            for at, _, names in os.walk(folder):
                for name in names:
                    if os.path.isfile(f"{at}/{name}") and not os.path.islink(f"{at}/{name}"):
                        os.truncate(f"{at}/{name}", 0)
            os.rename(folder, f"{aside}/{len(os.listdir(aside))}")


def report(rows, sizes, results):
    middle = statistics.median
    note(f"{'':18}{'':15}{'s':>8}{'CPU s':>8}{'tree MiB':>10}{'ratio':>7}{'requests':>10}")
    names = ["strongroom", "pgbackrest", "pg_basebackup"]
    for phase in dict.fromkeys(phase for phase, _ in rows):
        ours = rows[phase, "strongroom"]
        ratio = middle(theirs.seconds / own.seconds for theirs, own in zip(rows[phase, "pgbackrest"], ours))
        for name in (n for n in names if (phase, n) in rows):
            costs = rows[phase, name]
            first = name == "strongroom"
            line = f"{phase if first else '':18}{name:15}{middle(c.seconds for c in costs):8.2f}{middle(c.cpu for c in costs):8.2f}"
            line += f"{max(c.peak_mib for c in costs):10.0f}" + (f"{ratio:7.2f}" + f"{requests(costs[-1]):>10}" if first else "")
            note(line)
            results.setdefault(phase, {})[name] = [{"seconds": c.seconds, "cpu": c.cpu, "peak_mib": c.peak_mib} for c in costs]
        if phase in BARS:
            bar(f"cluster {phase}", ratio >= BARS[phase], f"{ratio:.2f} times as fast as pgBackRest (bar {BARS[phase]})")
    for kind in ("clustered", "scattered"):
        ours, theirs = (whole_week(sizes, kind, name) for name in names[:2])
        note(f"{kind} week, MB: strongroom " + steps(ours) + "; pgbackrest " + steps(theirs))
        figure = f"{ours[-1] / 1e6:.1f} MB beside {theirs[-1] / 1e6:.1f}, {ours[-1] / theirs[-1] - 1:+.1%}"
        if kind == "clustered":
            bar("repository after a full and six clustered days", ours[-1] <= theirs[-1], f"{figure} (bar: not larger)")
        else:
            note(f"         after a full and six scattered days: {figure} (no bar)")
        results[f"sizes, {kind}"] = {"strongroom": ours, "pgbackrest": theirs}
    note(f"pg_basebackup | zstd: {sizes['clustered', 'pg_basebackup'][0] / 1e6:.1f} MB each day")


def whole_week(sizes, kind, name):
    return sizes[kind, name][: DAYS + 1]


def steps(sizes):
    return f"{sizes[0] / 1e6:.1f} " + " ".join(f"{(b - a) / 1e6:+.1f}" for a, b in zip(sizes, sizes[1:]))


def requests(cost):
    """What the run says it asked of the store: of our own programs only, and not of restores."""
    try:
        counts = json.loads(cost.output)["jobs"][0]["requests"]
    except (ValueError, KeyError, IndexError, TypeError):
        return ""
    return sum(n for name, n in counts.items() if name in ("put", "get", "head", "list", "delete"))


def within(args, cluster, work, binaries, results):
    """Backup, another, and restore inside 128 MiB."""
    note("-- a cluster within a cgroup of 128 MiB")
    one = Strongroom("within", cluster, work, args.level, args.memory, binaries["strongroom"])
    for phase, action in [
        ("base backup", lambda: one.full(limit_mib=128, check=False)),
        ("base backup again", lambda: one.full(limit_mib=128, check=False)),
        ("restore", lambda: one.restore(f"{work}/restored", limit_mib=128, check=False)),
    ]:
        cost = action()
        figure = f"{cost.seconds:.1f} s, memory {cost.peak_mib:.0f} MiB, exit {cost.status}, OOM kills {cost.oom_kills}"
        results.setdefault("within", {})[phase] = figure
        bar(f"{phase} in 128 MiB", cost.status == 0, figure)
        if cost.status != 0:
            note(cost.output[-1500:])
    if os.path.isdir(f"{work}/restored"):
        cluster.compare(f"{work}/restored", cluster.fingerprint())
        put_aside(cluster, f"{work}/restored")
    one.drop()
