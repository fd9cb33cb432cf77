"""A day of a tenant that writes a little all the time: what it costs in requests, bytes, processor and memory.

The day is shortened, not computed: with `max_lag: 60s` a tenant that never rests is stored 1,440 times a day, and so often a
change is really made, streamed, stored and confirmed here; only the minutes between are left out. What the stream uses in
these minutes is measured over a short rest and multiplied."""

import json
import os
import subprocess
import time

import measure
from physical_cluster import Cluster
from physical_tools import Strongroom, copies
from verdict import note

STORED = 24 * 60
REST = 30
LAG_MS = 20

PROCEDURE = """
CREATE TABLE visits (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, at timestamptz DEFAULT now(), who uuid, what text);
CREATE PROCEDURE a_day(steps int) LANGUAGE plpgsql AS $$
DECLARE
    at pg_lsn;
BEGIN
    FOR step IN 1 .. steps LOOP
        INSERT INTO visits (who, what) VALUES (md5(step::text)::uuid, 'looked at page ' || step);
        UPDATE pgbench_accounts SET abalance = abalance + 1 WHERE aid = 1 + step % 100000;
        COMMIT;
        -- Every five minutes: pages are logged whole at their first change after it.
        IF step % 5 = 0 THEN
            CHECKPOINT;
        END IF;
        at := pg_current_wal_flush_lsn();
        WHILE NOT EXISTS (SELECT FROM pg_stat_replication WHERE flush_lsn >= at) LOOP
            COMMIT;
            PERFORM pg_sleep(0.005);
        END LOOP;
    END LOOP;
END $$;
"""


def run(args, results):
    program = os.path.join(os.path.dirname(os.environ["STRONGROOM_BIN"]), "examples", "stream")
    if not os.path.exists(program):
        note("\n(no day of a tenant that writes a little: build the example `stream` beside the binary)")
        return
    steps = STORED // 10 if args.quick else STORED
    with Cluster(os.environ["POSTGRES"]) as cluster:
        cluster.pgbench_init(1)
        cluster.script(PROCEDURE, "bench")
        cluster.settle()
        note(f"\n== a day of a tenant that writes a little each minute: {steps} of {STORED} changes")
        work = f"{cluster.folder}/work"
        cluster.folder_of(work)
        one = Strongroom("strongroom", cluster, work, args.level, args.memory, copies(cluster)["strongroom"])
        results = results.setdefault("slow tenant", {})
        backup("the base backup before", one, results)
        stream(cluster, one, cluster.program(program, "stream"), steps, results)
        backup("the base backup after", one, results)


def backup(name, one, results):
    cost = one.full()
    requests = json.loads(cost.output)["jobs"][0]["requests"]
    counted = {kind: n for kind, n in requests.items() if kind in ("put", "get", "head", "list", "delete")}
    note(f"{name + ':':26}{told(counted)}; {requests.get('bytes_out', 0) / 1e6:.2f} MB sent; "
         f"{cost.seconds:.1f} s, {cost.cpu:.2f} CPU s with the server's, {cost.peak_mib:.0f} MiB")
    results[name] = {"requests": requests, "cpu": cost.cpu, "seconds": cost.seconds, "peak_mib": cost.peak_mib}


def stream(cluster, one, program, steps, results):
    command = [*cluster.user, program, f"{one.place}/repo", cluster.url("postgres"), "bench", str(LAG_MS)]
    with open(f"{cluster.folder}/stream.log", "w") as log:
        env = os.environ | {"HOME": one.place}
        streaming = subprocess.Popen(command, cwd=one.place, env=env, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
                                     text=True)
    try:
        wait(cluster, streaming, f"{cluster.folder}/stream.log")
        # What it does at the start is over, and the server has logged what it logs after the last change.
        time.sleep(20)
        begin = look(streaming)
        time.sleep(REST)
        rested = look(streaming)
        before = cluster.sql("SELECT pg_current_wal_lsn()")
        started = time.monotonic()
        cluster.sql(f"CALL a_day({steps})", "bench")
        seconds = time.monotonic() - started
        written = float(cluster.sql(f"SELECT pg_current_wal_lsn() - '{before}'"))
        # The segment ends, so that its beginnings are removed as they would be.
        cluster.sql("SELECT pg_switch_wal()")
        time.sleep(3)
        ended = look(streaming)
        peak = peak_mib(streaming.pid)
    finally:
        streaming.stdin.close()
        streaming.wait()
    times, minutes = STORED / steps, 86_400 / REST
    day = {key: (ended[key] - rested[key]) * times + (rested[key] - begin[key]) * minutes for key in ended}
    requests = {kind: round(day[kind]) for kind in ("put", "get", "head", "list", "delete")}
    rest_cpu = max(0, rested["threads"] - begin["threads"]) * minutes
    day["cpu"] = (ended["cpu"] - rested["cpu"]) * times + rest_cpu
    results["stream"] = {"requests": requests, "sent": day["sent"], "received": day["received"], "wal": written * times,
                         "cpu": day["cpu"], "rest cpu": rest_cpu, "peak_mib": peak, "steps": steps}
    note(f"{'the WAL stream of a day:':26}{told(requests)}; {day['sent'] / 1e6:.2f} MB sent, {day['received'] / 1e6:.2f} MB received, of "
         f"{written * times / 1e6:.1f} MB of WAL; {day['cpu']:.1f} CPU s, {rest_cpu:.1f} of them at rest; {peak:.0f} MiB")
    note(f"{'':26}{seconds / steps * 1000:.0f} ms from a commit to its confirmation, {LAG_MS} of them waiting for more")


def told(requests):
    return ", ".join(f"{n} {kind}" for kind, n in requests.items() if n) or "nothing"


def wait(cluster, streaming, log):
    deadline = time.monotonic() + 60
    while cluster.sql("SELECT count(*) FROM pg_stat_replication WHERE state = 'streaming'") == "0":
        if streaming.poll() is not None or time.monotonic() > deadline:
            with open(log) as file:
                raise measure.Failed(f"nothing is streamed: {file.read()[-2000:]}")
        time.sleep(0.1)


def look(streaming):
    """What it asked of the store, and what it used, since it was started."""
    streaming.stdin.write("\n")
    streaming.stdin.flush()
    counts = json.loads(streaming.stdout.readline())
    return counts | {"cpu": measure.cpu_of(streaming.pid), "threads": cpu_of_threads(streaming.pid)}


def cpu_of_threads(pid):
    """CPU seconds of the threads that are there, to the nanosecond: a rest takes less than the clock's tick."""
    total = 0
    for thread in os.listdir(f"/proc/{pid}/task"):
        try:
            with open(f"/proc/{pid}/task/{thread}/schedstat") as file:
                total += int(file.read().split()[0])
        except OSError:
            pass
    return total / 1e9


def peak_mib(pid):
    with open(f"/proc/{pid}/status") as file:
        return next((int(line.split()[1]) / 1024 for line in file if line.startswith("VmHWM:")), 0.0)
