"""The three programs, each told to do the same four things: back up, check, restore, and say what it stored."""

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.request

import measure

PASSWORD = "bench"
KEY, SECRET, BUCKET = "benchkey", "benchsecret", "bench"


class Local:
    """Repositories as directories below `folder`."""

    name = "local"

    def __init__(self, folder):
        self.folder = folder

    def __enter__(self):
        os.makedirs(self.folder, exist_ok=True)
        return self

    def __exit__(self, *_):
        shutil.rmtree(self.folder, ignore_errors=True)

    def place(self, repository):
        return f"{self.folder}/{repository}"

    def size(self, repository):
        return sum(os.path.getsize(f"{at}/{name}") for at, _, names in os.walk(self.place(repository)) for name in names)

    def drop(self, repository):
        shutil.rmtree(self.place(repository), ignore_errors=True)

    def requests(self):
        return None

    def cpu(self):
        return 0.0


class SeaweedFs:
    """Repositories as prefixes of one bucket of a private S3 server."""

    name = "s3"

    def __init__(self, folder, weed):
        self.folder, self.weed, self.server = folder, weed, None

    def __enter__(self):
        os.makedirs(f"{self.folder}/data", exist_ok=True)
        # Every port also takes the one 10,000 above it.
        self.port, *ports, self.metrics = free_ports(6)
        with open(f"{self.folder}/s3.json", "w") as file:
            actions = ["Admin", "Read", "Write", "List", "Tagging"]
            identity = {"name": "bench", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": actions}
            json.dump({"identities": [identity]}, file)
        names = ["master.port", "volume.port", "filer.port", "admin.port"]
        command = [
            self.weed, "-logtostderr=true", "mini", f"-dir={self.folder}/data", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            "-master.telemetry=false", "-admin.ui=false", "-webdav=false", "-s3.port.iceberg=0", "-s3.port.lance=0",
            f"-s3.config={self.folder}/s3.json", f"-s3.port={self.port}", f"-metricsPort={self.metrics}",
            "-s3.autoCreateBucket=false", f"-bucket={BUCKET}", *(f"-{n}={p}" for n, p in zip(names, ports)),
        ]
        self.log = open(f"{self.folder}/log", "w")
        self.server = subprocess.Popen(command, stdout=self.log, stderr=self.log, cwd=self.folder)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        for _ in range(300):
            try:
                urllib.request.urlopen(f"{self.endpoint}/healthz", timeout=1)
                break
            except OSError:
                time.sleep(0.1)
        # The bucket is there a moment after the server says it is well.
        restic = {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET, "RESTIC_PASSWORD": PASSWORD}
        for _ in range(60):
            started = measure.run([Restic.program, "-r", f"s3:{self.endpoint}/{BUCKET}/ready", "init"], env=restic, check=False)
            if started.status == 0:
                return self
            time.sleep(0.5)
        raise measure.Failed(f"the S3 server does not come up: {started.output}")

    def __exit__(self, *_):
        self.server.terminate()
        try:
            self.server.wait(30)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def counters(self, name):
        text = urllib.request.urlopen(f"http://127.0.0.1:{self.metrics}/metrics", timeout=10).read().decode()
        return sum(float(line.rsplit(None, 1)[1]) for line in text.splitlines() if line.startswith(name + "{"))

    def requests(self):
        return self.counters("SeaweedFS_s3_request_total")

    def cpu(self):
        return measure.cpu_of(self.server.pid)

    def size(self, repository):
        return None

    def drop(self, repository):
        pass


def free_ports(count):
    found = []
    for port in range(21000 + os.getpid() % 3000, 32000, 7):
        with socket.socket() as one, socket.socket() as two:
            try:
                one.bind(("127.0.0.1", port))
                two.bind(("127.0.0.1", port + 10000))
            except OSError:
                continue
        found.append(port)
        if len(found) == count:
            return found
    raise measure.Failed("no free ports")


class Restic:
    name = "restic"
    program = None

    def __init__(self, store, repository, work, memory=None):
        del memory
        self.env = {"RESTIC_PASSWORD": PASSWORD}
        if store.name == "local":
            place = store.place(repository)
        else:
            place = f"s3:{store.endpoint}/{BUCKET}/{repository}"
            self.env |= {"AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET}
        self.command = [self.program, "--repo", place, "--cache-dir", f"{work}/cache-restic", "--quiet"]

    def call(self, *arguments, **options):
        return measure.run([*self.command, *arguments], env=self.env, **options)

    def init(self):
        self.call("init")

    def backup(self, folder, **options):
        return self.call("backup", folder, **options)

    def restore(self, folder, target, **options):
        return self.call("restore", f"latest:{folder}", "--target", target, **options)

    def check(self, **options):
        return self.call("check", **options)


class Rustic:
    name = "rustic"
    program = None

    def __init__(self, store, repository, work, memory=None):
        del memory
        os.makedirs(f"{work}/home", exist_ok=True)
        profile = f"{work}/rustic-{repository}"
        with open(f"{profile}.toml", "w") as file:
            file.write(f'[repository]\npassword = "{PASSWORD}"\ncache-dir = "{work}/cache-rustic"\n')
            if store.name == "local":
                file.write(f'repository = "{store.place(repository)}"\n')
            else:
                file.write('repository = "opendal:s3"\n[repository.options]\nregion = "us-east-1"\n')
                file.write(f'bucket = "{BUCKET}"\nroot = "/{repository}"\nendpoint = "{store.endpoint}"\n')
                file.write(f'access_key_id = "{KEY}"\nsecret_access_key = "{SECRET}"\n')
        self.env = {"HOME": f"{work}/home"}
        self.command = [self.program, "--use-profile", profile, "--no-progress", "--log-level", "error"]

    call = Restic.call

    def init(self):
        self.call("init")

    def backup(self, folder, **options):
        return self.call("backup", folder, **options)

    def restore(self, folder, target, **options):
        return self.call("restore", f"latest:{folder}", target, **options)

    def check(self, **options):
        return self.call("check", **options)


class Strongroom:
    name = "strongroom"
    program = None

    def __init__(self, store, repository, work, memory, level=None, job=None):
        """`job`: the source of the one job (JSON is YAML, too); by default the volume that `backup` is given."""
        self.work, self.repository, self.job = work, repository, job
        if store.name == "local":
            place = {"url": f"file://{store.place(repository)}"}
        else:
            place = {
                "url": f"s3://{BUCKET}/{repository}",
                "allow_http": True,
                "s3": {"endpoint": store.endpoint, "path_style": True, "region": "us-east-1",
                       "access_key_id": KEY, "secret_access_key": {"value": SECRET}},
            }
        place |= {"password": {"value": PASSWORD}, "layout": "{root}"}
        if level is not None:
            place["compression"] = level
        self.settings = {
            "environment": "bench",
            "repository": place,
            "tenants": {"bench": {"jobs": {}}},
            "limits": {"memory": memory},
            "cache_dir": f"{work}/cache-strongroom",
        }
        self.config = f"{work}/strongroom-{repository}.yaml"
        self.env = {"HOME": work}
        self.command = [self.program, "--config", self.config, "--json", "-q"]

    call = Restic.call

    def configure(self, source):
        self.settings["tenants"]["bench"]["jobs"]["data"] = source
        with open(self.config, "w") as file:
            json.dump(self.settings, file)

    def init(self):
        self.configure(self.job or {"volume": {"path": "/nowhere"}})
        self.call("init")

    def backup(self, folder, **options):
        self.configure(self.job or {"volume": {"path": folder}})
        return self.call("backup", "bench/data", **options)

    def restore(self, folder, target, **options):
        del folder
        return self.call("restore", "bench/data", "--to", target, **options)

    def check(self, **options):
        return self.call("check", "bench", **options)

    def prune(self, **options):
        return self.call("prune", "bench", **options)
