"""Failpoints: named places at which a crash test makes the process die, fail or wait.

`GMN_FAILPOINT=name[:N][=action]` acts at the N-th passage, the first by default: `kill` (the
default) is kill -9 of this process, `raise` an `OSError`, `delay:SECONDS` a wait of the thread that
passes. Unset, a passage is one comparison.
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
_WRITES = """
enroll delete-crop forget-identity delete-expired relabel
create-gallery change-gallery delete-gallery restore reindex
"""
_OTHERS = """
start.record-opened start.galleries-loaded
replica.noted replica.scanned follower.changes-read follower.changes-applied
enroll.body-read enroll.embedded enroll.pictures-kept enroll.crop-written sqlite.before-commit
forget-identity.before-snapshots snapshot-rewrite.begun snapshot-rewrite.written
snapshot.written snapshot.in-place snapshot.registered restore.file-read restore.generation-filled
compaction.planned compaction.built compaction.adopted index-files.synced index-files.written
reindex.begun reindex.batch-embedded reindex.batch-kept reindex.switched
job.created job.ended import.archive-kept import.unpacked import.files-read import.batch-landed
import.progress-noted import.files-removed audit.before-line audit.line-written
"""
WRITES = _WRITES.split()
# Before the commit; then the record has the write and the index does not; then searches show it.
STEPS = ("before-commit", "committed", "shown")
# Each name: the work, a dot, and the step of it that has just happened or comes next.
FAILPOINTS = [*_OTHERS.split(), *(f"{write}.{step}" for write in WRITES for step in STEPS)]


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
    """Reads `name[:N][=action]`; raises `InputProblem` for another text or an unknown name."""
    written = SYNTAX.fullmatch(text)
    if written is None:
        raise InputProblem(
            f"{ENVIRONMENT}: {text[:80]!r} cannot be read; write it like enroll.committed, "
            "enroll.committed:3, enroll.committed=raise or enroll.committed:3=delay:0.5"
        )
    name, passage, action, seconds = written.groups()
    if name not in FAILPOINTS:
        raise InputProblem(
            f"{ENVIRONMENT}: there is no failpoint {name!r}; unset it, or name one of "
            f"{', '.join(FAILPOINTS)}"
        )
    return Armed(name, int(passage or 1), float(seconds) if seconds else action or "kill")


def arm_failpoint() -> None:
    """Arms the failpoint of the environment, with a line in the log; raises as `parse`."""
    global _armed
    text = os.environ.get(ENVIRONMENT)
    _armed = parse(text) if text else None
    if _armed is not None:
        log.critical(
            "%s=%s: THIS PROCESS IS TO FAIL ON PURPOSE; unset it to serve", ENVIRONMENT, text
        )


def failpoint(name: str) -> None:
    """A passage of a failpoint: dies, fails or waits here if it is armed."""
    if _armed is None or name != _armed.name or next(_armed.passages) != _armed.passage:
        return
    log.critical("failpoint %s: passage %d, %s", name, _armed.passage, _armed.action)
    if isinstance(_armed.action, float):
        time.sleep(_armed.action)
    elif _armed.action == "raise":
        raise OSError(f"failpoint {name}")
    else:
        os.kill(os.getpid(), signal.SIGKILL)
