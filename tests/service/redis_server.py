"""A real redis-server with the shipped configuration, and a proxy that loses answers."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

SHIPPED = Path(__file__).parents[2] / "docker"
CONFIGURATION = SHIPPED / "redis.conf"
START = SHIPPED / "start_redis.sh"
BINARY = shutil.which("redis-server")
# What is killed here is a process and not a machine: a file system in memory does.
MEMORY = Path("/dev/shm")
# What a request contains that the proxy may lose the answer of.
COMMIT = b"EVALSHA"


def require_redis() -> str:
    """The binary's path; skips the test where there is none."""
    if BINARY is None:
        pytest.skip("redis-server is not installed: apt-get install redis-server")
    return BINARY


class RedisServer:
    """One redis-server on a free port of this machine, in a directory of its own.

    Options are given as on its command line and come after the shipped configuration.
    """

    def __init__(self, folder: Path, *options: str) -> None:
        self.folder = folder
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self._options = options
        self.start()

    def start(self) -> None:
        """Starts it, also again on what it kept; returns once it answers."""
        require_redis()
        place = ["--port", str(self.port), "--bind", "127.0.0.1"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                ["sh", str(START), str(CONFIGURATION), str(self.folder), *place, *self._options],
                stdout=log,
                stderr=log,
            )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(redis.RedisError):
                self.ask("PING")
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        said = (self.folder / "log").read_text(errors="replace")
        pytest.fail(f"redis-server did not start: {said[-2000:]}")

    def ask(self, *command: str | int) -> object:
        """One command by a connection of its own."""
        with redis.Redis.from_url(self.url, protocol=2) as client:
            return client.execute_command(*command)

    def kill(self) -> None:
        """kill -9."""
        self.process.kill()
        self.process.wait(20)


@contextlib.contextmanager
def redis_server(*options: str) -> Iterator[RedisServer]:
    """A server that is gone afterwards, with its files."""
    require_redis()
    place = MEMORY if MEMORY.is_dir() else None
    with tempfile.TemporaryDirectory(prefix="redis-", dir=place) as folder:
        server = RedisServer(Path(folder), *options)
        try:
            yield server
        finally:
            server.kill()


class LosingProxy:
    """Passes on what is sent to a port; once it is asked to, it loses the answers to commits.

    Attributes:
        port: where it listens.
    """

    def __init__(self, port: int) -> None:
        self._target = port
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listening.getsockname()[1])
        self.lost = 0
        self._answers_to_lose = 0
        self._sockets: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def lose_answers(self, number: int) -> None:
        """Of so many commits from now on, Redis gets the commit and its client no answer."""
        self._answers_to_lose = number

    def close(self) -> None:
        """Ends it with every connection."""
        for one in (self._listening, *self._sockets):
            with contextlib.suppress(OSError):
                one.shutdown(socket.SHUT_RDWR)
            one.close()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listening.accept()
            except OSError:
                return
            server = socket.create_connection(("127.0.0.1", self._target))
            self._sockets += [client, server]
            asked = threading.Event()
            threading.Thread(target=self._pass, args=(client, server, asked), daemon=True).start()
            threading.Thread(target=self._answer, args=(server, client, asked), daemon=True).start()

    def _pass(self, client: socket.socket, server: socket.socket, commits: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := client.recv(65536):
                if COMMIT in data:
                    commits.set()
                server.sendall(data)
            server.shutdown(socket.SHUT_WR)

    def _answer(
        self, server: socket.socket, client: socket.socket, commits: threading.Event
    ) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(65536):
                if commits.is_set() and self._answers_to_lose > 0:
                    self._answers_to_lose -= 1
                    self.lost += 1
                    break
                commits.clear()
                client.sendall(data)
            client.shutdown(socket.SHUT_RDWR)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        return int(free.getsockname()[1])
