"""Failpoints: named places at which a crash test makes the process die, fail or wait.

`GMN_FAILPOINT=name[:N][=action]` acts at the N-th passage, the first by default: `kill` (the
default) is kill -9 of this process, `raise` an `OSError`, `delay:SECONDS` a wait of the thread that
passes. Unset, a passage is one comparison. Each name is the work, a dot, and the step of it that
has just happened or comes next; tests/torture/scenarios.py has all of them.
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
    """A failpoint that acts: at which passage, from 1, and how; a number waits for seconds."""

    name: str
    passage: int
    action: str | float
    passages: itertools.count[int] = field(default_factory=lambda: itertools.count(1))


# One for the process: it is the process that dies.
_armed: Armed | None = None


def parse(text: str) -> Armed:
    """Read `name[:N][=action]`; raises `InputProblem` for another text."""
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
