"""Prints what the demo measured, from the snapshot list (standard input), the daemon's metrics and the restore times."""

import json
import os
import re
import subprocess
import sys

work, peak_kib = sys.argv[1], int(sys.argv[2])

listed = json.load(sys.stdin)
snapshots = {s["job"]: s for s in (listed if isinstance(listed, list) else listed["snapshots"])}
restored = dict(line.split() for line in open(f"{work}/restore-times"))


def metric(name, job):
    """The value of one of the daemon's figures for a job, or None."""
    for line in open(f"{work}/metrics"):
        if line.startswith(name) and re.search(rf'job="{job}"', line):
            return float(line.rsplit(None, 1)[1])
    return None


def size(number):
    for unit in ("B", "KB", "MB", "GB"):
        if number < 1000 or unit == "GB":
            return f"{number:.0f} {unit}" if unit in ("B", "KB") else f"{number:.1f} {unit}"
        number /= 1000


def rate(number, seconds):
    return f"{number / seconds / 1e6:.0f} MB/s" if seconds else ""


print(f"{'job':10} {'source':>10} {'backup':>8} {'rate':>9} {'restore':>8} {'rate':>9}")
total = 0
for job, snapshot in sorted(snapshots.items()):
    taken = metric("strongroom_backup_duration_seconds", job)
    back = float(restored[job])
    count = snapshot["bytes"]
    total += count
    print(
        f"{job:10} {size(count):>10} {f'{taken:.1f} s' if taken else '':>8} {rate(count, taken):>9} "
        f"{back:>6.1f} s {rate(count, back):>9}"
    )
stored = int(subprocess.run(["du", "-sb", f"{work}/store"], capture_output=True, check=True, text=True).stdout.split()[0])
print(f"\nread {size(total)}, stored {size(stored)}; the daemon's peak memory was {peak_kib / 1024:.0f} MiB")
