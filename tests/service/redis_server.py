"""A real redis-server that keeps nothing on the disk, as the shipped configuration has it."""

import contextlib
import shutil
import subprocess
import time
from pathlib import Path

import pytest
import redis

from tests.outside import free_port

CONFIGURATION = Path(__file__).parents[2] / "docker" / "redis.conf"
BINARY = shutil.which("redis-server")


class RedisServer:
    """One redis-server on a free port of this machine."""

    def __init__(self):
        """Start it; skips the test where it is not installed."""
        if BINARY is None:
            pytest.skip("redis-server is not installed: apt-get install redis-server")
        self.port = free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self):
        """Start it, also again after a kill; returns once it answers."""
        place = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", "/tmp"]
        self.process = subprocess.Popen(
            [str(BINARY), str(CONFIGURATION), *place], stdout=subprocess.DEVNULL
        )
        until = time.monotonic() + 20
        while time.monotonic() < until:
            with contextlib.suppress(redis.RedisError):
                self.ask("PING")
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.02)
        pytest.fail("redis-server did not start")

    def ask(self, *command):
        with redis.Redis.from_url(self.url, protocol=2) as client:
            return client.execute_command(*command)

    def kill(self):
        self.process.kill()
        self.process.wait(20)


@contextlib.contextmanager
def redis_server():
    server = RedisServer()
    try:
        yield server
    finally:
        server.kill()
