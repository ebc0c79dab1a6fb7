"""Two servers of Milvus' protocol for tests: milvus-lite, and the real Milvus 2.3.5.

Each lies in an environment of its own, which `make milvus-env` makes.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.service.redis_server import free_port

if TYPE_CHECKING:
    from service.milvus.server import MilvusServer

ENVIRONMENTS = Path(os.environ.get("REID_TEST_MILVUS", Path(__file__).parents[3] / ".milvus"))
LITE = ENVIRONMENTS / "lite" / "bin" / "milvus-lite"
REAL = ENVIRONMENTS / "real" / "bin" / "milvus-server"
INSIDE_PORT = 19530
LITE_SECONDS = 30.0
REAL_SECONDS = 120.0


class TestServer:
    """A server that can be killed, stopped for a while, and started again on its data."""

    __test__ = False
    exact_limits: bool

    def __init__(self, folder: Path, seconds: float) -> None:
        self.folder = folder
        self.seconds = seconds
        self.url = ""
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server, or start it again on its files, and return once it answers."""
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self._command(), stdout=log, stderr=log, start_new_session=True, cwd=self.folder
            )
        until = time.monotonic() + self.seconds
        while time.monotonic() < until and self.process.poll() is None:
            if self._answers():
                return
            time.sleep(0.1)
        pytest.fail(f"no Milvus: {(self.folder / 'log').read_text(errors='replace')[-2000:]}")

    def _answers(self) -> bool:
        from pymilvus import MilvusClient, MilvusException

        with contextlib.suppress(MilvusException):
            client = MilvusClient(self.url, timeout=1)
            try:
                client.list_collections(timeout=1)
                return True
            finally:
                client.close()
        return False

    def send(self, number: signal.Signals) -> None:
        assert self.process is not None
        os.killpg(self.process.pid, number)

    def connect(self) -> MilvusServer:
        from service.milvus.server import MilvusServer

        return MilvusServer(self.url)

    def kill(self) -> None:
        if self.process is not None:
            with contextlib.suppress(ProcessLookupError):
                self.send(signal.SIGKILL)
            self.process.wait(20)

    def close(self) -> None:
        self.kill()

    def _command(self) -> list[str]:
        raise NotImplementedError


class Lite(TestServer):
    """milvus-lite: always shows the newest, at every level of consistency."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, LITE_SECONDS)
        self._port = free_port()
        self.url = f"http://127.0.0.1:{self._port}"

    def _command(self) -> list[str]:
        place = ("--host", "127.0.0.1", "--port", str(self._port))
        return [str(LITE), "server", "--data-dir", str(self.folder / "data"), *place]


class Real(TestServer):
    """Milvus 2.3.5 in a network namespace of its own."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, REAL_SECONDS)
        relay = [sys.executable, str(Path(__file__).with_name("relay.py")), str(INSIDE_PORT)]
        self._relay = subprocess.Popen(relay, stdout=subprocess.PIPE)
        assert self._relay.stdout is not None
        port = self._relay.stdout.readline().decode().strip()
        if not port:
            self._relay.wait()
            pytest.skip("a network namespace cannot be made here: unshare -n needs root")
        self.url = f"http://127.0.0.1:{port}"
        data = folder / "data"
        programs = ENVIRONMENTS / "real" / "milvus-bin"
        programs.mkdir(exist_ok=True)
        data.mkdir()
        # Unpacking them takes 10 s.
        (data / "bin").symlink_to(programs)

    def _command(self) -> list[str]:
        inside = ["nsenter", "-t", str(self._relay.pid), "-n"]
        port = ("--proxy-port", str(INSIDE_PORT))
        return [*inside, str(REAL), "--data", str(self.folder / "data"), *port]

    def close(self) -> None:
        """End the server for good, with its namespace."""
        super().close()
        self._relay.kill()
        self._relay.communicate()


SERVERS: dict[str, tuple[type[Lite | Real], Path]] = {"lite": (Lite, LITE), "real": (Real, REAL)}


@contextlib.contextmanager
def milvus_server(kind: str) -> Iterator[Lite | Real]:
    """Yield a server of a kind, gone afterwards with its files; skip where there is none."""
    pytest.importorskip("pymilvus", reason="pymilvus is not installed: make milvus-env")
    make, binary = SERVERS[kind]
    if not binary.exists():
        pytest.skip(f"{binary} is missing: make milvus-env")
    folder = Path(tempfile.mkdtemp(prefix=f"milvus-{kind}-"))
    server: Lite | Real | None = None
    try:
        server = make(folder)
        server.start()
        yield server
    finally:
        if server is not None:
            server.close()
        shutil.rmtree(folder, ignore_errors=True)
