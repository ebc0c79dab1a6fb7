"""Failpoints: named places where a crash test makes the process die, fail or wait.

`GMN_FAILPOINT=name[:N][=action]` acts when the place is reached for the N-th time (default 1):
`kill` (the default) sends kill -9 to this process, `raise` raises an `OSError`, `delay:SECONDS`
blocks the thread. If the variable is unset, a failpoint costs one comparison. A name consists of
the operation, a dot, and the step that has just happened or comes next; tests/torture/scenarios.py
lists all of them.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import time
from dataclasses import dataclass, field

from model.problems import InputProblem

log = logging.getLogger(__name__)
ENVIRONMENT = "GMN_FAILPOINT"
SYNTAX = re.compile(r"([a-z.-]+)(?::([1-9]\d*))?(?:=(kill|raise|delay:(\d+(?:\.\d+)?)))?")


@dataclass(frozen=True)
class Armed:
    """An active failpoint: at which passage (from 1) it acts, and how; a number is a delay in s."""

    name: str
    passage: int
    action: str | float
    passages: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


# Process-wide, because it is the process that dies.
_armed: Armed | None = None


def parse(text: str) -> Armed:
    """Parse `name[:N][=action]`; raises `InputProblem` if the text has another form."""
    written = SYNTAX.fullmatch(text)
    if written is None:
        raise InputProblem(
            f"{ENVIRONMENT}: {text[:80]!r} cannot be read; write it like enroll.committed, "
            "enroll.committed:3, enroll.committed=raise or enroll.committed:3=delay:0.5"
        )
    name, passage, action, seconds = written.groups()
    return Armed(name, int(passage or 1), float(seconds) if seconds else action or "kill")


def arm_failpoint() -> None:
    global _armed
    text = os.environ.get(ENVIRONMENT)
    _armed = parse(text) if text else None
    if _armed is not None:
        log.critical(
            "%s=%s: THIS PROCESS IS TO FAIL ON PURPOSE; unset it to serve", ENVIRONMENT, text
        )


def failpoint(name: str) -> None:
    if _armed is None or name != _armed.name or next(_armed.passages) != _armed.passage:
        return
    log.critical("failpoint %s: passage %d, %s", name, _armed.passage, _armed.action)
    if isinstance(_armed.action, float):
        time.sleep(_armed.action)
    elif _armed.action == "raise":
        raise OSError(f"failpoint {name}")
    else:
        os.kill(os.getpid(), signal.SIGKILL)
