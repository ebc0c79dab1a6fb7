"""A service of one's own: a child process that lives as long as a `with` block."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gmn_client import Client
from model.problems import InputProblem

STARTUP_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
ANNOUNCED_URL = re.compile(r"https?://[\w.\-\[\]:]+:\d+")


@contextmanager
def local_service(
    command: Sequence[str], log: Path, startup_seconds: float = STARTUP_SECONDS
) -> Iterator[str]:
    """Starts a service, waits until it is ready, and stops it when the block ends, however it ends.

    Args:
        command: the `gmn serve` to run; its port may be 0, for one that is free.
        log: file that takes what it writes to standard output and error.
        startup_seconds: how long it may take to become ready.

    Yields:
        The URL that it announces.

    Raises:
        InputProblem: with the log's last line, if it ends or is not ready in time.
    """
    with log.open("wb") as sink:
        process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
    try:
        yield _wait_until_ready(process, log, time.monotonic() + startup_seconds)
    finally:
        _stop(process)


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path, deadline: float) -> str:
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise InputProblem(_last_line(log) or f"gmn serve ended with {process.returncode}")
        announced = ANNOUNCED_URL.search(log.read_text(errors="replace"))
        if announced:
            with Client(announced.group()) as client:
                if client.ready():
                    return announced.group()
        time.sleep(POLL_SECONDS)
    raise InputProblem(f"the service was not ready in time; its last word: {_last_line(log)}")


def _last_line(log: Path) -> str:
    lines = log.read_text(errors="replace").strip().splitlines()
    return lines[-1].removeprefix("gmn: ") if lines else ""


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(STOP_SECONDS)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
