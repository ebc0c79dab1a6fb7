"""Following of the record: each process shows what any process has committed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, field
from typing import Literal

from gmn_client.models import RecordCondition, RecordState
from service.errors import (
    DamagedRecord,
    RecordLacksCommits,
    RecordUnavailable,
    ServiceError,
    ServiceStopping,
)
from service.ops.threads import LONG_WORK_FACTOR, MonitoredThreadPool, Wake, heartbeat
from service.record.database import POLL_SECONDS, Database
from service.record.transaction import Reader

log = logging.getLogger(__name__)
# Time for which the follower waits for a thread that shows its own change of a gallery.
LOCK_SECONDS = 0.02
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 60.0
# Longest pause between two attempts to reach the record.
AWAY_PAUSE_SECONDS = 0.5
CLOSING_SECONDS = 5.0
# Stands for every gallery in a wait; no gallery has this number.
ALL_GALLERIES = 0


@dataclass
class _Shown:
    """A gallery of this process.

    Attributes:
        commit: number of the newest commit whose changes of the gallery are shown; -1 before it was
            read.
        lock: held by the thread that brings it up to date.
        read_again_at: when to read it again after a failure, by `time.monotonic`; None if it is in
            step.
        pause: seconds between the last two attempts.
    """

    commit: int = -1
    lock: threading.Lock = field(default_factory=threading.Lock)
    read_again_at: float | None = None
    pause: float = 0.0

    def is_behind(self, changed: float) -> bool:
        return self.commit < changed or self.read_again_at is not None


class Follower:
    """Brings galleries up to date with the record, and has a thread that looks for new commits.

    It survives every failure. A gallery whose changes cannot be applied is read again, after
    growing pauses if that fails too, while the others continue.

    Args:
        apply: shows the changes of a gallery, and returns once every search sees it; if it
            raises, the gallery is read again.
        reread: reads a gallery from the record, or drops a deleted one.
        on_commit: called after new commits of any process.
    """

    def __init__(
        self,
        database: Database,
        apply: Callable[[int], None],
        reread: Callable[[int], None],
        on_commit: Callable[[Reader], object],
    ) -> None:
        self._database = database
        self._reader = Reader(database)
        self._apply = apply
        self._reread = reread
        self._on_commit = on_commit
        self._galleries: dict[int, _Shown] = {}
        self._waiting: dict[int, list[tuple[float, Future[None]]]] = {}
        self._lock = threading.Lock()
        self._woken = Wake()
        self._closing = threading.Event()
        self._data_version = -1
        # The record's newest commit, and the one up to which every gallery is shown.
        self._newest = 0
        self._shown = -1
        # When everything was last shown, by `time.monotonic`.
        self._in_step_at = time.monotonic()
        # The condition of a record that cannot be followed; None while it can.
        self._away: Literal["unreachable", "lacks_commits"] | None = None
        self._away_since = 0.0
        self.thread = MonitoredThreadPool(1, "follower", LONG_WORK_FACTOR)
        self._following: list[Future[None]] = []

    def state(self) -> RecordState:
        lag = max(0, self._newest - self._shown)
        state: RecordCondition
        if self._away is not None:
            state = self._away
        elif any(shown.read_again_at is not None for shown in list(self._galleries.values())):
            state = "reading_again"
        elif self._database.writes_wait:
            state = "writes_wait"
        else:
            state = "catching_up" if lag > 0 else "in_step"
        seconds = 0.0 if state == "in_step" else time.monotonic() - self._in_step_at
        return RecordState(state=state, lag=lag, lag_seconds=seconds)

    def start(self) -> None:
        """Read every gallery and start following the record; blocks until all are read.

        A damaged gallery is read again later.
        """
        self._data_version = self._database.data_version()
        with self._database.read() as reader:
            self._newest = reader.newest_commit()
            galleries = reader.newest_changes()
        self._shown = self._newest
        for gallery_id, changed in galleries.items():
            shown = self._galleries[gallery_id] = _Shown()
            try:
                self._reread(gallery_id)
                shown.commit = changed
            except DamagedRecord as damage:
                log.error("gallery %d cannot be read: %s", gallery_id, damage.detail)
                shown.pause = LONGEST_PAUSE_SECONDS
                shown.read_again_at = time.monotonic() + LONGEST_PAUSE_SECONDS
                self._shown = -1
        self._following.append(self.thread.submit(self._run))

    def show(self, gallery_id: int) -> Future[None]:
        """Show this thread's commit to a gallery, and the commits before it.

        Returns:
            A future that completes once it is shown. It is done already, unless another thread is
            showing changes of the gallery, or the gallery has to be read again.
        """
        changed = self._reader.newest_change_of(gallery_id)
        shown = self._get(gallery_id)
        if shown.read_again_at is None:
            # This never waits for a thread that reads a large gallery: other writes would, too.
            self._catch_up(gallery_id, shown, 0.0)
        return self.wait_for(gallery_id, math.inf if changed is None else changed)

    def wait_for(self, gallery_id: int, commit: float) -> Future[None]:
        """Return a future that completes once a gallery is shown as of a commit or a later one.

        It also completes once this process has no such gallery any more. It fails with
        `RecordUnavailable` if the record cannot be reached, because that may last.
        """
        with self._lock:
            shown = self._galleries.get(gallery_id)
            is_shown = shown is None or not shown.is_behind(commit)
            return self._promise(gallery_id, commit, is_shown)

    def wait_for_all(self, commit: int) -> Future[None]:
        """Return a future that completes once every gallery is shown as of a commit.

        It fails as that of `wait_for` does.
        """
        with self._lock:
            return self._promise(ALL_GALLERIES, commit, self._shown >= commit)

    def close(self) -> None:
        self._closing.set()
        self._woken.set()
        wait(self._following, CLOSING_SECONDS)
        self.thread.shutdown(wait=False)
        self._refuse(ServiceStopping("the service is shutting down; send it again later"))

    def _promise(self, gallery_id: int, commit: float, is_shown: bool) -> Future[None]:
        future: Future[None] = Future()
        if is_shown:
            future.set_result(None)
        else:
            self._waiting.setdefault(gallery_id, []).append((commit, future))
            self._woken.set()
        return future

    def _get(self, gallery_id: int) -> _Shown:
        with self._lock:
            return self._galleries.setdefault(gallery_id, _Shown())

    def _run(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            heartbeat()
            try:
                if self._shown < self._newest:
                    woken = self._woken.wait(POLL_SECONDS)
                else:
                    woken = self._database.wait_for_commits(self._woken)
                # Read the version before the changes, so that the next poll notices later commits.
                data_version = self._database.data_version()
                if woken or self._shown < self._newest or data_version != self._data_version:
                    self._follow()
                    self._data_version = data_version
                if self._shown >= self._newest:
                    self._in_step_at = time.monotonic()
                self._note_reachable()
                pause = FIRST_PAUSE_SECONDS
            except Exception as error:
                self._note_away(error)
                self._closing.wait(pause)
                pause = min(2 * pause, AWAY_PAUSE_SECONDS)

    def _note_reachable(self) -> None:
        if self._away is not None:
            seconds = time.monotonic() - self._away_since
            log.warning("the record is followed again, after %.1f s", seconds)
        self._away = None

    def _note_away(self, error: Exception) -> None:
        if isinstance(error, RecordUnavailable):
            self._refuse(error)
        if self._away is None:
            self._away_since = time.monotonic()
        # One line says that an outage begins, and one that it has ended; an earlier state may be
        # found after an outage, and does not end by itself.
        lacks_commits = isinstance(error, RecordLacksCommits)
        if self._away is None or (lacks_commits and self._away == "unreachable"):
            if isinstance(error, ServiceError):
                log.error("the record cannot be followed: %s", error.why)
            else:
                log.error("the record cannot be followed", exc_info=error)
        self._away = "lacks_commits" if lacks_commits else "unreachable"

    def _follow(self) -> None:
        with self._lock:
            known = set(self._galleries)
        with self._database.read() as reader:
            newest = self._newest = reader.newest_commit()
            galleries = reader.newest_changes()
        self._database.note_followed(newest)
        self._on_commit(self._reader)
        for gallery_id in sorted(known | galleries.keys()):
            shown = self._get(gallery_id)
            # A deleted gallery is dropped.
            if shown.is_behind(galleries.get(gallery_id, newest + 1)):
                self._catch_up(gallery_id, shown, LOCK_SECONDS)
        # A file that goes after the commit that is followed here is closed after the next one.
        self._database.vectors.drop_removed()
        with self._lock:
            remaining = list(self._galleries.items())
        if not any(shown.is_behind(galleries.get(number, 0)) for number, shown in remaining):
            with self._lock:
                self._shown = newest
            self._release(ALL_GALLERIES, newest)

    def _catch_up(self, gallery_id: int, shown: _Shown, seconds: float) -> None:
        """Bring a gallery up to date, unless another thread does so and takes longer."""
        if time.monotonic() < (shown.read_again_at or 0.0):
            return
        if not shown.lock.acquire(timeout=seconds):
            return
        try:
            changed = self._reader.newest_change_of(gallery_id)
            if changed is None:
                self._drop(gallery_id)
                return
            if shown.commit < 0 or shown.read_again_at is not None:
                self._reread(gallery_id)
            elif shown.commit < changed:
                self._apply(gallery_id)
            with self._lock:
                shown.commit = changed
                shown.read_again_at = None
                shown.pause = 0.0
            self._release(gallery_id, changed)
        except Exception as error:
            shown.pause = min(max(2 * shown.pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            shown.read_again_at = time.monotonic() + shown.pause
            if not isinstance(error, ServiceStopping | RecordUnavailable):
                log.exception("gallery %d is read again in %.2f s", gallery_id, shown.pause)
        finally:
            shown.lock.release()

    def _drop(self, gallery_id: int) -> None:
        self._reread(gallery_id)
        with self._lock:
            self._galleries.pop(gallery_id, None)
        self._release(gallery_id, math.inf)

    def _refuse(self, error: ServiceError) -> None:
        """Answer everybody who waits with an error."""
        with self._lock:
            gallery_ids = list(self._waiting)
        for gallery_id in gallery_ids:
            self._release(gallery_id, math.inf, error)

    def _release(self, gallery_id: int, commit: float, error: Exception | None = None) -> None:
        with self._lock:
            waiting = self._waiting.pop(gallery_id, [])
            remaining = [(awaited, future) for awaited, future in waiting if awaited > commit]
            if remaining:
                self._waiting[gallery_id] = remaining
        for awaited, future in waiting:
            if awaited <= commit and future.set_running_or_notify_cancel():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
