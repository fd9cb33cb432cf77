"""Runs one command and says what it cost: seconds, CPU seconds, peak memory; within a memory cgroup if asked."""

import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass


@dataclass
class Cost:
    seconds: float
    cpu: float
    peak_mib: float
    """Largest resident set of the process itself."""
    output: str
    status: int
    cgroup_peak_mib: float = 0.0
    """What the cgroup was charged at most: with page cache, so it reaches the limit without harm."""
    oom_kills: int = 0


class Failed(Exception):
    pass


def run(command, env=None, cgroup=None, check=True, cwd=None):
    """Waits for `command`; raises Failed with its last words unless it exits 0 (or `check` is off)."""
    whole_env = {k: v for k, v in os.environ.items() if not k.startswith(("RESTIC_", "RUSTIC_", "AWS_"))}
    whole_env.update(env or {})

    def enter():
        if cgroup:
            cgroup.enter(0)

    started = time.monotonic()
    child = subprocess.Popen(
        command, env=whole_env, cwd=cwd, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        preexec_fn=enter,
    )
    output = child.stdout.read().decode(errors="replace")
    _, wait_status, usage = os.wait4(child.pid, 0)
    child.returncode = status = os.waitstatus_to_exitcode(wait_status)
    cost = Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024, output, status)
    if cgroup:
        cost.cgroup_peak_mib, cost.oom_kills = cgroup.peak_mib(), cgroup.oom_kills()
    if check and status != 0:
        raise Failed(f"{' '.join(map(str, command))} ended with {status}:\n{output[-3000:]}")
    return cost


class Cgroup:
    """A group of processes (cgroup v1 or v2), within a memory limit if one is given; needs root. `with Cgroup(128) as c:`; c is
    None where it cannot be had."""

    made = 0

    def __init__(self, limit_mib=None):
        self.limit = limit_mib and limit_mib * 1024 * 1024
        self.v1 = os.path.isfile("/sys/fs/cgroup/memory/memory.limit_in_bytes")
        Cgroup.made += 1
        name = f"strongroom-bench-{os.getpid()}-{Cgroup.made}"
        # Of the older kind there is one tree a resource; memory's is the first.
        roots = ["/sys/fs/cgroup/memory", "/sys/fs/cgroup/cpuacct"] if self.v1 else ["/sys/fs/cgroup"]
        self.paths = [f"{root}/{name}" for root in roots]
        self.path = self.paths[0]

    def __enter__(self):
        try:
            for path in self.paths:
                os.mkdir(path)
            if self.limit:
                self.write("memory.limit_in_bytes" if self.v1 else "memory.max", self.limit)
                if not self.v1:
                    self.write("memory.swap.max", 0)
        except OSError as error:
            print(f"no memory cgroup here ({error}): run as root to measure within a limit", file=sys.stderr)
            return None
        return self

    def __exit__(self, *_):
        for path in self.paths:
            try:
                os.rmdir(path)
            except OSError:
                pass

    def enter(self, pid):
        """This process (0: the caller) and those that it will start."""
        for path in self.paths:
            with open(f"{path}/cgroup.procs", "w") as procs:
                procs.write(str(pid))

    def leave(self, pid):
        for path in self.paths:
            with open(f"{os.path.dirname(path)}/cgroup.procs", "w") as procs:
                procs.write(str(pid))

    def pids(self):
        return [int(line) for line in self.read("cgroup.procs").split()]

    def cpu(self):
        """CPU seconds of all that ever ran in it."""
        if self.v1:
            with open(f"{self.paths[1]}/cpuacct.usage") as file:
                return int(file.read()) / 1e9
        return next((int(line.split()[1]) / 1e6 for line in self.read("cpu.stat").splitlines() if line.startswith("usage_usec ")), 0.0)

    def write(self, name, value):
        with open(f"{self.path}/{name}", "w") as file:
            file.write(str(value))

    def read(self, name):
        try:
            with open(f"{self.path}/{name}") as file:
                return file.read()
        except OSError:
            return ""

    def peak_mib(self):
        text = self.read("memory.max_usage_in_bytes" if self.v1 else "memory.peak")
        return int(text or 0) / 1024 / 1024

    def oom_kills(self):
        text = self.read("memory.oom_control" if self.v1 else "memory.events")
        return sum(int(line.split()[1]) for line in text.splitlines() if line.startswith("oom_kill "))


def cpu_of(pid):
    """CPU seconds of a process and of its children that ended."""
    with open(f"/proc/{pid}/stat") as file:
        fields = file.read().rsplit(")", 1)[1].split()
    return sum(int(n) for n in fields[11:15]) / os.sysconf("SC_CLK_TCK")


def more_files():
    """Lifts the soft limit of open files to the hard one, for everybody alike."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
