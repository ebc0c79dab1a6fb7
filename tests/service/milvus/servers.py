"""Two servers of Milvus' protocol for tests: milvus-lite, and the real Milvus 2.3.5.

Each lies in an environment of its own, which `make milvus-env` makes.
"""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from service.errors import IndexUnavailable
from tests.outside import free_port

ENVIRONMENTS = Path(os.environ.get("REID_TEST_MILVUS", Path(__file__).parents[3] / ".milvus"))
LITE = ENVIRONMENTS / "lite" / "bin" / "milvus-lite"
REAL = ENVIRONMENTS / "real" / "bin" / "milvus-server"
INSIDE_PORT = 19530
START_SECONDS = 120.0


class Server:
    """A server that can be killed, stopped for a while, and started again on its data."""

    def __init__(self, folder, url, command):
        self.folder = folder
        self.url = url
        self.command = [str(word) for word in command]

    def start(self):
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until and self.process.poll() is None:
            with (
                contextlib.suppress(IndexUnavailable),
                contextlib.closing(self.connect()) as server,
            ):
                server.collections()
                return
            time.sleep(0.1)
        pytest.fail(f"no Milvus: {(self.folder / 'log').read_text(errors='replace')[-2000:]}")

    def send(self, number):
        os.killpg(self.process.pid, number)

    def connect(self):
        from service.milvus.server import MilvusServer

        return MilvusServer(self.url)

    def kill(self):
        with contextlib.suppress(ProcessLookupError):
            self.send(signal.SIGKILL)
        self.process.wait(20)


@contextlib.contextmanager
def _lite(folder):
    # It always shows the newest, at every level of consistency.
    port = free_port()
    command = (LITE, "server", "--data-dir", folder / "data", "--host", "127.0.0.1", "--port", port)
    yield Server(folder, f"http://127.0.0.1:{port}", command)


@contextlib.contextmanager
def _real(folder):
    command = [sys.executable, Path(__file__).with_name("relay.py"), str(INSIDE_PORT)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as relay:
        try:
            port = relay.stdout.readline().decode().strip()
            if not port:
                pytest.skip("a network namespace cannot be made here: unshare -n needs root")
            programs = ENVIRONMENTS / "real" / "milvus-bin"
            programs.mkdir(exist_ok=True)
            (folder / "data").mkdir()
            # Unpacking them takes 10 s.
            (folder / "data" / "bin").symlink_to(programs)
            inside = ("nsenter", "-t", relay.pid, "-n")
            command = (*inside, REAL, "--data", folder / "data", "--proxy-port", INSIDE_PORT)
            yield Server(folder, f"http://127.0.0.1:{port}", command)
        finally:
            relay.kill()


SERVERS = {"lite": (_lite, LITE), "real": (_real, REAL)}


@contextlib.contextmanager
def milvus_server(kind):
    """Yield a server of a kind, gone afterwards with its files; skip where there is none."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed: make milvus-env")
    make, binary = SERVERS[kind]
    if not binary.exists():
        pytest.skip(f"{binary} is missing: make milvus-env")
    with contextlib.ExitStack() as held:
        folder = held.enter_context(
            tempfile.TemporaryDirectory(prefix=f"milvus-{kind}-", ignore_cleanup_errors=True)
        )
        server = held.enter_context(make(Path(folder)))
        held.callback(server.kill)
        server.start()
        yield server
