"""What a program costs with all the processes it starts, those it leaves behind included."""

import os
import signal
import threading
import time

import measure


class Watch:
    """Looks every tenth of a second how much memory a group's processes have, shared pages counted once. More often it would be one of
    the programs that are measured."""

    def __init__(self, group):
        self.group, self.peak_mib, self.over = group, 0.0, threading.Event()
        self.thread = threading.Thread(target=self.look, daemon=True)

    def __enter__(self):
        self.thread.start()
        return self

    def __exit__(self, *_):
        self.over.set()
        self.thread.join()

    def look(self):
        while not self.over.wait(0.1):
            self.peak_mib = max(self.peak_mib, sum(map(memory_mib, self.group.pids())))


def memory_mib(pid):
    try:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            return next((int(line.split()[1]) / 1024 for line in file if line.startswith("Pss:")), 0.0)
    except OSError:
        return 0.0


def run(command, limit_mib=None, helpers=(), **options):
    """As measure.run, but CPU and memory are those of the whole tree (without cgroups: of the program and what it waited for).
    `helpers`: processes that work for it and go on afterwards; they are counted too."""
    with measure.Cgroup(limit_mib) as group:
        if group is None:
            if limit_mib:
                raise measure.Failed("a memory limit needs a cgroup")
            return measure.run(command, **options)
        try:
            for pid in helpers:
                group.enter(pid)
            with Watch(group) as watch:
                cost = measure.run(command, cgroup=group, **options)
            cost.cpu, cost.peak_mib = group.cpu(), watch.peak_mib
        finally:
            for pid in helpers:
                group.leave(pid)
            end(group)
        return cost


def end(group):
    """Ends what is still running in the group, and waits for that."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        for pid in group.pids():
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass
        for _ in range(100):
            if not group.pids():
                return
            time.sleep(0.02)
