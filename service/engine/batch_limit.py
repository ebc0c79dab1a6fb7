"""How many images go through one forward pass, as the device's memory has it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable

from service.ops.metrics import Metrics

log = logging.getLogger(__name__)
# What else is on the device may go, so that a larger batch is tried again so much later.
GROWS_AFTER_SECONDS = 60.0


class BatchLimit:
    """Halves where memory runs out, and doubles again with time; lives on the device thread."""

    def __init__(
        self, most: int, metrics: Metrics, now: Callable[[], float] = time.monotonic
    ) -> None:
        """As large as it may be.

        Args:
            most: images, whatever memory there is.
            metrics: told of the limit and of every time that memory ran out.
            now: seconds, of a clock that only goes on.
        """
        self._most = self._limit = most
        self._metrics = metrics
        self._now = now
        self._changed = now()
        metrics.batch_limit.set(most)

    def now(self) -> int:
        """Images that are tried together."""
        if self._limit < self._most and self._now() - self._changed >= GROWS_AFTER_SECONDS:
            self._set(min(2 * self._limit, self._most))
        return self._limit

    def ran_out(self, images: int) -> None:
        """So many had no room together."""
        self._metrics.device_out_of_memory.inc()
        log.warning("the device has no memory for a batch of %d images", images)
        self._set(max(1, min(self._limit, images // 2)))

    def _set(self, images: int) -> None:
        self._limit, self._changed = images, self._now()
        self._metrics.batch_limit.set(images)
