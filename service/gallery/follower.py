"""Follows a record that several processes write: one thread reads its changes and applies them.

This is the only way by which the indexes of such a process change, its own writes included. A
gallery's version is therefore never ahead of what its index shows. Every change is applied on the
device thread, in the order of the record; applying one twice does no more than once.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from functools import partial

from gmn_client.answers import RecordState
from service.engine.device import DeviceThread
from service.errors import RecordUnavailable, ServiceStopping, UnknownGallery
from service.gallery.followed_changes import in_parts, read_changes
from service.gallery.gallery import Gallery
from service.gallery.held_galleries import HeldGalleries, LoadedGallery
from service.gallery.index_updates import Confirmation, Learner
from service.gallery.waiting import Waiting
from service.ops.failpoints import failpoint
from service.ops.pulse import DEAD, Pulse, Stage, beat
from service.record.changes import Change, ChangesLost
from service.record.engine import ChangeStream
from service.record.record import Record
from service.record.records import CropLabel

log = logging.getLogger(__name__)
CHANGES_PER_READ = 256
WAIT_SECONDS = 0.5
# A client gives up later, and asks again: whoever waits meanwhile is told earlier.
LONGEST_SILENCE_SECONDS = 2.0
FIRST_PAUSE_SECONDS, LONGEST_PAUSE_SECONDS = 0.05, 1.0
# Reading everything again and again costs more than a read that was refused.
LONGEST_REST_SECONDS = 60.0
# So long a write that is committed waits for a record that does not answer before it is told.
WRITERS_PATIENCE_SECONDS = 5.0
CLOSING_SECONDS = 5.0
# After less its client gives Redis up: three tries of five seconds each, and pauses.
REDIS_SECONDS = 45.0
RETRY_AFTER_SECONDS = 2


class Follower:
    """Implements `IndexUpdates` for a record that several processes share.

    Its thread outlives whatever goes wrong: it tries again after a pause, and reads everything
    again where it cannot tell what it missed.
    """

    def __init__(
        self,
        store: Record,
        changes: ChangeStream,
        held: HeldGalleries,
        device: DeviceThread,
    ) -> None:
        """Starts nothing yet.

        Args:
            store: the record.
            changes: of that record.
            held: the galleries in memory, which nobody else changes.
            device: the thread that owns the indexes.
        """
        self._store = store
        self._changes = changes
        self._held = held
        self._device = device
        self._waiting = Waiting()
        self._closing = threading.Event()
        self._first_load: Future[None] = Future()
        self._thread: threading.Thread | None = None
        self._learner: Learner | None = None
        self._to_learn: dict[int, None] = {}
        self._epoch: str | None = None
        self._server: str | None = None
        self._known = 0
        self._down_since: float | None = None
        self._why_silent = "it does not answer"
        self._asked_at: float | None = None
        self._lost = True
        self._another_record = False
        self._in_step_at = time.monotonic()
        self._pulse = Pulse()

    @property
    def state(self) -> RecordState:
        """How the indexes stand to the record."""
        lag = max(0, self._known - self._waiting.shown)
        silent = self._silent_since is not None
        if not silent and not self._lost and lag == 0:
            return RecordState()
        behind = time.monotonic() - self._in_step_at
        if silent:
            return RecordState(state="unreachable", lag=lag, lag_seconds=behind)
        return RecordState(
            state="reading_again" if self._lost else "catching_up", lag=lag, lag_seconds=behind
        )

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its thread, which only a bug or the end of the service ends."""
        return (Stage("follower", self._silent_seconds, REDIS_SECONDS),)

    def load(self, learner: Learner) -> None:
        """Reads every gallery into memory and catches up with what happened meanwhile; blocks."""
        self._learner = learner
        self._thread = threading.Thread(target=self._run, name="follower", daemon=True)
        self._thread.start()
        self._first_load.result()

    def shown(self, begin: Callable[[], Future[None]]) -> Future[None]:  # noqa: ARG002 - it follows
        """Done once the indexes show the newest change, which comes to them as every other."""
        return self._waiting.until(self._changes.last())

    def caught_up(self) -> Future[None]:
        """Done once the indexes show the newest change."""
        return self._waiting.until(self._changes.last())

    def require_record(self, patience_seconds: float = 0.0) -> None:
        """Raises `RecordUnavailable` where the record has not answered for longer than that."""
        since = self._silent_since
        if since is not None and time.monotonic() - since >= patience_seconds:
            raise RecordUnavailable(self._why_silent, RETRY_AFTER_SECONDS)
        if self._another_record:
            raise RecordUnavailable(
                "it was replaced by another one, which is being read", RETRY_AFTER_SECONDS
            )

    def doubt(self) -> None:
        """Somebody waited for the record in vain: it is taken to be gone until it answers."""
        self._fell_silent("it did not answer in time")

    def confirm(self, gallery: Gallery, crops: list[CropLabel]) -> Confirmation:
        """Asks the record for crops that a search found; blocks."""
        store, number = self._store, gallery.gallery_id
        present = store.crops.by_row(number, [crop.row_id for crop in crops])
        missing = {crop.crop_id: crop.row_id for crop in crops if crop.row_id not in present}
        if not missing:
            return Confirmation()
        if store.galleries.get(number) is None:
            raise UnknownGallery(gallery.name)
        # After a restore crops have other rows: those were not deleted, and are shown until the
        # restored gallery is.
        removed = store.crops.removed_among(number, list(missing))
        gone = frozenset(missing[crop_id] for crop_id in removed)
        return Confirmation(gone, stale=len(gone) < len(missing))

    def close(self) -> None:
        """Ends the thread; one that waits for an answer is left to itself after a while."""
        self._closing.set()
        self._waiting.fail(ServiceStopping("the service is shutting down; send it again later"))
        if self._thread is not None:
            self._thread.join(CLOSING_SECONDS)

    def _silent_seconds(self) -> float:
        if self._thread is None or not self._thread.is_alive():
            return DEAD
        return self._pulse.silent_seconds()

    def _run(self) -> None:
        with self._pulse.working():
            self._go_on()

    def _go_on(self) -> None:
        pause = FIRST_PAUSE_SECONDS
        while not self._closing.is_set():
            try:
                beat()
                if self._lost:
                    self._read_everything()
                self._follow()
                pause = FIRST_PAUSE_SECONDS
            except ServiceStopping:
                return
            except RecordUnavailable as error:
                self._unreachable(error)
                pause = self._rest(pause, LONGEST_PAUSE_SECONDS)
            except ChangesLost as lost:
                log.warning("the record's changes cannot be followed: %s", lost.detail)
                self._lost = True
                pause = self._rest(pause, LONGEST_PAUSE_SECONDS)
            except Exception as error:
                if not self._first_load.done():
                    # Nobody is served yet, and whoever starts the service has to know.
                    self._first_load.set_exception(error)
                    return
                log.exception("changes could not be applied; everything is read again")
                self._lost = True
                pause = self._rest(pause, LONGEST_REST_SECONDS)

    def _follow(self) -> None:
        """Reads what is new, waiting a little for it, and applies it."""
        found = self._read_changes()
        self._reached(found[-1].sequence if found else self._waiting.shown)
        for part in in_parts(found):
            changes = read_changes(self._store, self._held, part)
            failpoint("follower.changes-read")
            self._on_device(partial(changes.apply, self._held, self._told))
            if not self._first_load.done():
                failpoint("replica.replayed")
            failpoint("follower.changes-applied")
            self._to_learn.update(dict.fromkeys(changes.learnt))
            self._waiting.show(part[-1].sequence)
        self._learn()
        if len(found) < CHANGES_PER_READ:
            self._in_step_at = time.monotonic()
            if not self._first_load.done():
                self._first_load.set_result(None)
        else:
            self._known = max(self._known, self._changes.last())

    def _read_changes(self) -> list[Change]:
        wait = WAIT_SECONDS if self._first_load.done() else 0.0
        self._asked_at = time.monotonic()
        try:
            found = self._changes.after(self._waiting.shown, CHANGES_PER_READ, wait)
            # Asked afterwards: the changes were then answered by this process or an earlier one.
            server = self._changes.server()
        finally:
            self._asked_at = None
        if server != self._server:
            raise ChangesLost(
                "another process of the record's server answers, which may hold an older copy"
            )
        return found

    def _read_everything(self) -> None:
        """Reads every gallery beside the one that is searched, and switches to it."""
        if self._epoch is not None and self._changes.last() == 0:
            raise RecordUnavailable(
                "it is empty; put its data back, or restart the service to begin with nothing",
                RETRY_AFTER_SECONDS,
            )
        # Until it is read, nothing is written to what may be another record with the same numbers.
        self._another_record = self._epoch is not None
        epoch, server = self._changes.epoch(), self._changes.server()
        self._another_record = self._epoch not in (None, epoch)
        noted, known = self._changes.last(), self._known
        self._reached(noted)
        failpoint("replica.noted")
        kept = self._read_galleries()
        failpoint("replica.scanned")
        if self._changes.server() != server:
            raise ChangesLost("the record's server was restarted while everything was read")
        for gallery in self._held.all():
            if gallery.gallery_id not in kept:
                self._on_device(partial(self._held.drop, gallery.gallery_id))
        if self._another_record or noted < known:
            # What was waited for may never come.
            self._waiting.fail(
                RecordUnavailable("it was replaced by another one", RETRY_AFTER_SECONDS)
            )
        self._epoch, self._server, self._known = epoch, server, noted
        self._waiting.show(noted)
        self._lost = self._another_record = False
        self._to_learn = dict.fromkeys(kept)

    def _read_galleries(self) -> set[int]:
        """One after another, so that one at a time is twice in memory; answers their numbers."""
        kept = set()
        for record in self._store.galleries.all():
            loaded = self._held.read(record.gallery_id)
            if loaded is not None:
                self._on_device(partial(self._show, loaded))
                kept.add(record.gallery_id)
        return kept

    def _show(self, loaded: LoadedGallery) -> None:
        before = self._held.by_id(loaded.record.gallery_id)
        made_by = before.embedding_fingerprint if before else None
        gallery = self._held.show(loaded)
        if gallery.embedding_fingerprint != made_by:
            self._told.forget(gallery)

    def _learn(self) -> None:
        while self._to_learn:
            number = next(iter(self._to_learn))
            gallery = self._held.by_id(number)
            try:
                if gallery is not None:
                    self._told.follow(gallery)
            except RecordUnavailable:
                raise
            except Exception:
                # Verdicts go on by what was learnt before.
                log.exception("what gallery %s has learnt cannot be followed", number)
            del self._to_learn[number]

    @property
    def _silent_since(self) -> float | None:
        """When the record ceased to answer; None where it does."""
        if self._down_since is not None:
            return self._down_since
        asked = self._asked_at
        if asked is None or time.monotonic() - asked < WAIT_SECONDS + LONGEST_SILENCE_SECONDS:
            return None
        return asked + WAIT_SECONDS

    @property
    def _told(self) -> Learner:
        if self._learner is None:
            raise RuntimeError("load comes before following")
        return self._learner

    def _on_device(self, call: Callable[[], object]) -> None:
        self._device.submit(call).result()

    def _reached(self, newest: int) -> None:
        if self._down_since is not None:
            log.warning("the record answers again")
        self._down_since = None
        self._known = max(self._known, newest)

    def _rest(self, seconds: float, longest: float) -> float:
        """Waits before the next try; answers for how long to wait after it."""
        with self._pulse.resting():
            self._closing.wait(min(seconds, longest))
        return min(2 * seconds, longest)

    def _fell_silent(self, why: str) -> None:
        if self._down_since is None:
            log.warning("searches go on without the record: %s", why)
            self._down_since = time.monotonic()
        self._why_silent = why

    def _unreachable(self, problem: RecordUnavailable) -> None:
        self._fell_silent(problem.why)
        if time.monotonic() - self._in_step_at > WRITERS_PATIENCE_SECONDS:
            self._waiting.fail(problem)
