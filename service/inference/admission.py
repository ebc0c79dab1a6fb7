"""The door: how many images may be inside at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from service.metrics import Metrics
from service.problems import QueueFull

RETRY_AFTER_SECONDS = 1


class Admission:
    """Counts images from their acceptance to their answer; lives on the event loop."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._inside = 0
        self._gauge = metrics.queued_images

    @contextlib.contextmanager
    def places(self, images: int) -> Iterator[None]:
        """Holds places for some images while the block runs.

        Raises:
            QueueFull: at once, where there are not so many places left.
        """
        if self._inside + images > self._limit:
            raise QueueFull(self._inside, images, self._limit, RETRY_AFTER_SECONDS)
        self._inside += images
        self._gauge.set(self._inside)
        try:
            yield
        finally:
            self._inside -= images
            self._gauge.set(self._inside)
