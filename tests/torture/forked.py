"""The service as a process of its own that begins with everything imported.

Importing torch and FAISS takes seconds, starting the service does not. So a server process imports
them once, and each service is forked from it: from then on it is `gmn serve` as ever.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import sys
import time
from pathlib import Path
from typing import Any

import httpx

from model.problems import InputProblem
from service.commands.serve import serve
from service.jobs import runner
from tests.service.conftest import STARTED

START_SECONDS = 40.0
ANSWER_SECONDS = 30.0
# A killed replica's job is another's once its lease has run out; nobody waits for 30 s here.
LEASE_SECONDS = 1.0


def _serve(environment: dict[str, str], log: str) -> None:
    for name in [name for name in os.environ if name.startswith("GMN_")]:
        del os.environ[name]
    os.environ.update(environment)
    file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(file, 1)
    os.dup2(file, 2)
    runner.LEASE_SECONDS = LEASE_SECONDS
    runner.IDLE_SECONDS = LEASE_SECONDS
    try:
        serve()
    except InputProblem as problem:
        sys.exit(str(problem))


class ForkedService:
    """One process; its log is kept at `log`."""

    def __init__(self, log: Path, **settings: Any) -> None:
        """Begins to start it; see `serving`."""
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__])
        environment = {"GMN_PORT": "0", "GMN_DEVICE": "cpu", "OMP_NUM_THREADS": "1"}
        environment |= {"GMN_RUNTIME": "torch"}
        environment |= {f"GMN_{name.upper()}": str(value) for name, value in settings.items()}
        self.log = log
        self.http = httpx.Client(timeout=ANSWER_SECONDS)
        self.process = context.Process(target=_serve, args=(environment, str(log)), daemon=True)
        self.process.start()

    def serving(self) -> bool:
        """Returns once it answers requests, or False where it died before."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            with contextlib.suppress(FileNotFoundError):
                found = STARTED.search(self.log.read_text(errors="replace"))
                if found:
                    self.http.base_url = httpx.URL(found[1])
                    return True
            if not self.process.is_alive():
                return False
            time.sleep(0.01)
        raise TimeoutError(f"the service did not start within {START_SECONDS:.0f} s: {self.said}")

    @property
    def said(self) -> str:
        """The end of its log."""
        return self.log.read_text(errors="replace")[-3000:] if self.log.exists() else ""

    def died_within(self, seconds: float) -> bool:
        """Waits for it to end by itself."""
        self.process.join(seconds)
        return not self.process.is_alive()

    def kill(self) -> None:
        """kill -9; `http` stays open for those who still wait for answers."""
        if self.process.is_alive():
            self.process.kill()
        self.process.join(20)
