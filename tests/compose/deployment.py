"""A deployment in a copy of the repository: a shell for the guide's commands, and its processes."""

from __future__ import annotations

import contextlib
import json
import os
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import httpx2

from tests.compose.guide import blocks

ROOT = Path(__file__).parents[2]
PROJECT = "gmn-compose-test"
PROCESSES = 2
# A container that was killed has ended by then.
END_SECONDS = 30.0
# These run inside a container, whose clock is that of outside. A process that is killed frees its
# memory before it lets go of its connections: until then it is still asked. With the first process
# the container ends, and often the one that watches too.
KILL = """
import os, sys, time
for pid in sorted(filter(str.isdigit, os.listdir("/proc")), key=int):
    words = open(f"/proc/{pid}/cmdline", "rb").read()
    if int(pid) not in (1, os.getpid()) and sys.argv[1].encode() in words:
        print(time.time(), flush=True)
        os.kill(int(pid), 9)
        while os.path.exists(f"/proc/{pid}") and ") Z" not in open(f"/proc/{pid}/stat").read():
            time.sleep(0.01)
        print(time.time(), flush=True)
        break
"""
# In the command line of a process behind the port, and of the one that started it.
OF_PROCESS = "spawn_main"
OF_CONTAINER = "serve"
KILL_REDIS = """
for process in /proc/[0-9]*; do
  if [ "$(cat $process/comm)" = redis-server ]; then date +%s.%N; kill -9 "${process#/proc/}"; fi
done
"""
LAST_WORDS = """
docker compose ps
docker compose logs --tail 100 2>&1 | cut -c1-1500 | tail -60
"""
# Not every compose command knows a volume again that was removed by hand since it made it.
REMOVE_VOLUMES = """
docker volume ls -q | grep "^${COMPOSE_PROJECT_NAME}_" | xargs -r docker volume rm
"""
# Not every compose command can list the containers of one service.
SHIM = """#!/bin/sh
[ "$1" = compose ] || exec {engine} "$@"
shift
[ "$1 $2" = "ps -q" ] && exec {engine} ps -q \\
  --filter "label=com.docker.compose.project=$COMPOSE_PROJECT_NAME" \\
  --filter "label=com.docker.compose.service=$3"
exec {compose} "$@"
"""
ADDRESS = "import socket; print(socket.gethostbyname(socket.gethostname()))"


@dataclass(frozen=True)
class Death:
    """When a process was killed, and by when it had let go of its connections; since the epoch."""

    began: float
    ended: float


class Failed(Exception):
    """Something was not as it has to be."""


class Deployment:
    """The deployment of the guide, from a copy of this repository and under names of its own.

    The environment's `COMPOSE` is the compose command (`docker compose` without it), `ENGINE` the
    command of its containers (`docker`), and `COMPOSE_FILE` the files, by default those for the
    CPU.
    """

    def __init__(self):
        self.folder = Path(tempfile.mkdtemp(prefix="gmn-compose-"))
        self._blocks = blocks()
        self._began = time.monotonic()
        self.log = []
        self._environment = os.environ | {
            "COMPOSE_PROJECT_NAME": PROJECT,
            "COMPOSE_FILE": os.environ.get(
                "COMPOSE_FILE", "docker-compose.yml:docker-compose.cpu.yml"
            ),
            "IMAGE_TAG": "compose-test",
            "PROCESSES": str(PROCESSES),
            "HTTPS_PORT": str(_free_port()),
            "PROMETHEUS_PORT": str(_free_port()),
            "ALERTMANAGER_PORT": str(_free_port()),
            "PATH": os.pathsep.join(
                (str(self.folder / ".bin"), str(Path(sys.executable).parent), os.environ["PATH"])
            ),
        }

    def __enter__(self):
        _copy_repository(self.folder)
        shim = self.folder / ".bin" / "docker"
        shim.parent.mkdir()
        docker = shutil.which("docker")
        engine = os.environ.get("ENGINE", docker)
        compose = os.environ.get("COMPOSE", f"{docker} compose")
        shim.write_text(SHIM.format(engine=engine, compose=compose))
        shim.chmod(0o755)
        if shutil.which("sudo") is None:
            # A machine without it has root alone.
            shim.with_name("sudo").write_text('#!/bin/sh\nexec "$@"\n')
            shim.with_name("sudo").chmod(0o755)
        return self

    def __exit__(self, kind, error, trace):
        if error is not None:
            self.say("failed; the last of the logs:")
            self._shell(LAST_WORDS, check=False, show=True)
        profiles = " ".join(
            f"--profile {profile}"
            for profile in ("monitor", "camera", "train", "milvus", "postgres")
        )
        self._shell(f"docker compose {profiles} down --volumes --remove-orphans", check=False)
        self._shell(REMOVE_VOLUMES, check=False)
        shutil.rmtree(self.folder, ignore_errors=True)

    def say(self, what):
        """Print a line of the run's log and keep it."""
        line = f"{time.monotonic() - self._began:7.1f} s  {what}\n"
        self.log.append(line)
        sys.stdout.write(line)
        sys.stdout.flush()

    def do(self, name):
        """Type a block of the guide, keep its exported variables, and return its output."""
        began = time.monotonic()
        shown = self._shell(self._blocks[name])
        self.say(f"guide: {name}, {time.monotonic() - began:.1f} s")
        return shown

    def compose(self, *words):
        return self._run(["docker", "compose", *words])

    def change(self, file, old, new):
        path = self.folder / file
        path.write_text(path.read_text(encoding="utf-8").replace(old, new, 1), encoding="utf-8")

    def set(self, **variables):
        self._environment |= variables

    @property
    def url(self):
        return f"https://localhost:{self._environment['HTTPS_PORT']}"

    @property
    def prometheus(self):
        return f"http://127.0.0.1:{self._environment['PROMETHEUS_PORT']}"

    @property
    def trust(self):
        return ssl.create_default_context(cafile=self.folder / "docker" / "secrets" / "tls.crt")

    def through_the_proxy(self):
        """Send a request through the proxy, to any process."""
        return httpx2.Client(
            base_url=self.url, headers=self._headers(), verify=self.trust, timeout=60
        )

    def container(self, number, service="service"):
        """Send a request to one of a service's containers, from 1, past the proxy."""
        ids = self._containers(service)
        if len(ids) < number:
            raise Failed(f"there are {len(ids)} containers of {service}")
        address = self._run(["docker", "exec", ids[number - 1], "python", "-c", ADDRESS]).strip()
        return httpx2.Client(base_url=f"http://{address}:8000", headers=self._headers(), timeout=60)

    @contextlib.contextmanager
    def processes(self):
        """Send a request to each process by a connection of its own."""
        until = time.monotonic() + 60
        with contextlib.ExitStack() as opened:
            found = {}
            while len(found) < PROCESSES:
                if time.monotonic() > until:
                    raise Failed(f"only {len(found)} processes answer")
                http = opened.enter_context(self.container(1))
                shown = http.get("/metrics").text
                (began,) = re.findall(r"^process_start_time_seconds (\S+)$", shown, re.MULTILINE)
                found.setdefault(began, http)
            yield list(found.values())

    def kill_process(self):
        """`kill -9` of one of the processes behind the port."""
        return self._kill("service", "python", "-c", KILL, OF_PROCESS)

    def kill_container(self):
        """`kill -9` of a container, by that of its first process."""
        (container,) = self._containers()
        first_process = ["docker", "inspect", "--format", "{{.State.Pid}}", container]
        former = self._run(first_process)
        death = self._kill("service", "python", "-c", KILL, OF_CONTAINER)
        # The other processes of the container, which may still answer, end after the first one.
        while self._run(first_process) == former:
            if time.time() - death.began > END_SECONDS:
                raise Failed(f"the container went on for {END_SECONDS:.0f} s after it was killed")
            time.sleep(0.02)
        return replace(death, ended=time.time())

    def kill(self, service):
        """`kill -9` of a container, which stays so."""
        began = time.time()
        (container,) = self._containers(service)
        self._run(["docker", "kill", "--signal", "KILL", container])
        return Death(began, time.time())

    def _containers(self, service="service"):
        """Return the ids of a service's containers."""
        return self._run(["docker", "compose", "ps", "-q", service]).split()

    def kill_redis(self):
        return self._kill("-u", "redis", "redis", "sh", "-c", KILL_REDIS)

    def _kill(self, *words):
        shown = self._run(["docker", "compose", "exec", "-T", *words], check=False)
        times = [float(word) for word in shown.split() if re.fullmatch(r"\d{10}\.\d+", word)]
        if not times:
            raise Failed(f"nothing was killed: {shown}")
        return Death(times[0], times[1] if len(times) > 1 else time.time())

    def settle(self):
        """Give the second container the number of the first one, which is gone.

        Docker knows containers by their labels, and podman-compose by their names.
        """
        if os.environ.get("COMPOSE_STAND_IN"):
            self._run(["docker", "rename", f"{PROJECT}_service_2", f"{PROJECT}_service_1"])

    def until_ready(self, containers=1, seconds=180.0, others=()):
        """Wait until each container is ready, and then until the proxy says so.

        Returns:
            How long that took, seconds.
        """
        began = time.monotonic()
        numbers = range(1, containers + 1)
        ways = {f"container {number}": partial(self.container, number) for number in numbers}
        for service in others:
            ways[service] = partial(self.container, 1, service)
        for name, way in (*ways.items(), ("the proxy", self.through_the_proxy)):
            while not _is_ready(way):
                if time.monotonic() - began > seconds:
                    raise Failed(f"{name} was not ready within {seconds:.0f} s")
                time.sleep(0.3)
        return time.monotonic() - began

    def _headers(self):
        return {"Authorization": f"Bearer {self._environment['GMN_API_KEY']}"}

    def _shell(self, script, check=True, show=False):
        kept = self.folder / ".environment"
        script = f"set -euo pipefail\n{script}\nenv -0 > {kept}\n"
        try:
            shown = self._run(["bash", "-c", script], check)
        finally:
            if kept.exists():
                pairs = kept.read_bytes().decode().split("\0")
                self._environment = dict(pair.split("=", 1) for pair in pairs if "=" in pair)
        if show:
            sys.stdout.write(shown)
        return shown

    def _run(self, command, check=True):
        ran = subprocess.run(
            command,
            cwd=self.folder,
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=1800,
        )
        if check and ran.returncode != 0:
            raise Failed(
                f"{' '.join(command)[:2000]}\nended with {ran.returncode}:\n"
                f"{ran.stdout[-4000:]}{ran.stderr[-4000:]}"
            )
        return ran.stdout + ("" if check else ran.stderr)


def read_json(response, *expected):
    """Return the answer, which has to have one of the statuses, 200 if none is named."""
    if response.status_code not in (expected or (200,)):
        raise Failed(
            f"{response.request.method} {response.request.url}: {response.status_code} "
            f"{response.text[:500]}"
        )
    return json.loads(response.text) if response.text else None


def now():
    return datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")


def _copy_repository(target):
    names = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
        cwd=ROOT,
        capture_output=True,
        check=True,
    ).stdout
    for name in filter(None, names.decode().split("\0")):
        if (ROOT / name).is_file() and not name.startswith(".venv"):
            (target / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, target / name)


def _free_port():
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])


def _is_ready(way):
    try:
        with way() as http:
            return http.get("/readyz", timeout=5).status_code == 200
    except (httpx2.TransportError, Failed):
        return False
