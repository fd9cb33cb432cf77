"""Prints what the demo measured, from the snapshot list (standard input) and the restore times."""

import datetime
import json
import subprocess
import sys

work, peak_kib = sys.argv[1], int(sys.argv[2])

runs = {}
for snapshot in json.load(sys.stdin)["snapshots"]:
    runs.setdefault(snapshot["job"], []).append(snapshot)
restored = dict(line.split() for line in open(f"{work}/restore-times"))


def seconds(snapshot):
    """How long the run took; Python reads six digits of a second, not nine."""
    start, end = (datetime.datetime.fromisoformat(snapshot[key][:26].rstrip("Z") + "+00:00") for key in ("time", "end"))
    return (end - start).total_seconds()


def size(number):
    for unit in ("B", "kB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number} {unit}" if unit == "B" else f"{number:.1f} {unit}"
        number /= 1000


def took(count, time, rate=True):
    return f"{time:6.2f} s" + (f" {count / time / 1e6:6.0f} MB/s" if rate and time and count > 1e6 else f"{'':12}")


print(f"{'job':10}{'source':>10}   {'first backup':23}{'by schedule':23}{'restore'}")
for job, snapshots in sorted(runs.items()):
    snapshots.sort(key=lambda s: s["time"])
    first, last = snapshots[0], snapshots[-1]
    count = last["bytes"]
    # What has not changed is not read again, so a rate would say nothing.
    columns = took(count, seconds(first)), took(count, seconds(last), rate=False), took(count, float(restored[job]))
    print(f"{job:10}{size(count):>10}   " + "   ".join(columns))
read = sum(s["bytes"] for snapshots in runs.values() for s in snapshots)
stored = int(subprocess.run(["du", "-sb", f"{work}/store"], capture_output=True, check=True, text=True).stdout.split()[0])
print(f"\n{size(read)} backed up, {size(stored)} stored; the daemon's peak memory was {peak_kib / 1024:.0f} MiB")
