"""Replication: galleries in memory follow a record in Redis that several processes write.

One thread reads the record's change stream and applies it to the galleries, this process's own
writes included. A gallery's version is therefore never ahead of what its index shows. Changes are
applied on the device thread, in batches in the order of the record; applying one twice does no more
than once.
"""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import ClassVar, TypeVar, cast

from gmn_client.models import RecordState
from model.problems import InputProblem
from service.errors import DamagedRedisRecord, RecordUnavailable, ServiceStopping, UnknownGallery
from service.gallery.catch_up import CHANGES_PER_STEP, read_changes
from service.gallery.gallery import Gallery
from service.gallery.registry import Confirmation, GalleryRegistry, Show
from service.ops.failpoints import failpoint
from service.ops.health import STOPPED, HealthCheck, Heartbeat, MonitoredThreadPool
from service.record.engine import Change, ChangesLost, ChangeStream
from service.record.records import CropLabel

log = logging.getLogger(__name__)
OF_NO_GALLERY = ("jobs", "keys")
WAIT_SECONDS = 0.5
# A client gives up later, and asks again; a request that waits fails earlier.
LONGEST_SILENCE_SECONDS = 2.0
FIRST_PAUSE_SECONDS = 0.05
LONGEST_PAUSE_SECONDS = 1.0
# Reading everything again and again costs more than a read that was refused.
LONGEST_REST_SECONDS = 60.0
# For how long a call that is under way waits for a record that does not answer.
CALL_PATIENCE_SECONDS = 2.0
POLL_SECONDS = 0.5
CLOSING_SECONDS = 5.0
# After less its client gives Redis up: three tries of five seconds each, and pauses.
REDIS_SECONDS = 45.0
# Searches ask beside all other reads, and go on without the record where that takes long.
CONFIRM_THREADS = 4
CONFIRMED_WITHIN_SECONDS = 1.0
Result = TypeVar("Result")


class SequenceBarrier:
    """Futures that are done once a change of the stream is shown; used from any thread."""

    def __init__(self) -> None:
        self.shown = 0
        self._lock = threading.Lock()
        self._waiting: list[tuple[int, Future[None]]] = []

    def wait_for(self, sequence: int) -> Future[None]:
        """Done once a change is shown."""
        future: Future[None] = Future()
        with self._lock:
            if sequence > self.shown:
                self._waiting.append((sequence, future))
            else:
                future.set_result(None)
        return future

    def advance(self, sequence: int) -> None:
        """A change is shown, and all before it; an older one after the record was replaced."""
        with self._lock:
            self.shown = sequence
        self._end(sequence)

    def abort(self, error: Exception) -> None:
        """Ends all waiting with an error."""
        self._end(math.inf, error)

    def _end(self, last: float, error: Exception | None = None) -> None:
        with self._lock:
            ended = [future for awaited, future in self._waiting if awaited <= last]
            self._waiting = [one for one in self._waiting if one[0] > last]
        for future in ended:
            if future.set_running_or_notify_cancel():
                future.set_exception(error) if error else future.set_result(None)


@dataclass(eq=False)
class ReplicatedGalleries(GalleryRegistry):
    """Keeps the galleries in memory in step with a record that several processes share.

    Its thread outlives every failure: it tries again after a pause, and reads everything again
    where changes may have been missed.
    """

    answers_within: ClassVar[float] = REDIS_SECONDS

    def __post_init__(self) -> None:
        """Starts nothing yet."""
        super().__post_init__()
        self._stream = cast(ChangeStream, self.record.changes)
        self._barrier = SequenceBarrier()
        self._confirmers = MonitoredThreadPool(CONFIRM_THREADS, "confirmer")
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="replication", daemon=True)
        self._epoch: str | None = None
        self._server: str | None = None
        self._newest = 0
        self._down_since: float | None = None
        self._why_down = "it does not answer"
        self._asked_at: float | None = None
        self._lost = True
        self._another_record = False
        self._in_step_at = time.monotonic()
        self._heartbeat = Heartbeat()

    @property
    def record_state(self) -> RecordState:
        """How the indexes stand to the record."""
        lag = max(0, self._newest - self._barrier.shown)
        silent = self._silent_since is not None
        if not silent and not self._lost and lag == 0:
            return RecordState()
        reading = "reading_again" if self._lost else "catching_up"
        return RecordState(
            state="unreachable" if silent else reading,
            lag=lag,
            lag_seconds=time.monotonic() - self._in_step_at,
        )

    @property
    def health_checks(self) -> list[HealthCheck]:
        """Its threads, for the watchdog; replication ends only by a bug or with the service."""
        return [
            *super().health_checks,
            HealthCheck("replication", self._silent_seconds, REDIS_SECONDS),
            HealthCheck("record confirmers", self._confirmers.silent_seconds, REDIS_SECONDS),
        ]

    async def confirm(self, gallery: Gallery, crops: Sequence[CropLabel], /) -> Confirmation:
        """As of every registry; where the record does not answer in time, from memory."""
        state = self.record_state
        if not (state.up and crops):
            return Confirmation(stale=state.stale)
        asking = self._confirmers.run(self._confirm, gallery, crops)
        try:
            found = await asyncio.wait_for(asking, CONFIRMED_WITHIN_SECONDS)
            return replace(found, stale=found.stale or state.stale)
        except (RecordUnavailable, TimeoutError):
            self._mark_unreachable("it did not answer in time")
        except DamagedRedisRecord as damage:
            log.error("the entries of a search's results cannot be read: %s", damage.detail)
        return Confirmation(stale=True)

    def close(self) -> None:
        """Ends the thread; one that waits for an answer is left to itself after a while."""
        super().close()
        self._closing.set()
        self._confirmers.shutdown()
        self._barrier.abort(ServiceStopping("the service is shutting down; send it again later"))
        if self._thread.is_alive():
            self._thread.join(CLOSING_SECONDS)

    def _load(self) -> None:
        behind = True
        while behind:
            try:
                if self._lost:
                    self._read_everything()
                self._follow(wait_seconds=0.0)
                behind = self._newest > self._barrier.shown
            except (ChangesLost, RecordUnavailable) as error:
                log.warning("everything is read again: %s", error.detail)
                self._lost = True
                self._closing.wait(LONGEST_PAUSE_SECONDS)
        self._thread.start()

    def _caught_up(self) -> Future[None]:
        return self._barrier.wait_for(self._stream.last())

    def _publish(self, *_: object) -> Future[None]:
        # The stream brings the commit.
        return self._caught_up()

    def _require_record(self, patience_seconds: float = 0.0) -> None:
        """Raises `RecordUnavailable` where the record has not answered for longer than that."""
        since = self._silent_since
        if since is not None and time.monotonic() - since >= patience_seconds:
            raise RecordUnavailable(self._why_down)
        if self._another_record:
            raise RecordUnavailable("it was replaced by another one, which is being read")

    async def _wait(self, asked: asyncio.Future[Result]) -> Result:
        """Waits for a call, but not for a record that has stopped answering.

        A call that nothing waits for any more is cancelled, unless it has begun.
        """
        try:
            while not (await asyncio.wait({asked}, timeout=POLL_SECONDS))[0]:
                self._require_record(CALL_PATIENCE_SECONDS)
        except BaseException:
            asked.cancel()
            raise
        return asked.result()

    def _confirm(self, gallery: Gallery, crops: Sequence[CropLabel]) -> Confirmation:
        record = self.record
        number = gallery.gallery_id
        present = record.crops.by_row(number, [crop.row_id for crop in crops])
        missing = {crop.crop_id: crop.row_id for crop in crops if crop.row_id not in present}
        if not missing:
            return Confirmation()
        if record.galleries.get(number) is None:
            raise UnknownGallery(gallery.name)
        # After a restore crops have other rows: those were not deleted, and are shown until the
        # restored gallery is.
        removed = record.crops.removed_among(number, list(missing))
        gone = frozenset(missing[crop_id] for crop_id in removed)
        return Confirmation(gone, stale=len(gone) < len(missing))

    def _silent_seconds(self) -> float:
        return self._heartbeat.silent_seconds() if self._thread.is_alive() else STOPPED

    def _run(self) -> None:
        with self._heartbeat.working():
            pause = FIRST_PAUSE_SECONDS
            while not self._closing.is_set():
                longest = LONGEST_PAUSE_SECONDS
                try:
                    self._heartbeat.beat()
                    if self._lost:
                        self._read_everything()
                    self._follow()
                    pause = FIRST_PAUSE_SECONDS
                    continue
                except ServiceStopping:
                    return
                except RecordUnavailable as problem:
                    self._mark_unreachable(problem.why)
                except ChangesLost as lost:
                    log.warning("the record's changes cannot be followed: %s", lost.detail)
                    self._lost = True
                except Exception:
                    log.exception("changes could not be applied; everything is read again")
                    self._lost = True
                    longest = LONGEST_REST_SECONDS
                with self._heartbeat.paused():
                    self._closing.wait(min(pause, longest))
                pause = min(2 * pause, longest)

    def _follow(self, wait_seconds: float = WAIT_SECONDS) -> None:
        """Reads new changes, waiting a little for one, and applies them."""
        self._asked_at = time.monotonic()
        try:
            found = self._stream.after(self._barrier.shown, CHANGES_PER_STEP, wait_seconds)
            # Asked afterwards: the changes were then answered by this process or an earlier one.
            server = self._stream.server()
        finally:
            self._asked_at = None
        if server != self._server:
            raise ChangesLost(
                "another process of the record's server answers, which may hold an older copy"
            )
        self._mark_reachable(found[-1].sequence if found else 0)
        if found:
            self._apply(found)
        if len(found) < CHANGES_PER_STEP:
            self._in_step_at = time.monotonic()
        else:
            self._newest = max(self._newest, self._stream.last())

    def _apply(self, changes: Sequence[Change]) -> None:
        """Reads what changes need from the record, and applies them on the device thread."""
        by_gallery: dict[int, list[Change]] = defaultdict(list)
        for change in changes:
            if change.kind not in OF_NO_GALLERY:
                by_gallery[change.gallery_id].append(change)
        steps = [self._step(gallery_id, own) for gallery_id, own in by_gallery.items()]
        failpoint("follower.changes-read")
        if steps:
            self._on_device(lambda: [step() for step in steps])
        failpoint("follower.changes-applied")
        self._barrier.advance(changes[-1].sequence)

    def _step(self, gallery_id: int, changes: Sequence[Change]) -> Show:
        """Reads what the changes of one gallery need; answers what applies them together."""
        gallery = self.by_id(gallery_id)
        apply = read_changes(self.record, gallery, changes) if gallery else None
        if gallery is None or apply is None:
            return self.read_gallery(gallery_id)
        if any(change.kind == "calibration" for change in changes):
            self.refresh_calibration(gallery)
        return apply

    def _position(self, _: Gallery, /) -> str | None:
        if self._lost or self._another_record:
            return None
        return f"{self._epoch} {self._server} {self._barrier.shown}"

    def _read_everything(self) -> None:
        """Reads every gallery beside the one that is searched, and switches to it."""
        if self._epoch is not None and self._stream.last() == 0:
            raise RecordUnavailable("it is empty; put its data back, or restart the service")
        # Until it is read, nothing is written to what may be another record with the same numbers.
        self._another_record = self._epoch is not None
        try:
            epoch = self._stream.epoch()
            server = self._stream.server()
        except InputProblem as refused:
            if self._epoch is None:
                raise
            raise RecordUnavailable(str(refused)) from refused
        self._another_record = self._epoch not in (None, epoch)
        noted = self._stream.last()
        known = self._newest
        self._mark_reachable(noted)
        failpoint("replica.noted")
        there = [one.gallery_id for one in self.record.galleries.all()]
        gone = {gallery.gallery_id for gallery in self.all()} - set(there)
        # One after another, so that one at a time is twice in memory.
        for gallery_id in [*there, *gone]:
            self._on_device(self.read_gallery(gallery_id))
        failpoint("replica.scanned")
        if self._stream.server() != server:
            raise ChangesLost("the record's server was restarted while everything was read")
        if self._another_record or noted < known:
            # What was waited for may never come.
            self._barrier.abort(RecordUnavailable("it was replaced by another one"))
        self._epoch = epoch
        self._server = server
        self._newest = noted
        self._barrier.advance(noted)
        self._lost = self._another_record = False

    def _on_device(self, call: Callable[[], object]) -> None:
        with self._heartbeat.paused():
            self.device.change(call).result()

    @property
    def _silent_since(self) -> float | None:
        """When the record stopped answering; None where it answers."""
        if self._down_since is not None:
            return self._down_since
        asked = self._asked_at
        if asked is None or time.monotonic() - asked < WAIT_SECONDS + LONGEST_SILENCE_SECONDS:
            return None
        return asked + WAIT_SECONDS

    def _mark_reachable(self, newest: int) -> None:
        if self._down_since is not None:
            log.warning("the record answers again")
        self._down_since = None
        self._newest = max(self._newest, newest)

    def _mark_unreachable(self, why: str) -> None:
        if self._down_since is None:
            log.warning("searches go on without the record: %s", why)
            self._down_since = time.monotonic()
        self._why_down = why
