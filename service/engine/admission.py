"""The door: how many images may be inside at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from service.errors import QueueFull
from service.ops.metrics import Metrics

RETRY_AFTER_SECONDS = 1


class Admission:
    """Counts images from their acceptance to their answer; lives on the event loop."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._inside = 0
        self._received = 0
        self._gauge = metrics.queued_images

    @contextlib.contextmanager
    def door(self) -> Iterator[None]:
        """Holds the door while the block, a request that will want a place, is received.

        Whoever is received will want one at least, so that as many as there are places are enough.

        Raises:
            QueueFull: at once, where there is no place left, or none will be.
        """
        taken = max(self._inside, self._received)
        if taken >= self._limit:
            raise QueueFull(taken, 1, self._limit, RETRY_AFTER_SECONDS)
        self._received += 1
        try:
            yield
        finally:
            self._received -= 1

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
