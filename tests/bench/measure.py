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
            with open(cgroup.procs, "w") as procs:
                procs.write("0")

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
    """A memory limit (cgroup v1 or v2); needs root. `with Cgroup(128) as c:`; c is None where it cannot be had."""

    def __init__(self, limit_mib):
        self.limit = limit_mib * 1024 * 1024
        self.v1 = os.path.isfile("/sys/fs/cgroup/memory/memory.limit_in_bytes")
        root = "/sys/fs/cgroup/memory" if self.v1 else "/sys/fs/cgroup"
        self.path = f"{root}/strongroom-bench-{os.getpid()}"
        self.procs = f"{self.path}/cgroup.procs"

    def __enter__(self):
        try:
            os.mkdir(self.path)
            self.write("memory.limit_in_bytes" if self.v1 else "memory.max", self.limit)
            if not self.v1:
                self.write("memory.swap.max", 0)
        except OSError as error:
            print(f"no memory cgroup here ({error}): run as root to measure within a limit", file=sys.stderr)
            return None
        return self

    def __exit__(self, *_):
        try:
            os.rmdir(self.path)
        except OSError:
            pass

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
