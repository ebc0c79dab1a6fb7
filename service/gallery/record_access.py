"""Asking the record from the event loop: writes in a row, reads beside them, never for long."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import replace
from typing import TypeVar

from service.errors import DamagedRecord, DamagedRedisRecord, RecordUnavailable, ServiceError
from service.gallery.gallery import Gallery
from service.gallery.index_updates import Confirmation, IndexUpdates
from service.ops.failpoints import failpoint
from service.ops.pulse import Stage, WatchedPool
from service.record.records import CropLabel

log = logging.getLogger(__name__)
READ_THREADS = 2
# Searches ask beside whatever else is read, and go on without the record where that takes long.
CONFIRMING_THREADS = 4
CONFIRMED_WITHIN_SECONDS = 1.0
LOOK_EVERY_SECONDS = 0.5
# So long what is under way waits for a record that does not answer; what comes then is refused.
PATIENCE_SECONDS = 2.0
Result = TypeVar("Result")
Change = TypeVar("Change")


class RecordAccess:
    """One thread that writes and a few that read.

    Where the record is known not to answer, calls are refused at once and nothing waits for it.
    """

    def __init__(self, updates: IndexUpdates, answers_within: float = 0.0) -> None:
        """Starts no thread yet.

        Args:
            updates: brings what is committed into the indexes.
            answers_within: seconds after which the record is given up by its own client, before
                which no thread that asks it is stuck.
        """
        self._updates = updates
        self._answers_within = answers_within
        self._writer = WatchedPool(1, "writer")
        self._readers = WatchedPool(READ_THREADS, "reader")
        self._confirmers = WatchedPool(CONFIRMING_THREADS, "confirmer")

    @property
    def stages(self) -> tuple[Stage, ...]:
        """Its threads, for the watchdog."""
        pools = {"writer": self._writer, "readers": self._readers, "confirmers": self._confirmers}
        return tuple(
            Stage(f"record {name}", pool.silent_seconds, self._answers_within)
            for name, pool in pools.items()
        )

    async def commit(
        self,
        steps: str,
        write: Callable[[], Change],
        begin: Callable[[Change], Future[None]],
    ) -> Change:
        """Commits a change, and returns once the indexes show it.

        Args:
            steps: where it can be made to fail.
            write: commits it; on the writer thread.
            begin: begins to apply it, where this process alone does; on the writer thread too.

        Raises:
            RecordUnavailable: where the record does not answer; it may have happened or not.
        """

        def commit() -> tuple[Change, Future[None]]:
            failpoint(f"{steps}.before-commit")
            committed = write()
            failpoint(f"{steps}.committed")
            return committed, self._updates.shown(lambda: begin(committed))

        committed, shown = await self.write(commit)
        # Who gives up waiting leaves it to be shown all the same, and hears no more of it.
        showing = asyncio.wrap_future(shown)
        showing.add_done_callback(lambda done: done.cancelled() or done.exception())
        await self._patiently(showing)
        failpoint(f"{steps}.shown")
        return committed

    async def write(self, call: Callable[[], Result]) -> Result:
        """Runs a call on the writer thread, after those that came before.

        Raises:
            RecordUnavailable: where the record is known not to answer.
        """
        return await self._run(self._writer, call)

    async def read(self, call: Callable[[], Result]) -> Result:
        """Runs a call on a reader thread; raises `RecordUnavailable` as `write` does."""
        return await self._run(self._readers, call)

    def write_later(self, call: Callable[[], None]) -> None:
        """Queues a call for the writer thread that nobody waits for; its failure is logged."""

        def logged() -> None:
            try:
                self._updates.require_record()
                call()
            except ServiceError as error:
                log.warning("a write that nobody waits for failed: %s", error.detail)
            except Exception:
                log.exception("a write that nobody waits for failed")

        # A service that is stopping takes no more of them.
        with contextlib.suppress(RuntimeError):
            self._writer.submit(logged)

    async def confirm(self, gallery: Gallery, crops: Sequence[CropLabel]) -> Confirmation:
        """Asks whether crops that a search found are still there, and for their records.

        Where the record does not answer in time the search is answered from memory.

        Raises:
            UnknownGallery: the gallery was deleted.
        """
        state = self._updates.state
        if not state.up:
            return Confirmation(stale=True)
        if not crops:
            return Confirmation(stale=state.stale)
        asked = list(crops)
        asking = asyncio.get_running_loop().run_in_executor(
            self._confirmers, lambda: self._updates.confirm(gallery, asked)
        )
        try:
            said = await asyncio.wait_for(asking, CONFIRMED_WITHIN_SECONDS)
        except (RecordUnavailable, TimeoutError):
            self._updates.doubt()
            return Confirmation(stale=True)
        except (DamagedRecord, DamagedRedisRecord) as damage:
            log.error("the records of a search's results cannot be read: %s", damage.detail)
            return Confirmation(stale=True)
        return replace(said, stale=said.stale or state.stale)

    def close(self) -> None:
        """Finishes what is under way."""
        for pool in (self._writer, self._readers, self._confirmers):
            pool.shutdown()

    async def _run(self, pool: WatchedPool, call: Callable[[], Result]) -> Result:
        self._updates.require_record()

        def run() -> Result:
            # While this waited for its turn the record may have gone.
            self._updates.require_record()
            return call()

        running = asyncio.get_running_loop().run_in_executor(pool, run)
        try:
            return await self._patiently(running)
        except BaseException:
            # One whose turn has not come is never begun, and nobody asks what became of another.
            running.cancel()
            raise

    async def _patiently(self, asked: asyncio.Future[Result]) -> Result:
        """Waits for something, but not for a record that has fallen silent."""
        while not (await asyncio.wait({asked}, timeout=LOOK_EVERY_SECONDS))[0]:
            self._updates.require_record(PATIENCE_SECONDS)
        return asked.result()
