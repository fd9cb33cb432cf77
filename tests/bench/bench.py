"""The benchmark's story: what is compared, in which order, and what the bars are. Everything is printed, and kept as JSON."""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
import time

import corpus
import measure
import physical
import tools
from verdict import bar, note, verdicts

CACHE = os.environ["STRONGROOM_CACHE"]
# How many times as fast as the faster of the two peers.
BARS = {"first": 2.5, "unchanged": 2.0, "changed": 2.0, "restore": 2.0}


def limits(folder, size):
    """What this machine could do at best: each step at its single-thread rate, all cores busy, nothing else."""
    program = os.path.join(os.path.dirname(os.environ["STRONGROOM_BIN"]), "examples", "primitives")
    if not os.path.exists(program):
        note("(no limit computed: build the example `primitives` beside the binary)")
        return None
    rates = json.loads(measure.run([program, folder]).output)
    level = rates["zstd"]["1"]
    per_mb = 1 / rates["chunk_mb_s"] + 1 / rates["sha256_batch_mb_s"] + 1 / level["mb_s"] + level["ratio"] / rates["seal_mb_s"]
    cores = len(os.sched_getaffinity(0))
    rates["limit_mb_s"] = cores / per_mb
    note(
        f"single thread, MB/s: chunk {rates['chunk_mb_s']:.0f}, SHA-256 {rates['sha256_mb_s']:.0f} (in batches "
        f"{rates['sha256_batch_mb_s']:.0f}), zstd-1 {level['mb_s']:.0f}, seal {rates['seal_mb_s']:.0f}"
    )
    note(f"limit of a first backup on {cores} cores: {cores / per_mb:.0f} MB/s, {size / 1e6 * per_mb / cores:.1f} s; {per_mb * 1000:.2f} CPU s/GB")
    return rates


def same(one, other):
    """Fails unless two directories hold the same names and contents."""
    result = measure.run(["diff", "-r", "--no-dereference", one, other], check=False)
    if result.status != 0:
        raise measure.Failed(f"restored differently:\n{result.output[:2000]}")


def files(args, make_store, results):
    """First, unchanged and changed backup, and restore: the three programs in turn, `rounds` times."""
    folder = f"{CACHE}/bench/corpus"
    corpus.build(folder, args.corpus_gb, os.environ["POSTGRES"])
    corpus.warm(folder)
    size, count = corpus.facts(folder)
    note(f"\n== files: {size / 1e9:.2f} GB in {count} files, {args.rounds} rounds")
    with tempfile.TemporaryDirectory(dir=f"{CACHE}/bench") as work, make_store(f"{work}/store") as store:
        note(f"-- store: {store.name}")
        if store.name == "local":
            results["primitives"] = limits(folder, size)
        rows = {}
        sizes = {}
        for round_number in range(args.rounds):
            programs = [tools.Strongroom, tools.Restic, tools.Rustic]
            # Another one begins each round.
            turn = round_number % len(programs)
            programs = programs[turn:] + programs[:turn]
            used = []
            for program in programs:
                one = program(store, f"{program.name}-{round_number}", work, memory=args.memory)
                one.init()
                used.append(one)

            def each(phase, action):
                for one in used:
                    before = store.requests(), store.cpu()
                    cost = action(one)
                    requests = None if before[0] is None else store.requests() - before[0]
                    rows.setdefault((phase, one.name), []).append((cost, requests, store.cpu() - before[1]))

            each("first", lambda one: one.backup(folder))
            for one in used:
                sizes.setdefault(one.name, store.size(f"{one.name}-{round_number}"))
            each("unchanged", lambda one: one.backup(folder))
            change = corpus.Change(folder, f"{work}/aside")
            change.apply()
            try:
                each("changed", lambda one: one.backup(folder))

                def restore(one):
                    target = f"{work}/restored"
                    os.mkdir(target)
                    cost = one.restore(folder, target)
                    if round_number == 0:
                        same(folder, target)
                    shutil.rmtree(target)
                    return cost

                each("restore", restore)
            finally:
                change.undo()
            # Files whose times are younger than two seconds are not trusted; none should be when the next round begins.
            time.sleep(3)
            for one in used:
                store.drop(f"{one.name}-{round_number}")
        report(store, rows, sizes, size, args, work, folder, results)


def report(store, rows, sizes, size, args, work, folder, results):
    middle = statistics.median
    head = f"{'':10}{'':12}{'s':>8}{'MB/s':>8}{'CPU s':>8}{'RSS MiB':>9}{'ratio':>7}"
    note(head + (f"{'requests':>10}{'server CPU':>12}" if store.name != "local" else ""))
    peak = 0
    for phase in BARS:
        seconds = {name: [cost.seconds for cost, _, _ in rows[phase, name]] for name in ("strongroom", "restic", "rustic")}
        best = [min(pair) for pair in zip(seconds["restic"], seconds["rustic"])]
        ratios = [theirs / ours for theirs, ours in zip(best, seconds["strongroom"])]
        for name in ("strongroom", "restic", "rustic"):
            costs = rows[phase, name]
            line = f"{phase if name == 'strongroom' else '':10}{name:12}{middle(seconds[name]):8.2f}"
            line += f"{size / 1e6 / middle(seconds[name]):8.0f}{middle(c.cpu for c, _, _ in costs):8.2f}"
            line += f"{max(c.peak_mib for c, _, _ in costs):9.0f}"
            line += f"{middle(ratios):7.2f}" if name == "strongroom" else f"{'':7}"
            if store.name != "local":
                line += f"{middle(r for _, r, _ in costs):10.0f}{middle(s for _, _, s in costs):12.2f}"
            note(line)
            results.setdefault(store.name, {}).setdefault(phase, {})[name] = [
                {"seconds": c.seconds, "cpu": c.cpu, "peak_mib": c.peak_mib, "requests": r, "server_cpu": s} for c, r, s in costs
            ]
        peak = max([peak] + [c.peak_mib for c, _, _ in rows[phase, "strongroom"]])
        bar(f"{store.name} {phase}", middle(ratios) >= BARS[phase], f"{middle(ratios):.2f} times the faster peer (bar {BARS[phase]})")
    bar(f"{store.name} peak memory", peak <= 128, f"{peak:.0f} MiB (bar 128)")
    if store.name == "local":
        theirs = min(sizes["restic"], sizes["rustic"])
        ours = sizes["strongroom"]
        note(f"repository after the first backup: restic {sizes['restic'] / 1e6:.0f} MB, rustic {sizes['rustic'] / 1e6:.0f} MB")
        bar("size at the default level", ours <= 1.12 * theirs, f"{ours / 1e6:.0f} MB, {ours / theirs - 1:+.1%} (bar +12%)")
        matching = tools.Strongroom(store, "matching", work, level=3, memory=args.memory)
        matching.init()
        cost = matching.backup(folder)
        level3 = store.size("matching")
        bar("size at the level of the peers (3)", level3 <= theirs, f"{level3 / 1e6:.0f} MB, {level3 / theirs - 1:+.1%}, in {cost.seconds:.1f} s")
        results["sizes"] = sizes | {"strongroom-level-3": level3}
        if not args.quick:
            within(args, store, work, folder, "corpus", results)


def within(args, store, work, folder, name, results):
    """Backup, check, restore and prune inside 128 MiB."""
    note(f"-- {name} within a cgroup of 128 MiB")
    one = tools.Strongroom(store, f"within-{name}", work, memory=args.memory)
    one.init()
    target = f"{work}/restored-{name}"
    for phase, action in [
        ("backup", lambda c: one.backup(folder, cgroup=c, check=False)),
        ("again", lambda c: one.backup(folder, cgroup=c, check=False)),
        ("check", lambda c: one.check(cgroup=c, check=False)),
        ("restore", lambda c: one.restore(folder, target, cgroup=c, check=False)),
        ("prune", lambda c: one.prune(cgroup=c, check=False)),
    ]:
        with measure.Cgroup(128) as group:
            cost = action(group)
        figure = f"{cost.seconds:.1f} s, RSS {cost.peak_mib:.0f} MiB, exit {cost.status}, OOM kills {cost.oom_kills}"
        results.setdefault(f"within-{name}", {})[phase] = figure
        bar(f"{name} {phase} in 128 MiB", group is not None and cost.status == 0, figure)
        if cost.status != 0:
            note(cost.output[-1500:])
    shutil.rmtree(target, ignore_errors=True)
    store.drop(f"within-{name}")


def million(args, make_store, results):
    count = 10_000 if args.quick else 1_000_000
    folder = f"{CACHE}/bench/million"
    note(f"\n== {count} small files")
    corpus.million(folder, count)
    with tempfile.TemporaryDirectory(dir=f"{CACHE}/bench") as work, tools.Local(f"{work}/store") as store:
        within(args, store, work, folder, "million", results)


def dump(args, make_store, results):
    """The same database on consecutive days: what each day adds, and what the run costs beside the bare pg_dump."""
    rows = 300_000 if args.quick else 6_500_000
    note(f"\n== dumps: a ledger of {rows} rows")
    with (
        corpus.Cluster(os.environ["POSTGRES"]) as cluster,
        tempfile.TemporaryDirectory(dir=f"{CACHE}/bench") as work,
        tools.Local(f"{work}/store") as store,
    ):
        cluster.ledger(rows)
        dump_size = int(subprocess.run(f"{cluster.bin}/pg_dump -Fc -Z0 '{cluster.url('ledger')}' | wc -c", shell=True,
                                       capture_output=True, text=True, check=True).stdout)
        note(f"database {int(cluster.sql('SELECT pg_database_size(current_database())', 'ledger')) / 1e9:.2f} GB, dump {dump_size / 1e9:.2f} GB")
        environment = os.environ["PATH"]
        os.environ["PATH"] = f"{cluster.bin}:{environment}"
        job = {"pg_dump": {"url": cluster.url("ledger"), "databases": ["ledger"]}}
        one = tools.Strongroom(store, "dumps", work, job=job, memory=args.memory)
        one.init()
        sizes = []
        ratios = []

        def day():
            # In turn with the bare pg_dump, which is timed right before.
            bare = measure.run(["sh", "-c", f"exec {cluster.bin}/pg_dump -Fc -Z0 '{cluster.url('ledger')}' > /dev/null"])
            server = measure.cpu_of(cluster.pid)
            cost = one.backup(None)
            # The run's own CPU (pg_dump is its child) and the server's.
            cpu = cost.cpu + measure.cpu_of(cluster.pid) - server
            allowed = max(bare.seconds, cpu / 2)
            ratios.append(cost.seconds / allowed)
            sizes.append(store.size("dumps"))
            note(f"  run {cost.seconds:.2f} s, bare pg_dump {bare.seconds:.2f} s, all CPU {cpu:.2f} s, RSS {cost.peak_mib:.0f} MiB, repository {sizes[-1] / 1e6:.1f} MB")

        day()
        share = rows // 500
        start = rows // 3
        cluster.sql(f"UPDATE ledger SET version = version + 1 WHERE id BETWEEN {start} AND {start + share - 1}", "ledger")
        day()
        adjacent = (sizes[1] - sizes[0]) / sizes[0]
        cluster.sql("UPDATE ledger SET version = version + 1 WHERE id % 500 = 7", "ledger")
        day()
        scattered = (sizes[2] - sizes[1]) / sizes[0]
        os.environ["PATH"] = environment
        bar("second day, 0.2 % adjacent rows", adjacent <= 0.03, f"adds {adjacent:.2%} of the first day (bar 3 %)")
        note(f"         scattered 0.2 % of rows: adds {scattered:.2%} (no bar)")
        bar("time of a dump run", statistics.median(ratios) <= 1.1, f"{statistics.median(ratios):.2f} times what is allowed (bar 1.1)")
        results["dump"] = {"adjacent": adjacent, "scattered": scattered, "time": ratios}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--quick", action="store_true", help="a tenth of the data, one round: shows that all works, not how fast")
    parser.add_argument("--only", default="files,dump,million,physical")
    parser.add_argument("--stores", default="local,s3")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--corpus-gb", type=float)
    parser.add_argument("--memory", default="96MiB", help="our memory budget; the rest of 128 MiB is for code, stacks and the allocator")
    physical.options(parser)
    parser.add_argument("--json", help="where the figures go as JSON")
    args = parser.parse_args()
    args.rounds = args.rounds or (1 if args.quick else 3)
    args.corpus_gb = args.corpus_gb or (0.6 if args.quick else 6.0)

    os.makedirs(f"{CACHE}/bench", exist_ok=True)
    measure.more_files()
    tools.Restic.program = f"{CACHE}/restic-0.19/bin/restic"
    tools.Rustic.program = f"{CACHE}/rustic-0.11.4/bin/rustic"
    tools.Strongroom.program = os.environ["STRONGROOM_BIN"]
    with open("/proc/cpuinfo") as file:
        model = next((line.split(":")[1].strip() for line in file if line.startswith("model name")), platform.machine())
    note(f"{model}, {os.cpu_count()} cores; our memory budget: {args.memory}")
    for program, flag in ((tools.Strongroom.program, "version"), (tools.Restic.program, "version"), (tools.Rustic.program, "--version")):
        note("  " + measure.run([program, flag]).output.strip().splitlines()[0])

    weed = f"{CACHE}/seaweedfs-4.48/bin/weed"
    makers = {"local": tools.Local, "s3": lambda folder: tools.SeaweedFs(folder, weed)}
    results = {"machine": model, "cores": os.cpu_count()}
    for part in args.only.split(","):
        stores = args.stores.split(",") if part == "files" else ["local"]
        for store in stores:
            try:
                {"files": files, "dump": dump, "million": million, "physical": physical.run}[part](args, makers[store], results)
            except measure.Failed as error:
                bar(f"{part} on {store}", False, f"failed: {error}")
    missed = [v for v in verdicts if not v[1]]
    note(f"\n{len(verdicts) - len(missed)} bars met, {len(missed)} not")
    for name, _, figure in missed:
        note(f"  {name}: {figure.splitlines()[0]}")
    results["bars"] = [{"name": n, "met": m, "figure": f} for n, m, f in verdicts]
    if args.json:
        with open(args.json, "w") as file:
            json.dump(results, file, indent=1)
    # Figures of a quick run mean nothing; a failure still does.
    sys.exit(1 if any("failed" in v[2] for v in missed) or (missed and not args.quick) else 0)


if __name__ == "__main__":
    main()
