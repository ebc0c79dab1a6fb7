"""Limits the images in the service: a request that exceeds them is answered 429 at once."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

from service.errors import QueueFull
from service.ops.metrics import Metrics


class Admission:
    """Counts images from their acceptance to their answer; lives on the event loop."""

    def __init__(self, limit: int, metrics: Metrics) -> None:
        self._limit = limit
        self._images = 0
        self._receiving = 0
        self._gauge = metrics.queued_images

    @contextlib.contextmanager
    def request_slot(self) -> Iterator[None]:
        """Holds a slot while a request with images is received: it will need one image slot.

        Raises:
            QueueFull: before the body is read, as there is no slot left for it.
        """
        taken = max(self._images, self._receiving)
        if taken >= self._limit:
            raise QueueFull(taken, 1, self._limit)
        self._receiving += 1
        try:
            yield
        finally:
            self._receiving -= 1

    @contextlib.contextmanager
    def image_slots(self, images: int) -> Iterator[None]:
        """Holds slots for images until they are answered.

        Raises:
            QueueFull: there are not enough slots left.
        """
        if self._images + images > self._limit:
            raise QueueFull(self._images, images, self._limit)
        self._images += images
        self._gauge.set(self._images)
        try:
            yield
        finally:
            self._images -= images
            self._gauge.set(self._images)
