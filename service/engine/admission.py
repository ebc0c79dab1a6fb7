"""Admission: a budget of cost in flight, of which each caller has a share."""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from service.errors import QueueFull, TooCostly
from service.ops.metrics import Metrics
from service.ops.turns import CALLER

MAX_WAITING = 64
MAX_WAIT_SECONDS = 5.0
SMALLEST_COST = 1e-6
Waiting = tuple[float, asyncio.Future[None]]


class Admission:
    """Admit requests while the cost in flight fits a budget; used on the event loop only.

    One caller gets at most half of the budget and half of the waiting places. Waiting requests are
    admitted caller by caller, in turn, and in order within each caller.
    """

    def __init__(self, budget: float, metrics: Metrics) -> None:
        """Start with nothing in flight.

        Args:
            budget: in megapixels, see `service.engine.cost`.
        """
        self._budget = budget
        self._share = budget / 2
        self._gauge = metrics.cost_in_flight
        self._held: dict[str, float] = {}
        self._waiting: dict[str, deque[Waiting]] = {}

    def require_affordable(self, cost: float, fields: str, remedy: str) -> None:
        """Refuse a request that costs more than the share of one caller.

        Args:
            fields: fields that make up the cost, for the message.
            remedy: how to ask for less.

        Raises:
            TooCostly: the message has the cost and the limit.
        """
        if cost > self._share:
            raise TooCostly(fields, cost, self._share, remedy)

    def require_place(self) -> None:
        """Refuse a request that could not even wait, before its body is read.

        Raises:
            QueueFull: too many requests wait, of all callers or of this one.
        """
        waiting = sum(len(queue) for queue in self._waiting.values())
        of_caller = len(self._waiting.get(CALLER.get(), ()))
        if waiting >= MAX_WAITING or of_caller >= MAX_WAITING // 2:
            raise QueueFull(waiting)

    @contextlib.asynccontextmanager
    async def admit(self, cost: float) -> AsyncIterator[None]:
        """Hold the cost of the current caller while the block runs.

        A cost above the share of one caller counts as that share, because a job does not split its
        work any further.

        Raises:
            QueueFull: nothing was free within five seconds, or too many requests wait.
        """
        caller = CALLER.get()
        cost = min(cost, self._share)
        if caller not in self._waiting and self._fits(caller, cost):
            self._hold(caller, cost)
        else:
            await self._wait(caller, cost)
        try:
            yield
        finally:
            self._release(caller, cost)

    async def _wait(self, caller: str, cost: float) -> None:
        self.require_place()
        admitted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(caller, deque()).append((cost, admitted))
        try:
            async with asyncio.timeout(MAX_WAIT_SECONDS):
                await admitted
        except TimeoutError as error:
            self._admit_waiting()
            raise QueueFull(sum(len(queue) for queue in self._waiting.values())) from error
        except asyncio.CancelledError:
            # The client disconnected, possibly right after its request was admitted.
            if not admitted.cancelled():
                self._release(caller, cost)
            else:
                self._admit_waiting()
            raise

    def _admit_waiting(self) -> None:
        admitted_any = True
        while admitted_any:
            admitted_any = False
            for caller in list(self._waiting):
                queue = self._waiting.pop(caller)
                while queue and queue[0][1].done():
                    queue.popleft()
                if queue and self._fits(caller, queue[0][0]):
                    cost, admitted = queue.popleft()
                    self._hold(caller, cost)
                    admitted.set_result(None)
                    admitted_any = True
                if queue:
                    self._waiting[caller] = queue

    def _fits(self, caller: str, cost: float) -> bool:
        of_caller = self._held.get(caller, 0.0) + cost
        return of_caller <= self._share and self._in_flight + cost <= self._budget

    def _hold(self, caller: str, cost: float) -> None:
        held = self._held.pop(caller, 0.0) + cost
        # Float subtraction can leave a remainder. Drop callers that hold nothing.
        if held > SMALLEST_COST:
            self._held[caller] = held
        self._gauge.set(self._in_flight)

    def _release(self, caller: str, cost: float) -> None:
        self._hold(caller, -cost)
        self._admit_waiting()

    @property
    def _in_flight(self) -> float:
        return sum(self._held.values())
