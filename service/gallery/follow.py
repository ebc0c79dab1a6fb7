"""Following of the record: each process applies the changes that any process has committed."""

from __future__ import annotations

import logging
import math
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, wait
from typing import Literal

from gmn_client.models import RecordState
from service.errors import DamagedRecord, ServiceStopping
from service.ops.threads import MonitoredThreadPool, heartbeat
from service.record.database import Database
from service.record.marks import Mark
from service.record.transaction import Change, ChangesLost, Reader

log = logging.getLogger(__name__)
POLL_SECONDS = 0.02
# Upper bound on changes whose vectors are in memory at once.
CHANGES_AT_ONCE = 32
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 60.0
CLOSING_SECONDS = 5.0

Apply = Callable[[int, Sequence[Change]], None]
Reread = Callable[[int], None]


class Follower:
    """A thread that applies the changes of every gallery in order.

    It survives every failure. A gallery whose changes have expired or cannot be applied is read
    again, after growing pauses if that fails too, while the others continue.

    Args:
        apply: applies changes of a gallery, and returns once every search sees them; if it raises,
            the gallery is read again.
        reread: reads a gallery from the record, or drops a deleted one.
    """

    def __init__(self, database: Database, apply: Apply, reread: Reread) -> None:
        self._database = database
        self._reader = Reader(database)
        self._apply = apply
        self._reread = reread
        self._shown: dict[int, Mark] = {}
        # Galleries to read again: the time to do so by `time.monotonic`, and the last pause.
        self._lost: dict[int, tuple[float, float]] = {}
        self._waiting: dict[int, list[tuple[float, Future[None]]]] = {}
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._closing = threading.Event()
        self._data_version = -1
        self._feeds: Mapping[int, Mark] = {}
        # When all changes were last shown, by `time.monotonic`.
        self._in_step_at = time.monotonic()
        self._is_reachable = True
        self.thread = MonitoredThreadPool(1, "follower")
        self._following: list[Future[None]] = []

    def state(self) -> RecordState:
        lag = 0
        for gallery_id, newest in self._feeds.items():
            shown = self._shown.get(gallery_id)
            lag += newest.seq - (shown.seq if shown else 0)
        state: Literal["in_step", "catching_up", "writes_wait", "reading_again", "unreachable"]
        if not self._is_reachable:
            state = "unreachable"
        elif self._lost:
            state = "reading_again"
        elif self._database.writes_wait:
            state = "writes_wait"
        else:
            state = "catching_up" if lag > 0 else "in_step"
        seconds = 0.0 if state == "in_step" else time.monotonic() - self._in_step_at
        return RecordState(state=state, lag=max(0, lag), lag_seconds=seconds)

    def start(self) -> None:
        """Read every gallery and start following the record; blocks until all are read.

        A damaged gallery is read again later.
        """
        self._data_version = self._database.data_version()
        for gallery_id, newest in self._reader.feeds().items():
            try:
                self._reread(gallery_id)
                self._show(gallery_id, newest)
            except DamagedRecord as damage:
                log.error("gallery %d cannot be read: %s", gallery_id, damage.detail)
                again_at = time.monotonic() + LONGEST_PAUSE_SECONDS
                self._lost[gallery_id] = (again_at, LONGEST_PAUSE_SECONDS)
        self._following.append(self.thread.submit(self._run))

    def wait_for(self, gallery_id: int, seq: int) -> Future[None]:
        """Return a future that completes once this or a later change of a gallery is shown.

        The follower looks for changes at once.
        """
        future: Future[None] = Future()
        with self._lock:
            shown = self._shown.get(gallery_id)
            if shown is not None and shown.seq >= seq:
                future.set_result(None)
            else:
                self._waiting.setdefault(gallery_id, []).append((seq, future))
        self._woken.set()
        return future

    def close(self) -> None:
        self._closing.set()
        self._woken.set()
        wait(self._following, CLOSING_SECONDS)
        self.thread.shutdown(wait=False)
        stopping = ServiceStopping("the service is shutting down; send it again later")
        for gallery_id in list(self._waiting):
            self._release(gallery_id, math.inf, stopping)

    def _run(self) -> None:
        while not self._closing.is_set():
            heartbeat()
            woken = self._woken.wait(POLL_SECONDS)
            self._woken.clear()
            try:
                # Read the version before the changes, so that the next poll notices later commits.
                data_version = self._database.data_version()
                if woken or self._lost or data_version != self._data_version:
                    self._follow()
                    self._data_version = data_version
                if not self._lost:
                    self._in_step_at = time.monotonic()
                self._is_reachable = True
            except Exception:
                log.exception("the record could not be followed; trying again")
                self._is_reachable = False
                self._closing.wait(FIRST_PAUSE_SECONDS)

    def _follow(self) -> None:
        with self._lock:
            awaited = set(self._waiting)
        feeds = self._feeds = self._reader.feeds()
        for gallery_id in sorted(self._shown.keys() - feeds.keys()):
            self._forget(gallery_id)
        # A wait begins after its change was committed, so these galleries were deleted since. This
        # process may never have seen them.
        for gallery_id in awaited - feeds.keys():
            self._release(gallery_id, math.inf)
        for gallery_id, newest in feeds.items():
            if self._shown.get(gallery_id) != newest or gallery_id in self._lost:
                self._catch_up(gallery_id, newest)
        # A file that goes after the commit that is followed here is closed after the next one.
        self._database.vectors.drop_removed()

    def _catch_up(self, gallery_id: int, newest: Mark) -> None:
        retry_at, pause = self._lost.get(gallery_id, (0.0, 0.0))
        if time.monotonic() < retry_at:
            return
        try:
            if gallery_id not in self._shown or gallery_id in self._lost:
                self._reread(gallery_id)
                self._show(gallery_id, newest)
                self._lost.pop(gallery_id, None)
                return
            shown = self._shown[gallery_id]
            while changes := self._reader.changes(gallery_id, shown, CHANGES_AT_ONCE):
                heartbeat()
                self._apply(gallery_id, changes)
                shown = changes[-1].mark
                self._show(gallery_id, shown)
        except ChangesLost as lost:
            log.warning("gallery %d is read again: %s", gallery_id, lost.detail)
            self._lost[gallery_id] = (0.0, 0.0)
            self._woken.set()
        except Exception:
            pause = min(max(2 * pause, FIRST_PAUSE_SECONDS), LONGEST_PAUSE_SECONDS)
            self._lost[gallery_id] = (time.monotonic() + pause, pause)
            log.exception("gallery %d is read again in %.2f s", gallery_id, pause)

    def _show(self, gallery_id: int, newest: Mark) -> None:
        with self._lock:
            self._shown[gallery_id] = newest
        self._release(gallery_id, newest.seq)

    def _forget(self, gallery_id: int) -> None:
        self._reread(gallery_id)
        with self._lock:
            del self._shown[gallery_id]
        self._lost.pop(gallery_id, None)
        self._release(gallery_id, math.inf)

    def _release(self, gallery_id: int, seq: float, error: Exception | None = None) -> None:
        with self._lock:
            waiting = self._waiting.pop(gallery_id, [])
            remaining = [(awaited, future) for awaited, future in waiting if awaited > seq]
            if remaining:
                self._waiting[gallery_id] = remaining
        for awaited, future in waiting:
            if awaited <= seq and future.set_running_or_notify_cancel():
                if error is None:
                    future.set_result(None)
                else:
                    future.set_exception(error)
