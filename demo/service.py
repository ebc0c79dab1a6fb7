"""A service as a child process on a free port, for the demo, the benches and tests."""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gmn_client import Client
from model.problems import InputProblem

STARTUP_SECONDS = 120.0
STOP_SECONDS = 20.0
POLL_SECONDS = 0.05
ANNOUNCED_URL = re.compile(r"https?://[\w.\-\[\]:]+:\d+")


@contextmanager
def own_service(artefact: str) -> Iterator[str]:
    """Start a service on temporary data, wait until it is ready, and stop it with the block.

    Args:
        artefact: a shipped name or a file.

    Yields:
        Its URL.

    Raises:
        InputProblem: the service ends or is not ready in time; the message has its last log line.
    """
    with tempfile.TemporaryDirectory(prefix="gmn-") as folder:
        log = Path(folder) / "data.log"
        program = Path(__file__).resolve().parents[1] / "gmn.py"
        command = [sys.executable, str(program), "serve", "--artefact", artefact]
        command += ["--data-dir", f"{folder}/data", "--port", "0"]
        with log.open("wb") as sink:
            process = subprocess.Popen(command, stdout=sink, stderr=subprocess.STDOUT)
        try:
            yield _wait_until_ready(process, log)
        finally:
            process.terminate()
            try:
                process.wait(STOP_SECONDS)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _wait_until_ready(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + STARTUP_SECONDS
    while True:
        text = log.read_text(errors="replace")
        last_line = (text.strip().splitlines() or [""])[-1].removeprefix("gmn: ")
        if process.poll() is not None:
            raise InputProblem(last_line or f"gmn serve ended with {process.returncode}")
        if time.monotonic() > deadline:
            raise InputProblem(f"the service was not ready in time; its log ends: {last_line}")
        if announced := ANNOUNCED_URL.search(text):
            with Client(announced.group()) as client:
                if client.ready():
                    return announced.group()
        time.sleep(POLL_SECONDS)
