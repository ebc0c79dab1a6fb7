"""Makes a process of the service die, fail or wait at one of its failpoints.

`FAILPOINT=name[:N][=action]` acts when the place is reached for the N-th time (default 1): `kill`
(the default) sends kill -9 to this process, `raise` raises an `OSError`, `delay:SECONDS` blocks the
thread. tests/torture/scenarios.py lists all names.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import sys
import time
from dataclasses import dataclass, field

log = logging.getLogger("service.failpoints")
ENVIRONMENT = "FAILPOINT"
SYNTAX = re.compile(r"([a-z.-]+)(?::([1-9]\d*))?(?:=(kill|raise|delay:(\d+(?:\.\d+)?)))?")


@dataclass(frozen=True)
class Armed:
    """A failpoint: at which passage (from 1) it acts, and how; a number is a delay in seconds."""

    name: str
    passage: int
    action: str | float
    passages: itertools.count[int] = field(default_factory=lambda: itertools.count(1))

    def hook(self, event, _):
        """Act on an audit event of the service."""
        if event != f"gmn.{self.name}" or next(self.passages) != self.passage:
            return
        log.critical("failpoint %s: passage %d, %s", self.name, self.passage, self.action)
        if isinstance(self.action, float):
            time.sleep(self.action)
        elif self.action == "raise":
            raise OSError(f"failpoint {self.name}")
        else:
            os.kill(os.getpid(), signal.SIGKILL)


def parse(text):
    """Parse `name[:N][=action]`; raise `ValueError` if the text has another form."""
    written = SYNTAX.fullmatch(text)
    if written is None:
        raise ValueError(f"{text!r} is no failpoint; write it like enroll.committed:3=delay:0.5")
    name, passage, action, seconds = written.groups()
    return Armed(name, int(passage or 1), float(seconds) if seconds else action or "kill")


def arm():
    """Arm the failpoint that the environment names, until this process ends."""
    if text := os.environ.get(ENVIRONMENT):
        log.critical("%s=%s: THIS PROCESS IS TO FAIL ON PURPOSE", ENVIRONMENT, text)
        sys.addaudithook(parse(text).hook)
