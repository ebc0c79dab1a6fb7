"""The service as a process of its own, which soon tries again what has failed."""

import contextlib
import subprocess
import time

import httpx2

from tests.forked import Forked
from tests.service.conftest import START, STARTED, served_environment

START_SECONDS = 40.0
ANSWER_SECONDS = 30.0
# The locks of a killed process are free at once; only a job that has failed waits for a while.
SHORT_PAUSES = "from service.jobs import runner; runner.RETRY_SECONDS = 1.0\n"


class ForkedService:
    """One process; its log is kept at `log`."""

    def __init__(self, log, **settings):
        environment = served_environment(**settings) | {"OMP_NUM_THREADS": "1"}
        self.log = log
        self.http = httpx2.Client(timeout=ANSWER_SECONDS)
        with log.open("ab") as file:
            printed = file.fileno()
            self.process = Forked(
                SHORT_PAUSES + START, stdout=printed, stderr=printed, env=environment
            )

    def serving(self):
        """Return True once it answers requests, or False if it died before."""
        until = time.monotonic() + START_SECONDS
        while time.monotonic() < until:
            found = STARTED.search(self.log.read_text(errors="replace"))
            if found:
                self.http.base_url = httpx2.URL(found[1])
                return True
            if self.process.poll() is not None:
                return False
            time.sleep(0.01)
        raise TimeoutError(f"the service did not start within {START_SECONDS:.0f} s: {self.said}")

    @property
    def said(self):
        return self.log.read_text(errors="replace")[-3000:]

    def died_within(self, seconds):
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(seconds)
        return self.process.poll() is not None

    def kill(self):
        """kill -9; `http` stays open for those who still wait for answers."""
        self.process.kill()
        self.process.wait(20)
