"""Named places at which a process can be made to die, fail or wait: crash tests steer by them.

`GMN_FAILPOINT=name[:N][=action]` acts at the N-th passage, the first by default: `kill` (the
default) is kill -9 of this process, `raise` an `OSError`, `delay:SECONDS` a wait of the thread that
passes. Unset, a passage is one comparison.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import threading
import time
from dataclasses import dataclass, field
from enum import StrEnum, auto
from typing import Self

from model.problems import InputProblem

log = logging.getLogger(__name__)
ENVIRONMENT = "GMN_FAILPOINT"
WRITTEN_LIKE = re.compile(
    r"(?P<name>[a-z.-]+)(:(?P<passage>[1-9]\d*))?"
    r"(=(?P<action>kill|raise|delay:(?P<seconds>\d+(\.\d+)?)))?"
)


class Failpoint(StrEnum):
    """Every name: what is being done, a dot, and what of it has just happened or comes next.

    Names on `before-commit`, `committed` and `shown` belong to `CommitSteps`.
    """

    @staticmethod
    def _generate_next_value_(name: str, _start: int, _count: int, _last_values: list[str]) -> str:
        return name.lower().replace("__", ".").replace("_", "-")

    START__RECORD_OPENED = auto()
    START__GALLERIES_LOADED = auto()

    REPLICA__NOTED = auto()
    REPLICA__SCANNED = auto()
    REPLICA__REPLAYED = auto()
    FOLLOWER__CHANGES_READ = auto()
    FOLLOWER__CHANGES_APPLIED = auto()

    ENROLL__BODY_READ = auto()
    ENROLL__EMBEDDED = auto()
    ENROLL__PICTURES_KEPT = auto()
    ENROLL__CROP_WRITTEN = auto()
    ENROLL__BEFORE_COMMIT = auto()
    ENROLL__COMMITTED = auto()
    ENROLL__SHOWN = auto()
    SQLITE__BEFORE_COMMIT = auto()

    DELETE_CROP__BEFORE_COMMIT = auto()
    DELETE_CROP__COMMITTED = auto()
    DELETE_CROP__SHOWN = auto()
    FORGET_IDENTITY__BEFORE_COMMIT = auto()
    FORGET_IDENTITY__COMMITTED = auto()
    FORGET_IDENTITY__SHOWN = auto()
    FORGET_IDENTITY__BEFORE_SNAPSHOTS = auto()
    SNAPSHOT_REWRITE__BEGUN = auto()
    SNAPSHOT_REWRITE__WRITTEN = auto()
    DELETE_EXPIRED__BEFORE_COMMIT = auto()
    DELETE_EXPIRED__COMMITTED = auto()
    DELETE_EXPIRED__SHOWN = auto()
    RELABEL__BEFORE_COMMIT = auto()
    RELABEL__COMMITTED = auto()
    RELABEL__SHOWN = auto()

    CREATE_GALLERY__BEFORE_COMMIT = auto()
    CREATE_GALLERY__COMMITTED = auto()
    CREATE_GALLERY__SHOWN = auto()
    CHANGE_GALLERY__BEFORE_COMMIT = auto()
    CHANGE_GALLERY__COMMITTED = auto()
    CHANGE_GALLERY__SHOWN = auto()
    DELETE_GALLERY__BEFORE_COMMIT = auto()
    DELETE_GALLERY__COMMITTED = auto()
    DELETE_GALLERY__SHOWN = auto()

    SNAPSHOT__WRITTEN = auto()
    SNAPSHOT__IN_PLACE = auto()
    SNAPSHOT__REGISTERED = auto()
    RESTORE__FILE_READ = auto()
    RESTORE__GENERATION_FILLED = auto()
    RESTORE__BEFORE_COMMIT = auto()
    RESTORE__COMMITTED = auto()
    RESTORE__SHOWN = auto()

    COMPACTION__PLANNED = auto()
    COMPACTION__BUILT = auto()
    COMPACTION__ADOPTED = auto()

    REINDEX__BEGUN = auto()
    REINDEX__BATCH_EMBEDDED = auto()
    REINDEX__BATCH_KEPT = auto()
    REINDEX__BEFORE_COMMIT = auto()
    REINDEX__SWITCHED = auto()
    REINDEX__COMMITTED = auto()
    REINDEX__SHOWN = auto()

    JOB__CREATED = auto()
    JOB__ENDED = auto()
    IMPORT__ARCHIVE_KEPT = auto()
    IMPORT__UNPACKED = auto()
    IMPORT__FILES_READ = auto()
    IMPORT__BATCH_LANDED = auto()
    IMPORT__PROGRESS_NOTED = auto()
    IMPORT__FILES_REMOVED = auto()

    AUDIT__BEFORE_LINE = auto()
    AUDIT__LINE_WRITTEN = auto()


@dataclass(frozen=True)
class CommitSteps:
    """Where a write to the record can be stopped.

    Attributes:
        before_commit: it is the writer's turn, and nothing has happened.
        committed: the record has it, and the index does not.
        shown: searches see it, and nobody was told.
    """

    before_commit: Failpoint
    committed: Failpoint
    shown: Failpoint

    @classmethod
    def of(cls, write: str) -> Self:
        """Those of a write by its name, such as `enroll`."""
        steps = (f"{write}.before-commit", f"{write}.committed", f"{write}.shown")
        return cls(*map(Failpoint, steps))


@dataclass
class ArmedFailpoint:
    """The one that was asked for.

    Attributes:
        point: where.
        passage: at which passage, from 1.
        action: `kill` or `raise`, or how many seconds to wait.
    """

    point: Failpoint
    passage: int = 1
    action: str | float = "kill"
    _passages: int = 0
    _counting: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def parse(cls, text: str) -> Self:
        """Reads `name[:N][=action]`.

        Raises:
            InputProblem: where it is not written so, or there is no such name.
        """
        written = WRITTEN_LIKE.fullmatch(text)
        if written is None:
            raise InputProblem(
                f"{ENVIRONMENT}: {text[:80]!r} cannot be read; write it like enroll.committed, "
                "enroll.committed:3, enroll.committed=raise or enroll.committed:3=delay:0.5"
            )
        if written["name"] not in set(Failpoint):
            raise InputProblem(
                f"{ENVIRONMENT}: there is no failpoint {written['name']!r}; unset it, or name one "
                f"of {', '.join(Failpoint)}"
            )
        seconds = written["seconds"]
        action = float(seconds) if seconds else written["action"] or "kill"
        return cls(Failpoint(written["name"]), int(written["passage"] or 1), action)

    def reach(self, point: Failpoint) -> None:
        """Acts where this is the place and the passage."""
        if point is not self.point:
            return
        with self._counting:
            self._passages += 1
            if self._passages != self.passage:
                return
        log.critical("failpoint %s: passage %d, %s", point, self.passage, self.action)
        if isinstance(self.action, float):
            time.sleep(self.action)
        elif self.action == "raise":
            raise OSError(f"failpoint {point}")
        else:
            os.kill(os.getpid(), signal.SIGKILL)


# Of the whole process, as dying is.
_armed: ArmedFailpoint | None = None


def arm_failpoint() -> None:
    """Arms what the environment names, and says so; without it every passage is free.

    Raises:
        InputProblem: for a name that there is not.
    """
    global _armed
    text = os.environ.get(ENVIRONMENT)
    _armed = ArmedFailpoint.parse(text) if text else None
    if _armed is not None:
        log.critical(
            "%s=%s: THIS PROCESS IS TO FAIL ON PURPOSE at passage %d of %s; unset it to serve",
            ENVIRONMENT,
            text,
            _armed.passage,
            _armed.point,
        )


def passed(point: Failpoint) -> None:
    """Tells that a place is reached; whoever armed it dies, fails or waits here."""
    if _armed is not None:
        _armed.reach(point)
