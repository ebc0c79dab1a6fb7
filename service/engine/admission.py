"""Admission: the cost of a request, and a budget of cost in flight with a share for each caller.

The unit is a megapixel that is decoded; costs are known from headers, before anything is decoded.
Prices follow time and memory on one core: a megapixel takes 4 to 48 ms to decode and 118 to 284 ms
to encode as PNG (`bench.costs` of revision 4f53b8d); an image takes 5 ms (`small`) or 14 ms
(`bundled`) to embed (`gmn bench embed`), and a pair 2 µs (`gmn bench pairs`), or 20 µs beside other
work.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator

from model.crops.decode import CropProblem, announced_pixels
from model.crops.frames import FrameCrop, ImageFile
from service.errors import QueueFull, TooCostly
from service.ops.metrics import Metrics
from service.ops.threads import CALLER

MEGAPIXEL = 1_000_000
# Work above this size runs in a separate pool, so that small crops never wait for it.
LARGE_PIXELS = 2_000_000
# A frame stays in memory until the crops of its boxes are embedded.
PER_FRAME_MEGAPIXEL = 2.0
# Priced below its actual time: only enrollments encode cut crops, and they do so in the large pool.
PER_CUT_MEGAPIXEL = 2.0
PER_IMAGE = 0.5
# One pass of the detector of people takes 15 to 25 ms.
PER_DETECTOR_PASS = 2.0
PER_PAIR = 0.001
# Price of comparing one sighting with one crop of a watch list: 250,000 comparisons took 32 ms for
# one sighting and 69 ms for sixteen together.
PER_COMPARISON = 1e-5
# Price of a result without and with its vector, as objects and as JSON: 3 kB and 40 kB.
PER_RESULT = 0.002
PER_VECTOR = 0.01
# Number of requests that may wait, of all callers together.
MAX_WAITING = 64
MAX_WAIT_SECONDS = 5.0
# A caller that holds less holds nothing.
SMALLEST_COST = 1e-6
Waiting = tuple[float, asyncio.Future[None]]


def pixels_of(image: ImageFile, max_pixels: int) -> int:
    """Return the number of pixels to decode or cut for an image; 0 if the image is refused.

    Args:
        image: a file, a crop of a frame, or a problem.
        max_pixels: limit of one image, assumed if the header cannot be read.
    """
    if isinstance(image, CropProblem):
        return 0
    if isinstance(image, FrameCrop):
        frame = pixels_of(image.frame.file, max_pixels)
        return min(frame, max(0, image.width) * max(0, image.height))
    announced = announced_pixels(image)
    if announced is None:
        return max_pixels
    return 0 if announced > max_pixels else announced


class Admission:
    """Admit requests while the cost in flight fits a budget; used on the event loop only.

    One caller gets at most half of the budget and half of the waiting places. Waiting requests are
    admitted caller by caller, in turn, and in order within each caller.
    """

    def __init__(self, budget: float, metrics: Metrics) -> None:
        """Start with nothing in flight.

        Args:
            budget: in megapixels.
        """
        self._budget = budget
        self._share = budget / 2
        self._gauge = metrics.cost_in_flight
        self._held: dict[str, float] = {}
        self._waiting: dict[str, deque[Waiting]] = {}

    @property
    def is_busy(self) -> bool:
        return bool(self._held)

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
        """Refuse a request if all places to wait are taken; call this before its body is read.

        Raises:
            QueueFull: too many requests wait, of all callers or of this one.
        """
        waiting = sum(len(queue) for queue in self._waiting.values())
        waiting_of_caller = len(self._waiting.get(CALLER.get(), ()))
        if waiting >= MAX_WAITING or waiting_of_caller >= MAX_WAITING // 2:
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
        if caller in self._waiting or not self._hold(caller, cost):
            await self._wait(caller, cost)
        try:
            yield
        finally:
            self._hold(caller, -cost)
            self._admit_waiting()

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
                self._hold(caller, -cost)
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
                if queue and self._hold(caller, queue[0][0]):
                    _, admitted = queue.popleft()
                    admitted.set_result(None)
                    admitted_any = True
                if queue:
                    self._waiting[caller] = queue

    def _hold(self, caller: str, cost: float) -> bool:
        """Hold a cost, or give it back if negative; return False if there is no room for it."""
        held = self._held.get(caller, 0.0) + cost
        if held > self._share or sum(self._held.values()) + cost > self._budget:
            return False
        self._held[caller] = held
        # Float subtraction can leave a remainder. Drop callers that hold nothing.
        if held <= SMALLEST_COST:
            del self._held[caller]
        self._gauge.set(sum(self._held.values()))
        return True
