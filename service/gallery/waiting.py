"""Enrollments that wait for their gallery."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence

from service.ops.locks import WORKS_BY
from service.ops.threads import CALLER, WAITS_SINCE, TurnQueue
from service.record.values import CommittedEnrollment, EnrollmentRequest

Outcome = CommittedEnrollment | Exception
# Upper bound on the requests of one commit.
REQUESTS_AT_ONCE = 64


class WaitingEnrollments:
    """Commits requests that wait for the same gallery together; used on the event loop only.

    Callers take turns, and the requests of one caller keep their order. A request whose caller was
    cancelled is committed all the same.

    Args:
        commit: commits and shows requests, given with the id of their gallery; returns the outcome
            of each, or raises what none of them survives.
    """

    def __init__(
        self, commit: Callable[[int, Sequence[EnrollmentRequest]], Awaitable[Sequence[Outcome]]]
    ) -> None:
        self._commit = commit
        self._queues: dict[int, TurnQueue] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        return sum(queue.qsize() for queue in list(self._queues.values()))

    async def enroll(self, gallery_id: int, request: EnrollmentRequest) -> CommittedEnrollment:
        committed: asyncio.Future[CommittedEnrollment] = asyncio.get_running_loop().create_future()
        queue = self._queues.get(gallery_id)
        if queue is None:
            queue = self._queues[gallery_id] = TurnQueue()
            task = asyncio.create_task(self._commit_waiting(gallery_id, queue))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)
        queue.put((request, committed, time.monotonic()))
        return await committed

    async def _commit_waiting(self, gallery_id: int, queue: TurnQueue) -> None:
        # These commits must not wait for other writes of the caller whose request was the first.
        CALLER.set(f"enrollments of gallery {gallery_id}")
        # They are nobody's work alone; those of an import that runs twice land once by their names.
        WORKS_BY.set(None)
        try:
            while count := min(queue.qsize(), REQUESTS_AT_ONCE):
                waiting = [queue.get_nowait() for _ in range(count)]
                WAITS_SINCE.set(min(since for _, _, since in waiting))
                outcomes: Sequence[Outcome]
                try:
                    requests = [request for request, _, _ in waiting]
                    outcomes = await self._commit(gallery_id, requests)
                except Exception as error:
                    outcomes = [error] * count
                for (_, committed, _), outcome in zip(waiting, outcomes, strict=True):
                    _set_outcome(committed, outcome)
        finally:
            del self._queues[gallery_id]


def _set_outcome(committed: asyncio.Future[CommittedEnrollment], outcome: Outcome) -> None:
    if committed.cancelled():
        return
    if isinstance(outcome, Exception):
        committed.set_exception(outcome)
    else:
        committed.set_result(outcome)
